"""Recent sums in steps of time, a row for each group: a ring that follows the detection clock."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return the array with at least ``rows`` rows, by doubling; the new ones are 0."""
    if rows <= len(array):
        return array
    wider = np.zeros((max(rows, 2 * len(array), 64), *array.shape[1:]), dtype=array.dtype)
    wider[: len(array)] = array
    return wider


def earliest(array: Ints, groups: Ints, times_us: Ints) -> tuple[Ints, Ints]:
    """Lower each group's time to the earliest of its rows; 0 means none yet. Returns the array and the groups."""
    unique, where = np.unique(groups, return_inverse=True)
    first = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(first, where, times_us)
    array = grown(array, int(unique[-1]) + 1)
    known = array[unique]
    array[unique] = np.where(known == 0, first, np.minimum(known, first))
    return array, unique


class StepRing:
    """What was summed in each of the last ``steps`` steps of ``step_us``, the running one included.

    ``dtype``: int64 is exact up to 9.2e18 in a step; float64 is exact up to 9e15 and never overflows.
    ``columns`` values are kept side by side. Memory: 8 × steps × columns bytes a group.
    """

    def __init__(self, step_us: int, steps: int, columns: int = 1, dtype: type = np.int64) -> None:
        self.step_us = step_us
        self.steps = steps
        self.head: int | None = None
        """Number of the running step: its open is ``head * step_us``. None before the first ``advance``."""
        self._sums: NDArray[Any] = np.zeros((0, steps, columns), dtype=dtype)

    def __len__(self) -> int:
        return len(self._sums)

    def advance(self, now_us: int) -> None:
        """Move to the step of ``now_us`` and forget the steps that fall out. Never moves back."""
        head = now_us // self.step_us
        if self.head is not None and head <= self.head:
            return
        if self.head is not None:
            fresh = np.arange(max(self.head, head - self.steps) + 1, head + 1) % self.steps
            self._sums[:, fresh] = 0
        self.head = head

    def add(self, groups: Ints, times_us: Ints, values: NDArray[Any]) -> None:
        """Add row i of ``values`` (n × columns) to its group and step, unless the ring holds no such step."""
        assert self.head is not None
        steps = times_us // self.step_us
        kept = (steps > self.head - self.steps) & (steps <= self.head)
        if not kept.any():
            return
        groups, steps, values = groups[kept], steps[kept], values[kept]
        self._sums = grown(self._sums, int(groups.max()) + 1)
        np.add.at(self._sums, (groups, steps % self.steps), values)

    @property
    def oldest_us(self) -> int:
        """Open of the oldest step that is kept."""
        assert self.head is not None
        return (self.head - self.steps + 1) * self.step_us

    def window(self, groups: Ints, width: int, ending: int | None = None) -> Floats:
        """Return the sums over ``width`` steps up to and with step ``ending`` (the running one): n × columns."""
        assert self.head is not None
        last = self.head if ending is None else ending
        held = np.arange(max(last - width, self.head - self.steps) + 1, min(last, self.head) + 1) % self.steps
        self._sums = grown(self._sums, int(groups.max(initial=-1)) + 1)
        total: Floats = self._sums[groups[:, None], held].sum(axis=1, dtype=np.float64)
        return total

    def snapshot(self, name: str, groups: int) -> dict[str, NDArray[np.generic]]:
        """Return the state of the first ``groups`` groups as arrays whose names begin with ``name``."""
        head = -1 if self.head is None else self.head
        return {f"{name}_head": np.array([head]), f"{name}_sums": grown(self._sums, groups)[:groups].copy()}

    def restore(self, name: str, arrays: Any) -> None:
        """Restore what ``snapshot`` returned."""
        head = int(arrays[f"{name}_head"][0])
        self.head = None if head < 0 else head
        self._sums = np.array(arrays[f"{name}_sums"], dtype=self._sums.dtype)


class Ahead:
    """Rows of minutes that the detection clock has not reached, kept until it does.

    The clock is the slowest partition's, so while a backlog is read the others may be days ahead.
    """

    def __init__(self, columns: int = 1, dtype: type = np.int64) -> None:
        self._columns = columns
        self._dtype = dtype
        self._by_minute: dict[int, list[tuple[Ints, NDArray[Any]]]] = {}

    def keep(self, groups: Ints, minutes_us: Ints, values: NDArray[Any]) -> None:
        """Keep rows (n, n, n × columns) until their minute."""
        for minute in np.unique(minutes_us).tolist():
            rows = minutes_us == minute
            self._by_minute.setdefault(minute, []).append((groups[rows], values[rows]))

    def due(self, now_us: int) -> Iterator[tuple[Ints, Ints, NDArray[Any]]]:
        """Yield and forget the rows of minutes that have begun, oldest minute first."""
        for minute in sorted(minute for minute in self._by_minute if minute <= now_us):
            for groups, values in self._by_minute.pop(minute):
                yield groups, np.full(len(groups), minute, dtype=np.int64), values

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return all rows as arrays."""
        rows = [(minute, *kept) for minute, several in sorted(self._by_minute.items()) for kept in several]
        none = np.zeros(0, dtype=np.int64)
        empty: NDArray[Any] = np.zeros((0, self._columns), dtype=self._dtype)
        return {
            "ahead_minutes": np.concatenate([none, *(np.full(len(groups), minute) for minute, groups, _ in rows)]),
            "ahead_groups": np.concatenate([none, *(groups for _, groups, _ in rows)]),
            "ahead_values": np.concatenate([empty, *(values for _, _, values in rows)]),
        }

    def restore(self, arrays: Any) -> None:
        """Restore what ``snapshot`` returned."""
        self._by_minute = {}
        values: NDArray[Any] = np.array(arrays["ahead_values"], dtype=self._dtype).reshape(-1, self._columns)
        self.keep(np.array(arrays["ahead_groups"]), np.array(arrays["ahead_minutes"]), values)
