"""The newest minutes: each is yielded once, late changes too, and a snapshot keeps them all."""

from __future__ import annotations

import numpy as np

from spendstream.core.detect.reasons import KEPT_MINUTES, RecentMinutes
from spendstream.core.detect.rollups import Changes
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.measures import COLUMN, SUMS
from tests.unit.detect.rollup_log import minute

CALLS = COLUMN["calls"]


def changes(at: int, **calls: int) -> Changes:
    """Calls by combination, ``c0=3`` is three of combination 0, in one minute."""
    sums = np.zeros((len(calls), len(SUMS)), dtype=np.int64)
    sums[:, CALLS] = list(calls.values())
    members = np.array([int(name[1:]) for name in calls], dtype=np.int64)
    return Changes(members, np.full(len(calls), minute(at), dtype=np.int64), sums)


def closed(recent: RecentMinutes, at: int, seconds: float = 20) -> list[tuple[int, dict[int, int]]]:
    """What closes when the clock is at some seconds of a minute."""
    now_us = minute(at) + round(seconds * US)
    return [
        ((minute_us - minute(0)) // MINUTE_US, dict(zip(members.tolist(), sums[:, CALLS].tolist(), strict=True)))
        for minute_us, members, sums in recent.close(now_us)
    ]


def test_a_minute_is_yielded_once_after_it_has_closed() -> None:
    recent = RecentMinutes()
    recent.add(changes(0, c0=3, c2=1), minute(0))
    recent.add(changes(0, c0=2), minute(0))
    assert closed(recent, 1, 14.9) == []
    assert closed(recent, 1, 15) == [(0, {0: 5, 2: 1})]
    assert closed(recent, 1, 30) == []


def test_an_empty_minute_between_two_others_is_yielded_too() -> None:
    recent = RecentMinutes()
    recent.add(changes(0, c0=1), minute(0))
    recent.add(changes(2, c0=1), minute(2))
    assert closed(recent, 3) == [(0, {0: 1}), (1, {}), (2, {0: 1})]


def test_the_time_before_the_first_call_is_not_an_empty_history() -> None:
    recent = RecentMinutes()
    assert closed(recent, 5) == []
    recent.add(changes(5, c0=4), minute(5))
    assert closed(recent, 6) == [(5, {0: 4})]


def test_late_changes_are_yielded_before_the_next_minute() -> None:
    recent = RecentMinutes()
    recent.add(changes(0, c0=1), minute(0))
    closed(recent, 1)
    recent.add(changes(0, c0=7), minute(1))
    recent.add(changes(1, c0=2), minute(1))
    assert closed(recent, 2) == [(0, {0: 7}), (1, {0: 2})]


def test_a_snapshot_keeps_minutes_and_late_changes_and_what_was_yielded() -> None:
    recent = RecentMinutes()
    recent.add(changes(0, c0=1), minute(0))
    closed(recent, 1)
    recent.add(changes(0, c1=7), minute(1))
    recent.add(changes(1, c0=2), minute(1))
    successor = RecentMinutes()
    successor.restore(recent.snapshot(), np.array([5, 6]))
    assert closed(successor, 2) == [(0, {6: 7}), (1, {5: 2})]


def test_changes_older_than_the_kept_minutes_are_dropped() -> None:
    recent = RecentMinutes()
    recent.add(changes(0, c0=1), minute(KEPT_MINUTES) + US)
    assert recent.members().tolist() == []


def test_evidence_is_the_last_closed_minutes_or_else_the_running_one() -> None:
    recent = RecentMinutes()
    for at in range(6):
        recent.add(changes(at, c0=1), minute(at))
    now_us = minute(5) + 20 * US
    assert recent.evidence(minute(0), now_us) == [minute(2), minute(3), minute(4)]
    assert recent.evidence(minute(4), now_us) == [minute(4)]
    assert recent.evidence(minute(5), now_us) == [minute(5)]


def test_only_wanted_combinations_are_summed() -> None:
    recent = RecentMinutes()
    recent.add(changes(0, c0=1, c1=2), minute(0))
    recent.add(changes(1, c1=3, c2=4), minute(1))
    members, sums = recent.of([minute(0), minute(1)], np.array([False, True, True]))
    assert (members.tolist(), sums[:, CALLS].tolist()) == ([1, 2], [5, 4])
