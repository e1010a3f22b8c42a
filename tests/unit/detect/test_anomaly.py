"""What is unusual, and since when: a test for each promise of the rule; then measures other than cost."""

from decimal import Decimal
from typing import Any

import pytest

from spendstream.core.detect.finding import Level
from tests.unit.detect.anomaly_world import World, level, minute, settled


def test_a_steady_group_is_no_finding() -> None:
    assert settled().look(121) == {}


def test_a_runaway_fires_within_the_running_minute() -> None:
    world = settled()
    world.add(120.3, 160)
    assert level(world.look(120.3), "up") is None
    world.add(120.6, 320)
    finding = world.look(120.6)[0, "up"]
    assert finding.level is Level.FIRING
    assert finding.since_us == minute(120)
    assert finding.observed == pytest.approx(4.8)
    assert finding.expected == pytest.approx(1.0, rel=0.1)
    assert finding.limit is not None
    assert finding.limit < finding.observed
    assert finding.score is not None
    assert finding.score > 9


def test_half_of_a_usual_minute_in_its_first_second_is_no_evidence() -> None:
    world = settled()
    world.add(120.02, 90)
    assert world.look(120.02) == {}


def test_one_minute_beyond_the_bound_is_suspect_and_a_second_fires_since_the_first() -> None:
    world = settled(sensitivity="low")
    world.add(120.5, 210)
    assert level(world.look(120.5), "up") is Level.SUSPECT
    world.add(121.5, 210)
    finding = world.look(121.5)[0, "up"]
    assert (finding.level, finding.since_us) == (Level.FIRING, minute(120))


def test_a_single_huge_call_does_not_fire_at_once() -> None:
    world = settled()
    world.add(120.5, 1, cents=5000)
    assert level(world.look(120.5), "up") is Level.SUSPECT
    world.steady(121, 126)
    assert level(world.look(126), "up") is None


def test_few_calls_mean_little_however_expensive() -> None:
    world = World()
    for at in range(0, 240, 2):
        world.add(at + 0.5, 1)
        world.look(at + 1)
    for at in (240, 241, 242):
        world.add(at + 0.5, 1, cents=500)
        assert level(world.look(at + 1.5), "up") is None


@pytest.mark.parametrize(("min_spend", "fires"), [("0.05", True), ("50", False)])
def test_a_difference_below_min_spend_usd_is_no_anomaly(min_spend: str, fires: bool) -> None:
    world = settled(min_spend_usd=Decimal(min_spend))
    world.add(120.5, 1000)
    assert (level(world.look(120.5), "up") is Level.FIRING) is fires


@pytest.mark.parametrize(("min_change", "fires"), [(0.5, True), (4.0, False)])
def test_a_difference_below_min_change_is_no_anomaly(min_change: float, fires: bool) -> None:
    world = settled(min_change=min_change)
    world.add(120.5, 450)
    assert (level(world.look(120.5), "up") is Level.FIRING) is fires


@pytest.mark.parametrize("history", [20, 29])
def test_there_is_no_verdict_before_min_history(history: int) -> None:
    world = settled(history)
    world.add(history + 0.5, 2000)
    assert world.look(history + 0.5) == {}


def test_an_old_group_with_few_active_minutes_has_no_verdict() -> None:
    world = World()
    for at in range(0, 140, 10):
        world.add(at + 0.5, 50)
        world.look(at + 1)
    world.add(140.5, 5000)
    assert world.look(140.5) == {}


def test_a_fall_is_scored_on_closed_minutes_only() -> None:
    world = settled()
    world.add(120.5, 38)
    assert world.look(121.2) == {}
    assert level(world.look(121.26), "down") is Level.SUSPECT
    world.add(121.5, 38)
    assert level(world.look(122.2), "down") is Level.SUSPECT
    finding = world.look(122.26)[0, "down"]
    assert (finding.level, finding.since_us) == (Level.FIRING, minute(120))


@pytest.mark.parametrize(("direction", "facets"), [("up", set()), ("down", {"down"}), ("both", {"down"})])
def test_a_fall_fires_where_the_rule_looks_down(direction: str, facets: set[str]) -> None:
    world = settled(direction=direction)
    for at in (120, 121, 122):
        world.add(at + 0.5, 5)
    assert {facet for _, facet in world.look(123.3)} == facets


def test_a_rule_that_looks_down_ignores_a_rise() -> None:
    world = settled(direction="down")
    world.add(120.5, 2000)
    assert world.look(122) == {}


def test_a_lower_sensitivity_fires_less() -> None:
    seen = []
    for sensitivity in ("low", "normal", "high"):
        world = settled(sensitivity=sensitivity, min_change=0.0)
        seen.append(world.evaluator.band(0, minute(121))[2])
    assert seen[0] > seen[1] > seen[2]


def test_a_firing_group_ends_once_after_three_normal_minutes() -> None:
    world = settled()
    world.steady(120, 130, calls=900)
    assert level(world.look(130.3), "up") is Level.FIRING
    world.steady(130, 132)
    assert level(world.look(132.3), "up") is Level.FIRING
    world.add(132.5, 100)
    ended = world.look(133.3)
    assert level(ended, "up") is Level.NORMAL
    assert world.look(133.3) == ended
    assert world.look(133.4) == {}


def test_nothing_is_learned_from_a_firing_anomaly() -> None:
    world = settled()
    before = world.evaluator.band(0, minute(121))
    world.steady(120, 180, calls=900)
    after = world.evaluator.band(0, minute(180))
    assert after[0] == pytest.approx(before[0], rel=0.05)


def test_nothing_is_learned_from_a_held_group_until_it_is_released() -> None:
    held, free = settled(), settled()
    held.evaluator.hold({0, 5})
    for world in (held, free):
        world.steady(120, 150, calls=130, hold=False)
    assert held.evaluator.band(0, minute(150))[0] == pytest.approx(1.0, rel=0.05)
    assert free.evaluator.band(0, minute(150))[0] == pytest.approx(1.3, rel=0.08)
    held.evaluator.hold(set())
    held.steady(150, 240, calls=130, hold=False)
    assert held.evaluator.band(0, minute(240))[0] == pytest.approx(1.3, rel=0.08)


def test_what_lasts_is_adopted_and_then_normal() -> None:
    world = settled(adopt_after=3600)
    world.steady(120, 179, calls=400)
    assert level(world.look(179.3), "up") is Level.FIRING
    world.steady(179, 190, calls=400)
    assert world.look(190.3) == {}
    assert world.evaluator.band(0, minute(190))[0] == pytest.approx(4.0, rel=0.1)


def test_a_group_s_own_outliers_move_its_baseline_little() -> None:
    world = settled(min_change=1e9)
    before = world.evaluator.band(0, minute(120))[0]
    world.steady(120, 123, calls=5000)
    after = world.evaluator.band(0, minute(123))[0]
    assert after == pytest.approx(before, rel=0.15)


def test_a_steady_slope_is_followed_without_lag() -> None:
    world = World()
    for at in range(600):
        world.steady(at, at + 1, calls=100 + at)
    assert world.evaluator.band(0, minute(600))[0] == pytest.approx(7.0, rel=0.05)
    assert world.look(600.3) == {}


def settled_with_ratios(**rule: Any) -> World:
    world = World(**rule)
    for at in range(120):
        calls = 100 + at % 7
        world.add(at + 0.5, calls, failed_calls=2 + at % 2, latency_ms_sum=calls * (500 + at % 9), latency_calls=calls)
        world.look(at + 1)
    return world


def test_more_calls_fire_within_the_running_minute_in_calls_a_minute() -> None:
    world = settled_with_ratios(measure="calls")
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
    world = settled_with_ratios(measure="failure_share")
    world.add(120.5, 100, failed_calls=60)
    assert world.look(121.2) == {}
    finding = world.look(121.3)[0, "up"]
    assert finding.level is Level.FIRING
    assert finding.observed == pytest.approx(0.6)
    assert finding.expected == pytest.approx(0.02, abs=0.01)
    assert finding.unit == "share"


def test_a_more_expensive_call_is_reported_in_usd_per_call() -> None:
    world = settled_with_ratios(measure="cost_per_call")
    world.add(120.5, 100, cents=3)
    finding = world.look(121.3)[0, "up"]
    assert finding.unit == "USD/call"
    assert finding.observed == pytest.approx(0.03)
    assert finding.expected == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("calls", "fires"), [(19, False), (40, True)])
def test_a_ratio_of_few_calls_is_no_evidence(calls: int, fires: bool) -> None:
    world = settled_with_ratios(measure="failure_share", min_calls=20)
    for at in (120, 121, 122):
        world.add(at + 0.5, calls, failed_calls=calls)
    assert (level(world.look(123.3), "up") is Level.FIRING) is fires


def test_a_minute_without_calls_is_not_zero_for_a_ratio() -> None:
    world = settled_with_ratios(measure="latency_ms", no_data_after=None)
    world.look(200)
    assert world.evaluator.band(0, 0)[0] == pytest.approx(504, rel=0.02)


def test_the_more_calls_the_narrower_the_band_of_a_ratio() -> None:
    few, many = World(measure="failure_share", min_change=0), World(measure="failure_share", min_change=0)
    for at in range(120):
        few.add(at + 0.5, 25, failed_calls=1 + at % 2)
        many.add(at + 0.5, 2500, failed_calls=100 + at % 40)
    assert few.evaluator.band(0, 0)[2] > many.evaluator.band(0, 0)[2]
