"""Silence, imports, late updates, replays, snapshots."""

import numpy as np
import pytest

from spendstream.core.detect.finding import Level, Updates
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import COLUMN, SUMS
from tests.unit.detect.anomaly_world import CENT, START_US, World, level, minute, settled


def test_a_silent_group_fires_after_no_data_after_since_its_first_empty_minute() -> None:
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


def test_no_data_can_be_switched_off() -> None:
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


def test_a_late_update_to_a_closed_minute_changes_nothing() -> None:
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


def test_a_minute_revised_downwards_is_not_suspect_once_it_is_closed() -> None:
    world = settled()
    world.add(120.5, 1, cents=5000)
    assert level(world.look(120.5), "up") is Level.SUSPECT
    world.add(120.6, -1, cents=5000)
    world.add(120.7, 100)
    assert level(world.look(121.3), "up") is Level.NORMAL


def test_evaluating_twice_at_one_moment_gives_the_same_findings() -> None:
    world = settled()
    world.add(120.5, 1000)
    assert world.look(120.5) == world.look(120.5) != {}


def test_how_often_findings_are_read_changes_nothing() -> None:
    often, seldom = World(), World()
    for at in range(200):
        calls = 100 + 7 * (at % 5) + (900 if at > 180 else 0)
        for world in (often, seldom):
            world.add(at + 0.5, calls)
        for part in (0.5, 0.75, 1.0):
            often.look(at + part)
    assert often.look(200.3) == seldom.look(200.3) != {}


def test_a_restored_evaluator_continues_exactly_like_the_first() -> None:
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
    for name, array in taken.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_jump_of_the_clock_over_days_leaves_no_alert() -> None:
    world = settled()
    later = 120 + 5 * 1440
    world.add(later + 0.5, 3000)
    assert world.look(later + 0.6) == {}


def test_groups_are_evaluated_independently() -> None:
    world = World(groups=3)
    for at in range(120):
        for group in range(3):
            world.add(at + 0.2 + group / 10, 100, group=group)
        world.look(at + 1)
    world.add(120.5, 900, group=1)
    assert set(world.look(120.5)) == {(1, "up")}


def test_a_minute_ahead_of_the_clock_is_scored_when_the_clock_gets_there() -> None:
    world = settled(direction="up", no_data_after=None)
    row = np.zeros((1, len(SUMS)), dtype=np.int64)
    row[0, [COLUMN["calls"], COLUMN["cost_pusd"]]] = 5000, 5000 * CENT
    world.evaluator.apply(Updates(np.array([0]), np.array([minute(123)]), row), minute(120.2))
    assert world.look(122.9) == {}
    assert world.look(123.1)[0, "up"].since_us == minute(123)
