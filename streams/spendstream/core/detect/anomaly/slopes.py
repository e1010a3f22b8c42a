"""How steep each half-hour of the day has been for each group, so that mornings are no evidence.

A group of unknown slopes may be in the middle of its morning; one that has seen the same time of day before is known
to be flat there, or not. The steepest day counts, fading by the day: Saturdays do not hide what Monday will bring.
A morning that fails to come is no evidence either, so the direction does not matter, but to groups that are held:
they are expected to go the way they went.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.columns import Column, Columns
from spendstream.core.detect.anomaly.scale import Floats
from spendstream.core.timestamps import MINUTE_US

_HALF_HOUR_US: Final = 30 * MINUTE_US
_SLOTS: Final = 48
_NAMES: Final = [f"change_{slot}" for slot in range(_SLOTS)]
# Half precision: a change known to a thousandth is known well enough. NaN: not seen yet.
_TABLE: Final = dict.fromkeys(_NAMES, (np.float16, np.nan))
_LAYOUT: Final = {
    "total": (np.float32, 0),
    "minutes": (np.uint8, 0),  # that taught in this half-hour
    "before": (np.float32, np.nan),  # mean of the half-hour before
    "now": (np.float32, np.nan),  # what may change in half an hour, relative to the level, at this time of day
    "path": (np.float32, 0),  # how it went, in a minute
}


class Slopes:
    """Changes from half-hour to half-hour of all groups, relative to the level, in the measure's domain."""

    def __init__(self) -> None:
        self._columns = Columns(_LAYOUT)
        self._table = Columns(_TABLE)

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        self._columns.grow(size)
        self._table.grow(size)

    @property
    def now(self) -> Column:
        """By group: what may change within half an hour around now, as a part of the level; NaN where unknown."""
        return self._columns["now"]

    @property
    def path(self) -> Column:
        """By group: how the level went in a minute at this time of day, as a part of the level; 0 where unknown."""
        return self._columns["path"]

    def learn(self, minute_us: int, points: Floats, sigma: Floats, teach: NDArray[np.bool_]) -> None:
        """Take in one closed minute. ``sigma``: of a minute, in the domain."""
        columns = self._columns
        columns["total"][teach] += points[teach]
        columns["minutes"][teach] += 1
        if (minute_us + MINUTE_US) % _HALF_HOUR_US == 0:
            self._complete(minute_us // _HALF_HOUR_US % _SLOTS, sigma)

    def _complete(self, slot: int, sigma: Floats) -> None:
        columns = self._columns
        full = columns["minutes"] >= limits.SLOPE_MINUTES
        mean = np.where(full, columns["total"] / np.maximum(columns["minutes"], 1), np.nan)
        before = columns["before"]
        away = np.maximum(np.abs(mean - before) - limits.SLOPE_NOISE * sigma, 0)
        change = away / np.maximum(np.maximum(mean, before), 1e-12)
        known = self._table[_NAMES[slot]]
        faded = limits.SLOPE_FADES * known
        newer = ~np.isnan(change) & ~(change < np.abs(faded))
        known[:] = np.where(newer, np.copysign(np.minimum(change, 1.0), mean - before), faded)
        before[:] = mean
        columns["total"][:] = 0
        columns["minutes"][:] = 0
        around = [self._table[_NAMES[(slot + ahead) % _SLOTS]] for ahead in limits.SLOPE_AROUND]
        steepest = np.fmax.reduce([np.abs(one) for one in around])
        columns["path"][:] = np.nan_to_num((around[1] + around[2]) / 2) / 30
        columns["now"][:] = np.where(np.isnan(around[1]) & np.isnan(around[2]), np.nan, steepest)

    def snapshot(self) -> dict[str, Column]:
        """Return all state; the table as one matrix, half-hours × groups."""
        return {**self._columns.snapshot("slope_"), "slope_table": np.stack([self._table[name] for name in _NAMES])}

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._columns.restore(arrays, "slope_")
        self._table.restore(dict(zip(_NAMES, arrays["slope_table"], strict=True)))

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._columns.nbytes + self._table.nbytes
