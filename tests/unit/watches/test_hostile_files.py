"""A mangled file is read or refused, whatever stands in it; never a crash of the worker that reloads it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from spendstream.core.documents import Issue
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS
from spendstream.watches import WatchesError, read_watches

EXAMPLE = (Path(__file__).parents[3] / "infra" / "watches" / "example.yaml").read_text().splitlines()
LINES = [line.split(" #")[0] for line in EXAMPLE if line.strip() and not line.lstrip().startswith("#")]
STRANGE = (
    *(
        "{}",
        "[]",
        "null",
        "nan",
        "-1",
        "''",
        "[[a]]",
        "{a: {b: c}}",
        "? {a: b}",
        "!!python/object:os",
        "*x",
        "&x",
        "\x00",
    ),
    *("[", "}", "kind: [x]", "name: {a: b}", "true", "1e999", "9" * 400, "<<: {}", "- ", "é"),
)


@pytest.mark.parametrize("seed", range(50))
def test_a_mangled_file_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = list(LINES)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        key, colon, _value = lines[at].partition(":")
        lines[at] = rng.choice(("", lines[at] + rng.choice(STRANGE), f"{key}{colon} {rng.choice(STRANGE)}"))
    file = tmp_path / "mangled.yaml"
    file.write_text("\n".join(lines))
    places = [(issue.line, issue.column, issue.message) for issue in issues_of(file)]
    assert all(line >= 1 and column >= 1 and message for line, column, message in places)


def issues_of(file: Path) -> tuple[Issue, ...]:
    try:
        read_watches(file, DEFAULT_DIMENSIONS)
    except WatchesError as refused:
        return refused.issues
    return ()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"watches: \xc3", b"\x00", b"", b"%YAML 9.9\n---\na", b"--- a\n--- b"]
)
def test_bytes_that_are_no_watches_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WatchesError):
        read_watches(tmp_path / "bytes.yaml", content=content)
