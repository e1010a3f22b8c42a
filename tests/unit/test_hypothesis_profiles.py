"""``make test`` draws the same everywhere and replays what ``make fuzz`` found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests import conftest

LAWS = """
from pathlib import Path
from hypothesis import given, strategies as st
from subject import is_right

DRAWS = Path(__file__).with_name("draws").open("a")

@given(st.sampled_from(range(500)))
def test_law(n):
    print(n, file=DRAWS)
    assert is_right(n)

@given(st.integers())
def test_other(n):
    print(n, file=DRAWS)
"""


def project(path: Path, subject: str) -> Path:
    """Write a project with our conftest.py and a law about a subject."""
    path.mkdir()
    shutil.copy(conftest.__file__, path / "conftest.py")
    (path / "test_law.py").write_text(LAWS)
    (path / "subject.py").write_text(subject)
    return path


def passes(path: Path, *options: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(path), str(path)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command += ["-p", "_hypothesis_pytestplugin", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    assert ("AssertionError" in run.stdout) == bool(run.returncode)
    return run.returncode == 0


def test_make_test_draws_alike_everywhere_and_replays_what_make_fuzz_found(tmp_path: Path) -> None:
    right = "def is_right(n): return True"
    one, two = project(tmp_path / "one", right), project(tmp_path / "two", f"{right}\nCONSTANTS = 123_457, 765_433\n")
    assert passes(one)
    assert passes(two)
    drawn = (one / "draws").read_text().split()
    assert (two / "draws").read_text().split() == drawn
    missed = max(set(range(500)) - set(map(int, drawn)))
    (one / "subject.py").write_text(f"def is_right(n): return n != {missed}")
    assert passes(one)
    assert not passes(one, "--hypothesis-profile=fuzz")
    assert not passes(one)
    (one / "subject.py").write_text(right)
    assert passes(one, "--hypothesis-profile=fuzz")
    assert not [each for each in (one / "examples").rglob("*") if each.is_file()]
