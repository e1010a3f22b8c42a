"""Measures other than cost: sums that imply spend, and ratios."""

from typing import Any

import pytest

from spendstream.core.detect.finding import Level
from tests.unit.detect.anomaly_world import World, level


def settled(**rule: Any) -> World:
    world = World(**rule)
    for at in range(120):
        calls = 100 + at % 7
        world.add(at + 0.5, calls, failed_calls=2 + at % 2, latency_ms_sum=calls * (500 + at % 9), latency_calls=calls)
        world.look(at + 1)
    return world


def test_more_calls_fire_within_the_running_minute_in_calls_a_minute() -> None:
    world = settled(measure="calls")
    world.add(120.5, 900)
    finding = world.look(120.5)[0, "up"]
    assert (finding.level, finding.observed, finding.unit) == (Level.FIRING, 900, "calls/min")


def test_calls_that_cost_little_are_no_anomaly() -> None:
    world = World(measure="calls")
    for at in range(120):
        world.add(at + 0.5, 100 + at % 7, cents=0.001)
        world.look(at + 1)
    world.add(120.5, 900, cents=0.001)
    assert world.look(122) == {}


def test_a_share_is_scored_on_closed_minutes() -> None:
    world = settled(measure="failure_share")
    world.add(120.5, 100, failed_calls=60)
    assert world.look(121.2) == {}
    finding = world.look(121.3)[0, "up"]
    assert finding.level is Level.FIRING
    assert finding.observed == pytest.approx(0.6)
    assert finding.expected == pytest.approx(0.02, abs=0.01)
    assert finding.unit == "share"


def test_a_more_expensive_call_is_reported_in_usd_per_call() -> None:
    world = settled(measure="cost_per_call")
    world.add(120.5, 100, cents=3)
    finding = world.look(121.3)[0, "up"]
    assert finding.unit == "USD/call"
    assert finding.observed == pytest.approx(0.03)
    assert finding.expected == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("calls", "told"), [(19, False), (40, True)])
def test_a_ratio_of_few_calls_is_no_evidence(calls: int, told: bool) -> None:
    world = settled(measure="failure_share", min_calls=20)
    for at in (120, 121, 122):
        world.add(at + 0.5, calls, failed_calls=calls)
    assert (level(world.look(123.3), "up") is Level.FIRING) is told


def test_a_minute_without_calls_is_not_zero_for_a_ratio() -> None:
    world = settled(measure="latency_ms", no_data_after=None)
    world.look(200)
    assert world.evaluator.band(0, 0)[0] == pytest.approx(504, rel=0.02)


def test_the_more_calls_the_narrower_the_band_of_a_ratio() -> None:
    few, many = World(measure="failure_share", min_change=0), World(measure="failure_share", min_change=0)
    for at in range(120):
        few.add(at + 0.5, 25, failed_calls=1 + at % 2)
        many.add(at + 0.5, 2500, failed_calls=100 + at % 40)
    assert few.evaluator.band(0, 0)[2] > many.evaluator.band(0, 0)[2]
