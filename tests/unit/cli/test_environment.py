"""Commands find an embedded stack nearby, unless the environment names another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from spendstream.cli import environment


@pytest.fixture
def stack_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "adopted", None)
    path = tmp_path / ".spendstream" / "state" / "env"
    path.parent.mkdir(parents=True)
    path.write_text(
        "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:2\nCLICKHOUSE_URL=http://127.0.0.1:3\nRATE_CARDS=/a b/c#d=e.yaml\n"
    )
    return path


def test_the_stack_of_a_parent_folder_is_found(stack_env: Path, tmp_path: Path) -> None:
    below = tmp_path / "one" / "two"
    below.mkdir(parents=True)
    environ: dict[str, str] = {}
    environment.adopt_running_stack(environ, below)
    assert environ["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:2"
    assert environ["RATE_CARDS"] == "/a b/c#d=e.yaml"
    assert environment.adopted == stack_env


def test_variables_of_the_environment_take_precedence_over_the_file(stack_env: Path, tmp_path: Path) -> None:
    environ = {"RATE_CARDS": "mine.yaml"}
    environment.adopt_running_stack(environ, tmp_path)
    assert environ["RATE_CARDS"] == "mine.yaml"
    assert environ["CLICKHOUSE_URL"] == "http://127.0.0.1:3"


@pytest.mark.parametrize("name", ["KAFKA_BOOTSTRAP_SERVERS", "CLICKHOUSE_URL"])
def test_one_address_in_the_environment_excludes_the_whole_file(stack_env: Path, tmp_path: Path, name: str) -> None:
    environ = {name: "elsewhere"}
    environment.adopt_running_stack(environ, tmp_path)
    assert environ == {name: "elsewhere"}
    assert environment.adopted is None


def test_without_a_stack_nothing_is_adopted(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    environment.adopt_running_stack(environ, tmp_path)
    assert "KAFKA_BOOTSTRAP_SERVERS" not in environ


def test_comments_and_lines_without_an_equals_sign_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("# A=1\n\nnonsense\nB=2\nC=\n")
    assert environment.read_env_file(path) == {"B": "2", "C": ""}
