"""The event ids counted within a horizon of log time.

Ids are kept whole (128 bits: a shared hash would lose an event), in generations of log time. Log time is the
running maximum of Kafka timestamps, so the log alone decides what is known and when it is forgotten.
"""

import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

GENERATIONS: Final = 4
"""Generations per horizon. An id is kept for one horizon to one and a quarter."""

_SPREAD_LO: Final = np.uint64(secrets.randbits(64) | 1)
_SPREAD_HI: Final = np.uint64(secrets.randbits(64) | 1)
"""Odd, and drawn by each process: producers choose ids, and could choose many that share a slot. No result depends on
where an id stands."""

_SMALLEST_BITS: Final = 12

Ids = NDArray[np.uint64]
"""Shape (n, 2): the high and the low half of each id. No id is (0, 0): that marks an empty slot."""


class IdTable:
    """A set of 128-bit ids: open addressing in one array, 16 bytes a slot, at most half full."""

    def __init__(self) -> None:
        self._allocate(_SMALLEST_BITS)
        self.count = 0

    def _allocate(self, bits: int) -> None:
        self._bits = bits
        self._slots: Ids = np.zeros((1 << bits, 2), dtype=np.uint64)
        self._mask = np.int64((1 << bits) - 1)

    @property
    def nbytes(self) -> int:
        return self._slots.nbytes

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        """Return for each id whether it is in the set."""
        found = np.zeros(len(ids), dtype=np.bool_)
        if self.count == 0:
            return found
        pending, wanted, at = np.arange(len(ids)), ids, self._home(ids)
        while pending.size:
            there = self._slots.take(at, axis=0)
            hit = _equal(there, wanted)
            found[pending[hit]] = True
            go_on = np.flatnonzero(~hit & ~_empty(there))
            pending, wanted, at = pending[go_on], wanted.take(go_on, axis=0), (at[go_on] + 1) & self._mask
        return found

    def add(self, ids: Ids) -> None:
        """Add ids that are distinct and not in the set."""
        if 2 * (self.count + len(ids)) > len(self._slots):
            old = self._slots
            self._allocate(int(np.ceil(np.log2(4 * (self.count + len(ids))))))
            self._place(old[~_empty(old)])
        self._place(ids)
        self.count += len(ids)

    def _place(self, ids: Ids) -> None:
        at = self._home(ids)
        while len(ids):
            free = np.flatnonzero(_empty(self._slots.take(at, axis=0)))
            self._slots[at[free]] = ids.take(free, axis=0)
            # where two ids took the same free slot, the later one stayed; the other moves on
            left = np.flatnonzero(~_equal(self._slots.take(at, axis=0), ids))
            ids, at = ids.take(left, axis=0), (at[left] + 1) & self._mask

    def _home(self, ids: Ids) -> NDArray[np.int64]:
        mixed = _mixed(ids)
        mixed ^= mixed >> np.uint64(29)
        return ((mixed * _SPREAD_LO) >> np.uint64(64 - self._bits)).astype(np.int64)


class SeenIds:
    """The ids that one partition has counted within the horizon."""

    def __init__(self, horizon_s: int) -> None:
        self._generation_ms = max(1, horizon_s * 1000 // GENERATIONS)
        self._tables: dict[int, IdTable] = {}

    def generation(self, log_clock_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the generation of each moment of log time."""
        return log_clock_ms // self._generation_ms

    def accept(self, ids: Ids, generations: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Accept the first of each id, in order, and remember it.

        ``generations`` never decrease. Returns for each id whether it is the first within its horizon.
        """
        accepted = np.zeros(len(ids), dtype=np.bool_)
        bounds = np.flatnonzero(np.diff(generations)) + 1
        for rows in np.split(np.arange(len(ids)), bounds):
            if rows.size == 0:
                continue
            generation, offered = int(generations[rows[0]]), ids[rows]
            fresh = _first_of_each(offered)
            for known, table in self._tables.items():
                if generation - GENERATIONS <= known <= generation:
                    fresh &= ~table.contains(offered)
            self.learn(generation, offered[fresh])
            accepted[rows] = fresh
        return accepted

    def learn(self, generation: int, ids: Ids) -> None:
        """Remember ids that were counted, none of which the generation knows yet."""
        if len(ids) == 0:
            return
        table = self._tables.setdefault(generation, IdTable())
        table.add(ids)

    def relearn(self, generation: int, ids: Ids) -> None:
        """Like ``learn``, for ids read back from a log that may contain a range twice."""
        ids = ids[_first_of_each(ids)]
        table = self._tables.get(generation)
        self.learn(generation, ids if table is None else ids[~table.contains(ids)])

    def forget(self, log_clock_ms: int) -> None:
        """Drop the generations that no later record can need."""
        oldest = self.live(log_clock_ms)
        for known in [known for known in self._tables if known < oldest]:
            del self._tables[known]

    def live(self, log_clock_ms: int) -> int:
        """Return the oldest generation that a record can need at a moment of log time or later."""
        return log_clock_ms // self._generation_ms - GENERATIONS

    @property
    def count(self) -> int:
        return sum(table.count for table in self._tables.values())

    @property
    def nbytes(self) -> int:
        return sum(table.nbytes for table in self._tables.values())


# A column at a time: a reduction over an axis of two costs several times as much.


def _equal(some: Ids, others: Ids) -> NDArray[np.bool_]:
    equal: NDArray[np.bool_] = (some[:, 0] == others[:, 0]) & (some[:, 1] == others[:, 1])
    return equal


def _empty(slots: Ids) -> NDArray[np.bool_]:
    empty: NDArray[np.bool_] = (slots[:, 0] | slots[:, 1]) == 0
    return empty


def _mixed(ids: Ids) -> NDArray[np.uint64]:
    """Return a number for each id; equal ids have equal numbers."""
    mixed: NDArray[np.uint64] = ids[:, 1] * _SPREAD_LO ^ (ids[:, 0] * _SPREAD_HI)
    return mixed


def _first_of_each(ids: Ids) -> NDArray[np.bool_]:
    ranked_numbers = np.sort(_mixed(ids))
    if (ranked_numbers[1:] != ranked_numbers[:-1]).all():
        return np.ones(len(ids), dtype=np.bool_)
    first = np.zeros(len(ids), dtype=np.bool_)
    pairs = np.ascontiguousarray(ids).view([("hi", np.uint64), ("lo", np.uint64)]).ravel()
    order = np.lexsort((pairs["hi"], pairs["lo"]))  # stable: equal ids stay in order
    ranked = ids[order]
    starts = np.ones(len(ids), dtype=np.bool_)
    starts[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    first[order[starts]] = True
    return first
