"""The threshold rule: above and below, sums and ratios, closed minutes and the running one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.detect.finding import CLOSE_AFTER_US, Level
from spendstream.core.detect.threshold import ThresholdEvaluator
from spendstream.schemas.measures import COST
from spendstream.schemas.watch import ThresholdRule
from tests.unit.detect.spending import DAY, HOUR, MINUTE, at, found, groups, spend, updates

NOON = at("2026-05-05 12:00")
CLOSED = MINUTE + CLOSE_AFTER_US
"""From a minute's open until it closes."""


def threshold(measure: str, *features: str, **rule: Any) -> ThresholdEvaluator:
    return ThresholdEvaluator(ThresholdRule(kind="threshold", measure=measure, **rule), groups(*features))


def call(evaluator: ThresholdEvaluator, time: int, *, now: int | None = None, **measures: int) -> None:
    evaluator.apply(updates([(0, time, {"calls": 1, **measures})]), time if now is None else now)


def level(evaluator: ThresholdEvaluator, now: int) -> Level | None:
    facets = found(evaluator, now)
    return next(iter(facets.values())).level if facets else None


# --- sums per minute


def test_cost_above_fires_within_the_running_minute() -> None:
    evaluator = threshold("cost", above=1, window="5m")
    spend(evaluator, NOON, 5)
    assert level(evaluator, NOON) is None, "exactly the bound"
    spend(evaluator, NOON + 10_000_000, 0.001)
    finding = found(evaluator, NOON + 10_000_000)["above"]
    assert (finding.level, finding.since_us, finding.limit, finding.unit) == (Level.FIRING, NOON, 1, "USD/min")
    assert finding.observed == pytest.approx(1.0002)


def test_cost_above_fires_at_once_when_its_last_part_arrives_just_after_the_minute() -> None:
    evaluator = threshold("cost", above=1, window="1m")
    just_after = NOON + MINUTE + 200_000
    spend(evaluator, NOON, 0.6)
    assert level(evaluator, just_after) is None
    spend(evaluator, NOON, 0.6, now=just_after)
    finding = found(evaluator, just_after)["above"]
    assert (finding.level, finding.since_us) == (Level.FIRING, NOON)
    assert finding.observed == pytest.approx(1.2)


def test_above_ends_once_two_closed_minutes_did_not_hold() -> None:
    evaluator = threshold("cost", above=1, window="1m")
    spend(evaluator, NOON, 5)
    assert level(evaluator, NOON) is Level.FIRING
    assert level(evaluator, NOON + 2 * MINUTE + CLOSED - 1) is Level.FIRING
    for _ in range(2):
        over = found(evaluator, NOON + 2 * MINUTE + CLOSED)["above"]
        assert (over.level, over.since_us) == (Level.NORMAL, NOON)
    assert found(evaluator, NOON + 2 * MINUTE + CLOSED + 1) == {}


def test_one_normal_minute_between_two_breaches_leaves_one_alert() -> None:
    evaluator = threshold("cost", above=1, window="1m")
    for minute in (0, 2, 4):
        spend(evaluator, NOON + minute * MINUTE, 5)
        for second in range(0, 120, 5):
            finding = found(evaluator, NOON + minute * MINUTE + second * 1_000_000)["above"]
            assert (finding.level, finding.since_us) == (Level.FIRING, NOON)


def test_below_looks_at_closed_minutes_of_a_known_group_only() -> None:
    evaluator = threshold("calls", below=3, window="2m")
    for minute in range(4):
        call(evaluator, NOON + minute * MINUTE, calls=3 if minute else 1)  # it began within its first minute
        assert level(evaluator, NOON + minute * MINUTE + 1) is None, minute
        assert level(evaluator, NOON + minute * MINUTE + MINUTE - 1) is None, minute
    call(evaluator, NOON + 4 * MINUTE, calls=1)
    now = NOON + 4 * MINUTE + CLOSED
    assert level(evaluator, now - 1) is None
    finding = found(evaluator, now)["below"]
    assert (finding.level, finding.since_us, finding.observed) == (Level.FIRING, NOON + 4 * MINUTE, 2)


def test_below_a_bound_without_any_call_needs_min_calls_of_zero() -> None:
    silent, watched = (threshold("calls", below=1, window="1m", min_calls=least) for least in (1, 0))
    for evaluator in (silent, watched):
        call(evaluator, NOON)
    assert level(silent, NOON + 5 * MINUTE) is None
    assert level(watched, NOON + 5 * MINUTE) is Level.FIRING


def test_a_revision_downwards_within_the_minute_ends_it() -> None:
    evaluator = threshold("cost", above=1, window="1m")
    spend(evaluator, NOON, 5)
    assert level(evaluator, NOON) is Level.FIRING
    spend(evaluator, NOON, -5, now=NOON + 1_000_000)
    finding = found(evaluator, NOON + 1_000_000)["above"]
    assert (finding.level, finding.observed) == (Level.FIRING, 0)
    assert level(evaluator, NOON + 2 * MINUTE + CLOSED) is Level.NORMAL


# --- ratios


def test_a_ratio_is_of_the_window_s_sums() -> None:
    evaluator = threshold("failure_share", above=0.5, window="3m")
    call(evaluator, NOON, calls=90, failed_calls=0)
    call(evaluator, NOON + MINUTE, calls=10, failed_calls=10)
    assert level(evaluator, NOON + MINUTE) is None, "10 of 100, though the last minute failed"
    call(evaluator, NOON + 2 * MINUTE, calls=100, failed_calls=91)
    finding = found(evaluator, NOON + 2 * MINUTE)["above"]
    assert (finding.observed, finding.unit, finding.since_us) == (101 / 200, "share", NOON + 2 * MINUTE)


def test_a_ratio_below_fires_in_the_running_minute_too() -> None:
    evaluator = threshold("cache_hit_rate", below=0.5, window="1m")
    call(evaluator, NOON, input_tokens=51, cache_read_tokens=49)
    assert found(evaluator, NOON)["below"].observed == 0.49


def test_too_few_calls_give_no_verdict() -> None:
    evaluator = threshold("failure_share", above=0.5, window="5m", min_calls=20)
    call(evaluator, NOON, calls=19, failed_calls=19)
    assert level(evaluator, NOON) is None
    call(evaluator, NOON, calls=1, failed_calls=1)
    assert level(evaluator, NOON) is Level.FIRING


def test_a_ratio_without_a_denominator_gives_no_verdict() -> None:
    evaluator = threshold("latency_ms", below=100, window="1m")
    call(evaluator, NOON)
    assert level(evaluator, NOON + HOUR) is None


# --- time


def test_it_is_suspect_until_it_has_lasted() -> None:
    evaluator = threshold("cost", above=1, window="1m", lasting="3m")
    levels = []
    for minute in range(6):
        spend(evaluator, NOON + minute * MINUTE, 2)
        finding = found(evaluator, NOON + minute * MINUTE)["above"]
        assert finding.since_us == NOON
        levels.append(finding.level)
    assert levels == [Level.SUSPECT] * 3 + [Level.FIRING] * 3


def test_what_does_not_last_never_fires() -> None:
    evaluator = threshold("cost", above=1, window="1m", lasting="3m")
    spend(evaluator, NOON, 2)
    levels = [level(evaluator, NOON + second * 1_000_000) for second in range(0, 400, 5)]
    assert Level.FIRING not in levels
    assert levels.count(Level.NORMAL) == 1
    assert levels[-1] is None


def test_imported_history_raises_nothing() -> None:
    evaluator = threshold("cost", above=1, window="5m")
    for age in (*range(7, 40), 60, 24 * 60, 400 * 24 * 60):
        spend(evaluator, NOON - age * MINUTE, 1000, now=NOON)
        assert found(evaluator, NOON) == {}
    assert level(evaluator, NOON + DAY) is None


def test_a_late_minute_within_the_window_is_evidence() -> None:
    evaluator = threshold("cost", above=1, window="5m")
    spend(evaluator, NOON - 2 * MINUTE, 10, now=NOON)
    assert level(evaluator, NOON) is Level.FIRING


def test_spend_ahead_of_the_clock_waits_for_its_minute() -> None:
    evaluator = threshold("cost", above=1, window="5m")
    spend(evaluator, NOON, 10, now=NOON - DAY)
    assert level(evaluator, NOON - 1) is None
    assert found(evaluator, NOON)["above"].since_us == NOON


def test_skipped_minutes_are_evaluated_one_by_one() -> None:
    evaluator = threshold("calls", below=3, window="1m")
    for minute in range(3):
        call(evaluator, NOON + minute * MINUTE, calls=3)
    call(evaluator, NOON + 3 * MINUTE, calls=1)
    found(evaluator, NOON + 3 * MINUTE)
    call(evaluator, NOON + 4 * MINUTE, calls=1, now=NOON + 5 * MINUTE)
    assert found(evaluator, NOON + 4 * MINUTE + CLOSED)["below"].since_us == NOON + 3 * MINUTE


def test_a_day_s_window_slides_in_five_minutes() -> None:
    evaluator = threshold("cost", above=0.01, window="1d")
    for step in range(288):
        spend(evaluator, NOON + step * 5 * MINUTE, 0.05)
        assert level(evaluator, NOON + step * 5 * MINUTE) is None
    now = NOON + DAY - MINUTE
    spend(evaluator, now, 0.1)
    finding = found(evaluator, now)["above"]
    assert finding.observed == pytest.approx(14.5 / 1440)
    assert level(evaluator, now + 6 * MINUTE) is Level.FIRING


def test_the_memory_of_a_group_is_its_ring() -> None:
    evaluator = threshold("cost", *map(str, range(10_000)), above=1, window="5m")
    for day in range(3):
        now = NOON + day * DAY
        evaluator.apply(updates([(group, now, {COST: 7}) for group in range(10_000)]), now)
        assert list(evaluator.findings(now)) == []
    assert sum(array.nbytes for array in evaluator.snapshot().values()) < 10_000 * 400


# --- laws

moves = st.lists(
    st.tuples(
        st.integers(1, 400),  # seconds on
        st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 3), st.integers(-1, 5), st.integers(-2, 5)), max_size=4),
    ),
    max_size=25,
)
rules = st.sampled_from(
    [
        {"measure": "calls", "above": 2, "window": "2m"},
        {"measure": "calls", "below": 2, "window": "2m", "min_calls": 0},
        {"measure": "failure_share", "above": 0.5, "window": "3m", "lasting": "2m"},
        {"measure": "failure_share", "below": 0.5, "window": "1m", "min_calls": 2},
    ]
)


def batch_of(rows: list, now: int) -> Any:
    return updates(
        [
            (group, now + minute * MINUTE, {"calls": calls, "failed_calls": failed})
            for group, minute, calls, failed in rows
        ]
    )


@settings(max_examples=150, deadline=None)
@given(moves=moves, rule=rules, cut=st.integers(0, 25))
def test_a_restored_evaluator_continues_as_if_nothing_had_happened(moves: list, rule: dict, cut: int) -> None:
    evaluator, now = threshold(**rule), NOON
    other = evaluator
    for number, (seconds, rows) in enumerate(moves):
        now += seconds * 1_000_000
        evaluator.apply(batch_of(rows, now), now)
        if other is not evaluator:
            other.apply(batch_of(rows, now), now)
        expected = sorted(evaluator.findings(now), key=lambda finding: finding.group)
        assert sorted(evaluator.findings(now), key=lambda finding: finding.group) == expected, "judged twice"
        assert sorted(other.findings(now), key=lambda finding: finding.group) == expected
        if number == cut:
            other = threshold(**rule)
            other.restore(evaluator.snapshot())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=30), st.integers(1, 6), st.integers(1, 8))
def test_a_closed_window_is_the_sum_of_its_minutes(rows: list, window: int, bound: int) -> None:
    """Fed in order and evaluated whenever a minute has closed, it fires where a plain sum says so."""
    evaluator = threshold("calls", above=bound, window=window * 60)
    calls = np.zeros(40, dtype=int)
    for minute, count in rows:
        calls[minute] += count
    last_held = None
    for minute in range(32):
        if calls[minute]:
            call(evaluator, NOON + minute * MINUTE, calls=int(calls[minute]))
        standing = level(evaluator, NOON + minute * MINUTE + CLOSED)
        if calls[max(0, minute - window + 1) : minute + 1].sum() > bound * window:
            last_held = minute
        # the running minute, still empty, can't hold where the closed one does not
        assert (standing is Level.FIRING) == (last_held is not None and minute < last_held + 2)
