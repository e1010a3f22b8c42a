"""Hours of the week: when they count, and how."""

import numpy as np
import pytest

from spendstream.core.detect.anomaly.baseline import Season
from spendstream.core.detect.anomaly.limits import HOUR_US
from spendstream.core.timestamps import MINUTE_US
from tests.unit.detect.anomaly_world import START_US, minute, settled

WEEK = 7 * 1440
DAY = 1440


def taught(weeks: int, teach: bool = True) -> Season:
    """A season that was taught the hour of the day as its value; three groups, the last of which is held."""
    season = Season()
    season.grow(3)
    teaches = np.array([teach, teach, False])
    for at in range(weeks * WEEK + 6 * 60):
        season.learn(minute(at), np.full(3, (at // 60) % 24, dtype=np.float64), teaches)
    return season


@pytest.mark.parametrize(("weeks", "trust"), [(1, 0.0), (2, 0.5), (3, 2 / 3)])
def test_an_hour_counts_once_it_was_seen_in_two_weeks_and_then_more(weeks: int, trust: float) -> None:
    at = minute(weeks * WEEK + DAY + 9 * 60 + 30)
    change, sure = taught(weeks).change(at, at + 10 * MINUTE_US, slice(None))
    assert sure.tolist() == pytest.approx([trust, trust, 0])
    assert (change * (sure > 0)).tolist() == pytest.approx([1 / 6 * (trust > 0)] * 2 + [0], abs=1e-5)


def test_hours_run_into_each_other_without_a_jump() -> None:
    season = taught(2)
    first = minute(2 * WEEK + DAY + 9 * 60)
    steps = [
        season.change(first + at * MINUTE_US, first + (at + 1) * MINUTE_US, slice(0, 1))[0][0] for at in range(120)
    ]
    assert steps == pytest.approx([1 / 60] * 120, abs=1e-4)


def test_a_group_that_is_held_has_no_table() -> None:
    season = taught(2)
    assert season.usual(minute(2 * WEEK + DAY))[2] == 0
    assert season.snapshot()["season_table"].shape == (168, 2)


def test_a_held_baseline_goes_on_along_the_hours_of_the_week() -> None:
    world = settled()
    state = {name: array.copy() for name, array in world.evaluator.snapshot().items()}
    table = np.ones((168, 1), dtype=np.float32)
    table[(START_US // HOUR_US + 3) % 168 :] = 2.0
    state |= {"season_row": np.array([0]), "season_table": table, "season_seen": np.full((168, 1), 6, dtype=np.uint8)}
    world.evaluator.restore(state)
    world.evaluator.hold({0})
    world.steady(120, 215, calls=100, hold=False)
    expected, lower, upper = world.evaluator.band(0, minute(215))
    assert expected == pytest.approx(4.0, rel=0.1)
    assert lower < expected < upper
