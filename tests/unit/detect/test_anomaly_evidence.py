"""What counts as evidence before a minute is over, and what is known of the slopes of a day."""

import numpy as np
import pytest

from spendstream.core.detect.anomaly.baseline import Slopes
from spendstream.core.detect.finding import Level
from tests.unit.detect.anomaly_world import World, level, minute

_STEEP = range(8, 10)


def quiet_world() -> World:
    """Twenty-five calls a minute whose cost varies by half from minute to minute: a minute's spend says little."""
    world = World()
    for at in range(120):
        world.add(at + 0.5, 25, cents=0.5 + at % 3 / 2)
        world.look(at + 1)
    return world


@pytest.mark.parametrize(("calls", "cents", "expected"), [(110, 1.0, Level.FIRING), (25, 4.4, None)])
def test_many_calls_of_usual_cost_fire_at_once_and_the_same_spend_by_few_does_not(
    calls: int, cents: float, expected: Level | None
) -> None:
    world = quiet_world()
    world.add(120.5, calls, cents=cents)
    found = level(world.look(120.5), "up")
    assert found is expected if expected else found is not Level.FIRING


def played(days: int) -> Slopes:
    """Slopes of a group that doubles every hour from 8 to 10 and is flat else, and of one that never taught."""
    slopes = Slopes()
    slopes.grow(2)
    for at in range(days * 1440):
        hour = at / 60 % 24
        points = np.full(2, 2.0 ** np.clip(hour - _STEEP.start, 0, len(_STEEP)) if hour < 20 else 4.0)
        slopes.learn(minute(at), points, np.full(2, 0.01), np.array([True, False]))
    return slopes


def test_of_hours_that_taught_nothing_nothing_is_known() -> None:
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
