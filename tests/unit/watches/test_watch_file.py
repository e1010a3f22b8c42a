"""An edited file takes effect by itself; a file with a mistake changes nothing and stops nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spendstream.schemas.rollup import DEFAULT_DIMENSIONS
from spendstream.schemas.watch import Watches
from spendstream.watches import WatchesInvalid, WatchFile
from tests.unit.watches.documents import COST, write

OTHER = COST.replace("name: cost", "name: other")
WRONG = COST.replace("kind: anomaly", "kind: anomoly")
MUCH_LATER = 9e9


def names(watches: Watches | None) -> list[str] | None:
    return None if watches is None else [watch.name for watch in watches.watches]


def held(folder: Path, text: str = COST) -> WatchFile:
    return WatchFile(write(folder, text), DEFAULT_DIMENSIONS)


def test_an_edit_takes_effect_once(tmp_path: Path) -> None:
    file = held(tmp_path)
    assert file.changed() is None
    write(tmp_path, OTHER)
    assert names(file.changed()) == names(file.watches) == ["other"]
    assert file.changed() is None


def test_a_mistake_keeps_the_previous_watches_and_is_reported_once(tmp_path: Path) -> None:
    file = held(tmp_path)
    write(tmp_path, WRONG)
    assert file.changed() is None
    assert names(file.watches) == ["cost"]
    assert file.problem is not None
    assert "4:18: watches.cost.rule.kind: unknown kind anomoly" in file.problem
    first, file.problem = file.problem, "untouched since"
    assert file.changed() is None
    assert file.problem == "untouched since"
    write(tmp_path, WRONG + "# still wrong\n")
    assert file.changed() is None
    assert file.problem == first


def test_fixing_the_mistake_takes_effect_and_undoing_it_clears_the_problem(tmp_path: Path) -> None:
    file = held(tmp_path)
    write(tmp_path, WRONG)
    file.changed()
    write(tmp_path, COST)
    assert file.changed() is None  # the watches in force are these already
    assert file.problem is None
    write(tmp_path, WRONG)
    file.changed()
    write(tmp_path, OTHER)
    assert names(file.changed()) == ["other"]
    assert file.problem is None


def test_a_comment_changes_nothing(tmp_path: Path) -> None:
    file = held(tmp_path)
    write(tmp_path, "# by the finance team\n" + COST)
    assert file.changed() is None
    assert file.problem is None


def test_a_missing_file_keeps_the_watches_until_it_is_back(tmp_path: Path) -> None:
    file = held(tmp_path)
    file.path.unlink()
    assert file.changed() is None
    assert file.problem is not None
    assert "can't be read" in file.problem
    write(tmp_path, OTHER)
    assert names(file.changed()) == ["other"]


def test_a_replaced_file_takes_effect(tmp_path: Path) -> None:
    """As editors and mounted configuration do."""
    file = held(tmp_path)
    new = tmp_path / "new.yaml"
    new.write_text(OTHER)
    new.replace(file.path)
    assert names(file.changed()) == ["other"]


def test_an_edit_within_one_tick_of_the_file_systems_clock_is_seen(tmp_path: Path) -> None:
    file = held(tmp_path)
    stamp = file.path.stat()
    write(tmp_path, COST.replace("cost", "tsoc"))
    os.utime(file.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert names(file.changed()) == ["tsoc"]


def test_an_unchanged_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = WatchFile(write(tmp_path, COST), clock=lambda: MUCH_LATER)
    reads: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or OTHER.encode())
    assert file.changed() is None
    assert reads == []
    os.utime(file.path, (1, 1))
    assert names(file.changed()) == ["other"]


def test_a_dimension_that_the_rollups_lack_is_a_mistake(tmp_path: Path) -> None:
    file = held(tmp_path)
    write(tmp_path, COST.replace("[team]", "[customer]"))
    assert file.changed() is None
    assert "customer is not a dimension" in str(file.problem)


def test_a_notifier_whose_variable_is_unset_is_a_mistake(tmp_path: Path) -> None:
    file = WatchFile(write(tmp_path, COST), environ={"SET": "https://x"})
    notifier = "notifiers:\n  - {name: n, kind: slack, url_env: NAME}\n"
    write(tmp_path, COST + notifier.replace("NAME", "UNSET"))
    assert file.changed() is None
    assert file.problem == "notifier n: the environment variable UNSET is not set"
    write(tmp_path, COST + notifier.replace("NAME", "SET"))
    assert file.changed() is not None


def test_a_file_with_a_mistake_at_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WatchesInvalid):
        held(tmp_path, WRONG)
