"""Histories of a whole deployment on virtual third parties: each ends exact, whatever its seed drew."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from spendstream.core.aggregates import Aggregates
from spendstream.core.dedupe import SeenIds
from tests.simulation import history
from tests.simulation.history import History, Plan

HISTORIES = 800
AT_A_TIME = 50


def run(seeds: range) -> None:
    for seed in seeds:
        History(seed).run()


@pytest.mark.parametrize("first", range(0, HISTORIES, AT_A_TIME))
def test_every_history_ends_exact(first: int) -> None:
    run(range(first, first + AT_A_TIME))


COMPACTED = Plan(1, 2, 24, True, 1.0, ((1.3, "expel"), (4.0, "compact"), (4.05, "kill"), (4.06, "kill")))
FOUND: dict[str, tuple[int, Plan | None]] = {
    "an expelled worker's older total is the last of its key, and compaction leaves it alone": (49, COMPACTED),
    "a recovery outlives its assignment, and a batch is metered under the next": (876, None),
}
"""What histories found, each with its seed, and its plan where it was made smaller by hand."""


@pytest.mark.parametrize(("seed", "plan"), FOUND.values(), ids=FOUND)
def test_what_was_found_once_stays_fixed(seed: int, plan: Plan | None) -> None:
    History(seed, given=plan).run()


def test_rollups_need_the_lag_of_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``min.compaction.lag.ms`` 10 of 17 calls were lost from a total, and no one said so."""
    monkeypatch.setattr(history, "COMPACTION_WAITS", False)
    with pytest.raises(AssertionError, match=re.escape("{'calls': (7, 17)")):
        History(49, given=COMPACTED).run()


def test_a_seed_is_one_history() -> None:
    """What a failure prints must be what happens again."""
    once, again = History(20).run(), History(20).run()
    assert once.trace == again.trace
    assert once.logged == again.logged
    assert once.clickhouse.tables == again.clickhouse.tables
    assert once.loop.now_s == again.loop.now_s


def _nothing_restored(self: Aggregates, *_: Any) -> None:
    pass


def _nothing_relearned(self: SeenIds, *_: Any) -> None:
    pass


def _restored_last(self: Aggregates, key: Any, totals: Any, rollups_from: int) -> None:
    window = self._windows.get((key.minute_us, key.block))
    if window is not None and key.dimensions in window.rows:
        self._totals[window.rows[key.dimensions]] = 0
    RESTORE(self, key, totals, rollups_from)


RESTORE = Aggregates.restore
BUGS: list[tuple[type, str, Callable[..., Any]]] = [
    (Aggregates, "restore", _nothing_restored),
    (Aggregates, "restore", _restored_last),
    (SeenIds, "relearn", _nothing_relearned),
]


@pytest.mark.parametrize(("place", "name", "bug"), BUGS, ids=[bug.__name__ for _, _, bug in BUGS])
def test_the_model_sees_a_bug(place: type, name: str, bug: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that nothing can fail would prove nothing."""
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(AssertionError, match="seed "):
        run(range(200))
