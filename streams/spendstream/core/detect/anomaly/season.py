"""What is usual at each hour of the week: 168 means for a group, made when it has lived long enough.

Only the way from one minute to the next is taken from it, not the level: a group that is 30% up this week is still
expected to double between eight and nine. Between the middles of two hours it goes in a straight line.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly.columns import Column, Columns, Rows
from spendstream.core.detect.anomaly.limits import HOUR_US, SEASON_AFTER_HOURS, SEASON_MINUTES, WEEKS_MEMORY
from spendstream.core.detect.anomaly.scale import Floats

_HOURS: Final = 168
_BINS: Final = [f"mean_{hour}" for hour in range(_HOURS)]
_SEEN: Final = [f"seen_{hour}" for hour in range(_HOURS)]
# One column an hour: a closing minute reads two hours of all groups, each contiguous.
_TABLE: Final = {**dict.fromkeys(_BINS, (np.float32, 0)), **dict.fromkeys(_SEEN, (np.uint8, 0))}
_LAYOUT: Final = {"row": (np.int32, -1), "total": (np.float32, 0), "minutes": (np.uint8, 0), "hours": (np.uint16, 0)}


class Season:
    """Hourly means of all groups, in the measure's domain."""

    def __init__(self) -> None:
        self._columns = Columns(_LAYOUT)
        self._table = Columns(_TABLE)

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        self._columns.grow(size)

    def way(self, from_us: int, to_us: int, rows: Rows) -> tuple[Floats, Floats]:
        """Return the usual change between two minutes, and how sure it is: 0 (unknown), 1/2 after two weeks, to 1."""
        index = self._columns["row"][rows]
        change, trust = np.zeros(len(index)), np.zeros(len(index))
        if not self._table.size or not len(index):
            return change, trust
        has = np.flatnonzero(index >= 0)
        end, weeks = self._at(to_us, index[has])
        start, _ = self._at(from_us, index[has])
        sure = np.where(weeks >= 2, 1 - 1 / np.maximum(weeks, 1), 0.0)
        change[has], trust[has] = end - start, sure
        return change, trust

    def usual(self, minute_us: int) -> Floats:
        """Return every group's mean at a minute; 0 where unknown."""
        index = self._columns["row"]
        found = np.zeros(len(index))
        has = np.flatnonzero(index >= 0)
        if len(has):
            found[has], _ = self._at(minute_us, index[has])
        return found

    def _at(self, minute_us: int, index: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Return means and weeks seen at a minute, in a line between the middles of its two hours."""
        position = minute_us / HOUR_US - 0.5
        hour = int(position // 1)
        part = position - hour
        near, far = hour % _HOURS, (hour + 1) % _HOURS
        means = self._table[_BINS[near]][index] * (1 - part) + self._table[_BINS[far]][index] * part
        weeks = np.minimum(self._table[_SEEN[near]][index], self._table[_SEEN[far]][index])
        return means.astype(np.float64), weeks.astype(np.float64)

    def learn(self, minute_us: int, points: Floats, teach: NDArray[np.bool_]) -> None:
        """Take in one closed minute; the last one of an hour completes the hour's mean."""
        columns = self._columns
        columns["total"][teach] += points[teach]
        columns["minutes"][teach] += 1
        if (minute_us // 60_000_000) % 60 == 59:
            self._complete((minute_us // HOUR_US) % _HOURS)

    def _complete(self, hour: int) -> None:
        columns = self._columns
        full = columns["minutes"] >= SEASON_MINUTES
        columns["hours"][full & (columns["hours"] < 65_535)] += 1
        self._allocate(np.flatnonzero(full & (columns["row"] < 0) & (columns["hours"] >= SEASON_AFTER_HOURS)))
        at = np.flatnonzero(full & (columns["row"] >= 0))
        index = columns["row"][at]
        if len(index):
            means, seen = self._table[_BINS[hour]], self._table[_SEEN[hour]]
            seen[index] = np.minimum(seen[index] + 1, WEEKS_MEMORY)
            means[index] += (columns["total"][at] / columns["minutes"][at] - means[index]) / seen[index]
        columns["total"][:] = 0
        columns["minutes"][:] = 0

    def _allocate(self, groups: NDArray[np.int64]) -> None:
        if len(groups):
            first = self._table.size
            self._table.grow(first + len(groups))
            self._columns["row"][groups] = np.arange(first, first + len(groups))

    def snapshot(self) -> dict[str, Column]:
        """Return all state; the table as two matrices, hours × rows."""
        return {
            **self._columns.snapshot("season_"),
            "season_table": np.stack([self._table[name] for name in _BINS]),
            "season_seen": np.stack([self._table[name] for name in _SEEN]),
        }

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._columns.restore(arrays, "season_")
        table = dict(zip(_BINS, arrays["season_table"], strict=True))
        self._table.restore({**table, **dict(zip(_SEEN, arrays["season_seen"], strict=True))})

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._columns.nbytes + self._table.nbytes
