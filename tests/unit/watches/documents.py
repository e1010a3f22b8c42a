"""Watches files for tests."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from spendstream.schemas.rollup import DEFAULT_DIMENSIONS
from spendstream.watches import WatchesInvalid, read_watches

COST = """\
watches:
  - name: cost
    group_by: [team]
    rule: {kind: anomaly}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "watches.yaml"
    file.write_text(text)
    return file


def found_in(
    folder: Path, text: str, dimensions: Collection[str] | None = DEFAULT_DIMENSIONS
) -> list[tuple[int, int, str]]:
    """Line, column and message of every finding."""
    with pytest.raises(WatchesInvalid) as refused:
        read_watches(write(folder, text), dimensions)
    return [(issue.line, issue.column, issue.message) for issue in refused.value.issues]
