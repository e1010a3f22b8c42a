"""The anomaly rule, one test for each of its promises. Time is counted in minutes from START_US."""

from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pytest

from schemas.watch import AnomalyRule, Watch
from streams.core.clock import MINUTE_US, US
from streams.core.detect.anomaly import AnomalyEvaluator
from streams.core.detect.finding import Arrays, Finding, Level, Updates
from streams.core.detect.groups import Groups
from streams.core.rollup.measures import COLUMN, SUMS

START_US = 1_772_409_600 * US
CENT = 10_000_000_000


def minute(at: float) -> int:
    return START_US + int(at * MINUTE_US)


class World:
    """One evaluator and its clock. Calls cost a cent each unless told otherwise."""

    def __init__(self, groups: int = 1, **rule: Any) -> None:
        self.rule = AnomalyRule(kind="anomaly", **rule)
        self.groups = Groups(Watch(name="w", group_by=("service",), rule=self.rule), ("service",))
        for group in range(groups):
            self.groups.number((f"s{group}",))
        self.evaluator = AnomalyEvaluator(self.rule, self.groups)
        self.draw = np.random.default_rng(7)

    def add(self, at: float, calls: int, cents: float = 1.0, group: int = 0, **sums: int) -> None:
        """Add calls to the minute that is running at ``at``, read at that moment."""
        row = np.zeros((1, len(SUMS)), dtype=np.int64)
        row[0, COLUMN["calls"]] = calls
        row[0, COLUMN["cost_pusd"]] = int(calls * cents * CENT)
        for name, value in sums.items():
            row[0, COLUMN[name]] = value
        now_us = minute(at)
        updates = Updates(np.array([group]), np.array([now_us - now_us % MINUTE_US]), row)
        self.evaluator.apply(updates, now_us)

    def look(self, at: float) -> dict[tuple[int, str], Finding]:
        return by_facet(self.evaluator.findings(minute(at)))

    def steady(self, first: int, last: int, calls: int = 100, cents: float = 1.0, hold: bool = True) -> None:
        """Play minutes ``[first, last)``, 5% noise, held while firing, and look at the end of each."""
        for at in range(first, last):
            noisy = int(self.draw.normal(calls, 0.05 * calls)) if calls else 0
            if noisy:
                self.add(at + 0.5, noisy, cents)
            found = self.look(at + 1)
            if hold:
                self.evaluator.hold({key[0] for key, one in found.items() if one.level is Level.FIRING})


def by_facet(findings: Iterable[Finding]) -> dict[tuple[int, str], Finding]:
    found = {(finding.group, finding.facet): finding for finding in findings}
    return found


@cache
def history(minutes: int, **rule: Any) -> Arrays:
    world = World(**rule)
    world.steady(0, minutes)
    return world.evaluator.snapshot()


def settled(minutes: int = 120, **rule: Any) -> World:
    """Return a world after so many steady minutes, played once for each rule."""
    world = World(**rule)
    world.evaluator.restore(history(minutes, **rule))
    return world


def level(found: dict[tuple[int, str], Finding], facet: str, group: int = 0) -> Level | None:
    return found[group, facet].level if (group, facet) in found else None


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
    world.add(120.5, 240)
    assert level(world.look(120.5), "up") is Level.SUSPECT
    world.add(121.5, 240)
    finding = world.look(121.5)[0, "up"]
    assert (finding.level, finding.since_us) == (Level.FIRING, minute(120))


def test_a_single_huge_call_does_not_fire_at_once() -> None:
    world = settled()
    world.add(120.5, 1, cents=5000)
    assert level(world.look(120.5), "up") is Level.SUSPECT
    world.steady(121, 126)
    assert level(world.look(126), "up") is None


def test_few_calls_mean_little_however_dear() -> None:
    world = World()
    for at in range(0, 240, 2):
        world.add(at + 0.5, 1)
        world.look(at + 1)
    for at in (240, 241, 242):
        world.add(at + 0.5, 1, cents=500)
        assert level(world.look(at + 1.5), "up") is None


@pytest.mark.parametrize(("min_spend", "fires"), [("0.05", True), ("50", False)])
def test_a_difference_below_the_least_spend_is_no_anomaly(min_spend: str, fires: bool) -> None:
    world = settled(min_spend_usd=Decimal(min_spend))
    world.add(120.5, 1000)
    assert (level(world.look(120.5), "up") is Level.FIRING) is fires


@pytest.mark.parametrize(("min_change", "fires"), [(0.5, True), (4.0, False)])
def test_a_difference_below_the_least_change_is_no_anomaly(min_change: float, fires: bool) -> None:
    world = settled(min_change=min_change)
    world.add(120.5, 450)
    assert (level(world.look(120.5), "up") is Level.FIRING) is fires


@pytest.mark.parametrize("history", [20, 29])
def test_there_is_no_verdict_before_the_least_history(history: int) -> None:
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


def test_a_fall_is_judged_on_closed_minutes_only() -> None:
    world = settled()
    world.add(120.5, 38)
    assert world.look(121.2) == {}
    assert level(world.look(121.26), "down") is Level.SUSPECT
    world.add(121.5, 38)
    assert level(world.look(122.2), "down") is Level.SUSPECT
    finding = world.look(122.26)[0, "down"]
    assert (finding.level, finding.since_us) == (Level.FIRING, minute(120))


@pytest.mark.parametrize(("direction", "facets"), [("up", set()), ("down", {"down"}), ("both", {"down"})])
def test_a_fall_is_told_where_the_rule_looks_down(direction: str, facets: set[str]) -> None:
    world = settled(direction=direction)
    for at in (120, 121, 122):
        world.add(at + 0.5, 5)
    assert {facet for _, facet in world.look(123.3)} == facets


def test_a_rule_that_looks_down_says_nothing_of_a_rise() -> None:
    world = settled(direction="down")
    world.add(120.5, 2000)
    assert world.look(122) == {}


def test_a_higher_sensitivity_sees_less() -> None:
    seen = []
    for sensitivity in ("low", "normal", "high"):
        world = settled(sensitivity=sensitivity, min_change=0.0)
        seen.append(world.evaluator.band(0, minute(121))[2])
    assert seen[0] > seen[1] > seen[2]


def test_a_firing_group_is_normal_after_three_normal_minutes_and_told_once() -> None:
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


def test_a_firing_anomaly_teaches_nothing() -> None:
    world = settled()
    before = world.evaluator.band(0, minute(121))
    world.steady(120, 180, calls=900)
    after = world.evaluator.band(0, minute(180))
    assert after[0] == pytest.approx(before[0], rel=0.05)


def test_a_held_group_teaches_nothing_and_then_learns_again() -> None:
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


def test_ones_own_outliers_move_the_baseline_little() -> None:
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


def test_a_silent_group_is_told_after_its_time_with_its_first_empty_minute() -> None:
    world = settled(direction="up", no_data_after=300)
    assert world.look(125.2) == {}
    finding = world.look(125.3)[0, "no_data"]
    assert (finding.level, finding.since_us, finding.unit) == (Level.FIRING, minute(120), "calls/min")
    assert finding.observed == 0
    assert finding.expected == pytest.approx(100, rel=0.1)
    world.add(126.5, 1)
    assert level(world.look(127.3), "no_data") is Level.NORMAL
    assert world.look(127.4) == {}


@pytest.mark.parametrize("every", [3, 8])
def test_a_sparse_group_may_be_silent_for_a_while(every: int) -> None:
    world = World(no_data_after=300)
    for at in range(0, 400, every):
        world.add(at + 0.5, 1)
        world.look(at + 1)
    assert world.look(400 + 4 * every) == {}


def test_no_data_can_be_left_out() -> None:
    assert settled(direction="up", no_data_after=None).look(400) == {}


def test_a_trace_of_last_year_published_in_one_go_raises_nothing() -> None:
    world = World()
    now_us = minute(500_000)
    rows = np.zeros((600, len(SUMS)), dtype=np.int64)
    rows[:, COLUMN["calls"]] = 100
    rows[:, COLUMN["cost_pusd"]] = np.where(np.arange(600) % 100 == 99, 100, 1) * CENT
    updates = Updates(np.zeros(600, dtype=np.int64), START_US + np.arange(600) * MINUTE_US, rows)
    world.evaluator.apply(updates, now_us)
    assert list(world.evaluator.findings(now_us)) == []
    assert np.isnan(world.evaluator.band(0, now_us)).all()
    assert list(world.evaluator.findings(now_us + 60 * MINUTE_US)) == []


def test_a_late_update_to_a_closed_minute_teaches_and_tells_nothing() -> None:
    world = settled()
    before = world.evaluator.band(0, minute(121))
    row = np.zeros((1, len(SUMS)), dtype=np.int64)
    row[0, [COLUMN["calls"], COLUMN["cost_pusd"]]] = 5000, 5000 * CENT
    world.evaluator.apply(Updates(np.array([0]), np.array([minute(118)]), row), minute(120))
    assert world.look(120) == {}
    assert world.evaluator.band(0, minute(121)) == before


def test_within_the_grace_a_late_update_counts() -> None:
    world = settled()
    row = np.zeros((1, len(SUMS)), dtype=np.int64)
    row[0, [COLUMN["calls"], COLUMN["cost_pusd"]]] = 5000, 5000 * CENT
    world.evaluator.apply(Updates(np.array([0]), np.array([minute(119)]), row), minute(120.2))
    assert world.look(120.2)[0, "up"].since_us == minute(119)


def test_a_minute_revised_downwards_is_no_suspect_once_it_is_closed() -> None:
    world = settled()
    world.add(120.5, 1, cents=5000)
    assert level(world.look(120.5), "up") is Level.SUSPECT
    world.add(120.6, -1, cents=5000)
    world.add(120.7, 100)
    assert level(world.look(121.3), "up") is Level.NORMAL


def test_judging_twice_at_one_moment_gives_the_same() -> None:
    world = settled()
    world.add(120.5, 1000)
    assert world.look(120.5) == world.look(120.5) != {}


def test_how_often_it_is_looked_at_changes_nothing() -> None:
    often, seldom = World(), World()
    for at in range(200):
        calls = 100 + 7 * (at % 5) + (900 if at > 180 else 0)
        for world in (often, seldom):
            world.add(at + 0.5, calls)
        for part in (0.5, 0.75, 1.0):
            often.look(at + part)
    assert often.look(200.3) == seldom.look(200.3) != {}


def test_a_restored_evaluator_goes_on_exactly_as_the_first() -> None:
    first, second = settled(groups=3), World(groups=3)
    first.add(120.5, 1, cents=5000)
    first.look(120.5)
    second.evaluator.restore({name: array.copy() for name, array in first.evaluator.snapshot().items()})
    for world in (first, second):
        world.draw = np.random.default_rng(1)
        world.steady(121, 200, calls=300)
    assert first.look(200) == second.look(200) != {}
    one, two = first.evaluator.snapshot(), second.evaluator.snapshot()
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_a_snapshot_holds_no_python_objects_and_is_a_copy() -> None:
    world = settled()
    taken = world.evaluator.snapshot()
    assert all(array.dtype != object for array in taken.values())
    before = {name: array.copy() for name, array in taken.items()}
    world.steady(120, 140, calls=500)
    assert all(np.array_equal(before[name], taken[name]) for name in taken)


def test_a_leap_of_the_clock_over_days_leaves_no_alert() -> None:
    world = settled()
    later = 120 + 5 * 1440
    world.add(later + 0.5, 3000)
    assert world.look(later + 0.6) == {}


def test_groups_are_judged_apart() -> None:
    world = World(groups=3)
    for at in range(120):
        for group in range(3):
            world.add(at + 0.2 + group / 10, 100, group=group)
        world.look(at + 1)
    world.add(120.5, 900, group=1)
    assert set(world.look(120.5)) == {(1, "up")}
