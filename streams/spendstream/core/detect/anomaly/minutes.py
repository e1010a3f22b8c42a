"""Exact sums of the minutes that are still open."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly.columns import Column, Columns, Rows
from spendstream.core.detect.finding import Updates
from spendstream.core.detect.measures import CALLS, SPEND, denominators, numerators
from spendstream.schemas.watch import Measure

_FIELDS: Final = ("numerator", "denominator", "cost", "calls")
_LAYOUT: Final = dict.fromkeys(_FIELDS, (np.int64, 0))


class Sums(NamedTuple):
    """One minute of some groups, exact: the measure's two sums, pico-dollars and calls. int64, one shape."""

    numerator: NDArray[np.int64]
    denominator: NDArray[np.int64]
    cost: NDArray[np.int64]
    calls: NDArray[np.int64]


class OpenMinutes:
    """Accumulators by minute. A minute exists once something was added to it, and until it is taken."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._minutes: dict[int, Columns] = {}

    def __contains__(self, minute_us: int) -> bool:
        return minute_us in self._minutes

    def add(self, updates: Updates) -> None:
        """Add rows to their minutes. A group and minute may stand in several rows."""
        values = (
            numerators(self._measure, updates.sums),
            denominators(self._measure, updates.sums),
            updates.sums[:, SPEND],
            updates.sums[:, CALLS],
        )
        for minute in np.unique(updates.minutes_us):
            at = np.flatnonzero(updates.minutes_us == minute)
            groups = updates.groups[at]
            columns = self._minutes.setdefault(int(minute), Columns(_LAYOUT))
            columns.grow(int(groups.max()) + 1)
            for name, value in zip(_FIELDS, values, strict=True):
                np.add.at(columns[name], groups, value[at])

    def read(self, minute_us: int, size: int, rows: Rows = slice(None)) -> Sums:
        """Return the sums so far of groups among ``size``; zero where nothing came."""
        columns = self._minutes.get(minute_us) or Columns(_LAYOUT)
        columns.grow(size)
        return Sums(*(columns[name][rows] for name in _FIELDS))

    def take(self, minute_us: int, size: int) -> Sums:
        """Return the sums of a minute and forget it."""
        sums = self.read(minute_us, size)
        self._minutes.pop(minute_us, None)
        return sums

    def open(self) -> list[int]:
        """Return the open minutes, oldest first."""
        return sorted(self._minutes)

    def drop_before(self, minute_us: int) -> None:
        """Forget minutes unread."""
        for minute in [minute for minute in self._minutes if minute < minute_us]:
            del self._minutes[minute]

    def snapshot(self) -> dict[str, Column]:
        """Return all minutes: ``open_us`` (m), ``open_size`` (m), and each field one after the other."""
        opened = self.open()
        parts = {name: [self._minutes[minute][name] for minute in opened] for name in _FIELDS}
        empty = [np.zeros(0, dtype=np.int64)]
        return {
            "open_us": np.array(opened, dtype=np.int64),
            "open_size": np.array([self._minutes[minute].size for minute in opened], dtype=np.int64),
            **{f"open_{name}": np.concatenate(empty + arrays) for name, arrays in parts.items()},
        }

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._minutes = {}
        ends = np.cumsum(arrays["open_size"])
        for minute, end, size in zip(arrays["open_us"], ends, arrays["open_size"], strict=True):
            columns = Columns(_LAYOUT)
            columns.restore({name: arrays[f"open_{name}"][end - size : end] for name in _FIELDS})
            self._minutes[int(minute)] = columns

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(columns.nbytes for columns in self._minutes.values())
