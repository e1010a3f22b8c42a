"""What is usual: hours of the week, slopes of the day, and the evidence before a minute is over."""

import numpy as np
import pytest

from spendstream.core.detect.anomaly.baseline import Season, Slopes
from spendstream.core.detect.anomaly.limits import HOUR_US
from spendstream.core.detect.finding import Level
from spendstream.core.timestamps import MINUTE_US
from tests.unit.detect.anomaly_world import START_US, World, level, minute, settled

WEEK = 7 * 1440
DAY = 1440


def season_of(weeks: int, learn: bool = True) -> Season:
    """A season that learned the hour of the day as its value; three groups, the last of which is held."""
    season = Season()
    season.grow(3)
    learns = np.array([learn, learn, False])
    for at in range(weeks * WEEK + 6 * 60):
        season.learn(minute(at), np.full(3, (at // 60) % 24, dtype=np.float64), learns)
    return season


@pytest.mark.parametrize(("weeks", "trust"), [(1, 0.0), (2, 0.5), (3, 2 / 3)])
def test_an_hour_counts_once_it_was_seen_in_two_weeks_and_more_after_that(weeks: int, trust: float) -> None:
    at = minute(weeks * WEEK + DAY + 9 * 60 + 30)
    change, sure = season_of(weeks).change(at, at + 10 * MINUTE_US, slice(None))
    assert sure.tolist() == pytest.approx([trust, trust, 0])
    assert (change * (sure > 0)).tolist() == pytest.approx([1 / 6 * (trust > 0)] * 2 + [0], abs=1e-5)


def test_hours_join_without_a_jump() -> None:
    season = season_of(2)
    first = minute(2 * WEEK + DAY + 9 * 60)
    steps = [
        season.change(first + at * MINUTE_US, first + (at + 1) * MINUTE_US, slice(0, 1))[0][0] for at in range(120)
    ]
    assert steps == pytest.approx([1 / 60] * 120, abs=1e-4)


def test_a_held_group_has_no_seasonal_table() -> None:
    season = season_of(2)
    assert season.usual(minute(2 * WEEK + DAY))[2] == 0
    assert season.snapshot()["season_table"].shape == (168, 2)


def test_a_held_baseline_follows_the_hours_of_the_week() -> None:
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


_STEEP = range(8, 10)


def quiet_world() -> World:
    """Twenty-five calls a minute whose cost varies by half from minute to minute: a minute's spend says little."""
    world = World()
    for at in range(120):
        world.add(at + 0.5, 25, cents=0.5 + at % 3 / 2)
        world.look(at + 1)
    return world


@pytest.mark.parametrize(("calls", "cents", "expected"), [(110, 1.0, Level.FIRING), (25, 4.4, None)])
def test_many_calls_of_usual_cost_fire_at_once_but_the_same_spend_from_few_calls_does_not(
    calls: int, cents: float, expected: Level | None
) -> None:
    world = quiet_world()
    world.add(120.5, calls, cents=cents)
    found = level(world.look(120.5), "up")
    assert found is expected if expected else found is not Level.FIRING


def played(days: int) -> Slopes:
    """Slopes of a group that doubles every hour from 8 to 10 and is flat otherwise, and of one without samples."""
    slopes = Slopes()
    slopes.grow(2)
    for at in range(days * 1440):
        hour = at / 60 % 24
        points = np.full(2, 2.0 ** np.clip(hour - _STEEP.start, 0, len(_STEEP)) if hour < 20 else 4.0)
        slopes.learn(minute(at), points, np.full(2, 0.01), np.array([True, False]))
    return slopes


def test_an_hour_without_samples_is_unknown() -> None:
    slopes = played(1)
    assert np.isnan(slopes.now[1])
    assert slopes.path[1] == 0


@pytest.mark.parametrize(("hour", "steep"), [(8.5, True), (14.0, False)])
def test_the_second_day_knows_where_the_first_was_steep(hour: float, steep: bool) -> None:
    slopes = played(1)
    for at in range(1440, 1440 + int(hour * 60)):
        slopes.learn(minute(at), np.ones(2), np.full(2, 0.01), np.array([False, False]))
    assert (slopes.now[0] > 0.2) is np.bool_(steep)
    assert (slopes.path[0] * 60 > 0.3) is np.bool_(steep)
