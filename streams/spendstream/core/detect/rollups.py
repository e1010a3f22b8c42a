"""Absolute rollups to what changed, exactly: the detector's memory of every aggregate that may still be revised.

A rollup record replaces its predecessor of the same key, so what it adds is the difference to what was known. An
aggregate is forgotten once it is final twice over: by its partition's event time (or offsets, for a correction), and by
``REWRITTEN_WITHIN_MS`` of the rollup topic's active time. Within that time, a meter that crashed in the middle of a
flush has rewritten whatever it had not finished; time in which nothing was written doesn't count.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.detect.finding import Arrays
from spendstream.core.detect.measures import by_measure_of_today
from spendstream.core.rollup_record import NotARollup, Rollup, read_rollup, refused, sums_of
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import SUMS
from spendstream.schemas.rollup import ON_TIME

REWRITTEN_WITHIN_MS: Final = 300_000
MAX_GAP_MS: Final = 10_000
"""A gap between records counts as active time up to this much."""

KEY_BYTES: Final = 16

_FIRST_SLOTS: Final = 1024
_NOTHING: Final = -(2**62)
"""The last offset of an aggregate of which nothing was read yet."""

_THROUGH_FIELD: Final = b'"through_offset":'

Int64s = NDArray[np.int64]
Source = tuple[str, int]
"""A source log and a partition of it."""


class SeedBoundary(NamedTuple):
    """Where a source was when a seeding began. An aggregate is *before* it if its last offset is at most
    ``through_offset``, and its minute is before ``minute_us`` (on time) or its block before ``block`` (a correction).

    Of what the book had read by then, it holds no aggregate before the boundary: those were final and forgotten.
    """

    through_offset: int
    minute_us: int
    block: int


class RollupRecord(NamedTuple):
    """A record of the rollup topic: its partition there, Kafka timestamp in ms, key and value."""

    partition: int
    timestamp_ms: int
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Changes:
    """What was added. Row i adds ``sums[i]`` (int64, in the order of ``SUMS``) to a combination's minute."""

    combinations: Int64s
    minutes_us: Int64s
    sums: Int64s

    def __len__(self) -> int:
        return len(self.combinations)


class RollupBook:
    """The newest totals of every aggregate that may still change. One writer.

    ``dimensions``: the names that count; a rollup's other dimensions are summed over, and those it lacks are empty.
    ``keep_s``: the allowed lateness of the meter, for which an aggregate may be revised after its minute.
    Memory: about 550 bytes an aggregate.
    """

    def __init__(self, dimensions: Sequence[str], keep_s: int) -> None:
        self.dimensions = tuple(dimensions)
        self.combinations: list[tuple[str, ...]] = []
        """By number: the values of ``dimensions``."""
        self.unreadable: list[NotARollup] = []
        self._is_seeding = False
        self._layouts: dict[tuple[str, ...], None] = {}
        self._keep_us = keep_s * 1_000_000 + 2 * MINUTE_US
        self._numbers: dict[tuple[str, ...], int] = {}
        self._slots: dict[bytes, int] = {}
        self._free: list[int] = []
        self._sources: dict[Source, int] = {}
        self._newest_minute = np.zeros(0, dtype=np.int64)  # by source
        self._newest_offset = np.zeros(0, dtype=np.int64)
        self._active_ms: dict[int, int] = {}  # by partition of the rollup topic
        self._latest_ms: dict[int, int] = {}
        self._allocate(_FIRST_SLOTS)

    def __len__(self) -> int:
        return len(self._slots)

    def absorb(self, records: Sequence[RollupRecord]) -> Changes:
        """Absorb records in the order of their partitions. Returns what they added.

        What can't be read as a rollup is left out, and listed in ``unreadable`` until that is cleared.
        """
        read: list[tuple[RollupRecord, Rollup]] = []
        for record in newest(records):
            try:
                read.append((record, read_rollup(record.value)))
            except NotARollup as error:
                self._note_unreadable(record, error)
        try:
            totals = sums_of([rollup for _, rollup in read])
        except NotARollup:
            errors = refused([rollup for _, rollup in read], sums_of)
            for number, reason in errors.items():
                self._note_unreadable(read[number][0], reason)
            read = [pair for number, pair in enumerate(read) if number not in errors]
            totals = sums_of([rollup for _, rollup in read])
        self._advance([record for record, _ in read])
        return self._replace(read, totals)

    def combination(self, values: tuple[str, ...]) -> int:
        """Return the number of a combination of dimension values; a new number where it wasn't known."""
        number = self._numbers.setdefault(values, len(self.combinations))
        if number == len(self.combinations):
            self.combinations.append(values)
        return number

    def known_since(self, minute_us: int) -> Changes:
        """Return everything known of minutes from ``minute_us`` on, as if it were added now: for a new watch."""
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        slots = slots[self._minutes[slots] >= minute_us]
        return Changes(self._members[slots], self._minutes[slots], self._sums[slots])

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The names of dimensions that keys were made of: as the meter is configured, and as it was."""
        return tuple(self._layouts)

    def holds_any(self, digests: Iterable[bytes]) -> bool:
        """Return whether any of these digests is that of a known aggregate. Other threads may ask."""
        return not self._slots.keys().isdisjoint(digests)

    def begin_seeding(self) -> dict[Source, SeedBoundary]:
        """Forget nothing until ``end_seeding``. Returns each source's boundary."""
        self._is_seeding = True
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        source, blocks = self._source_of[slots], self._blocks[slots]
        on_time = blocks <= ON_TIME
        oldest_minute = self._newest_minute - self._keep_us
        oldest_block = self._newest_offset // CORRECTION_BLOCK_OFFSETS - 1
        np.minimum.at(oldest_minute, source[on_time], self._minutes[slots][on_time])
        np.minimum.at(oldest_block, source[~on_time], blocks[~on_time])
        return {
            each: SeedBoundary(int(self._newest_offset[number]), int(oldest_minute[number]), int(oldest_block[number]))
            for each, number in self._sources.items()
        }

    def holds_any_before(self, boundaries: Mapping[Source, SeedBoundary]) -> bool:
        """Return whether an aggregate before a boundary has arrived since: it was on its way when that was drawn.

        Such an aggregate comes in a flush of which the book had read a part: an old minute's, with a row of its own.
        """
        none = SeedBoundary(_NOTHING, 0, 0)
        limits = np.array([boundaries.get(source, none) for source in self._sources], dtype=np.int64).reshape(-1, 3)
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        through, minute_us, block = limits[self._source_of[slots]].T
        blocks = self._blocks[slots]
        is_old = np.where(blocks <= ON_TIME, self._minutes[slots] < minute_us, blocks < block)
        return bool((is_old & (self._through[slots] <= through)).any())

    def end_seeding(self) -> None:
        """Forget again what is final."""
        self._is_seeding = False

    def forget_final(self) -> int:
        """Forget what is final, unless a seeding is under way. Returns how many aggregates."""
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        if self._is_seeding or not len(slots):
            return 0
        source = self._source_of[slots]
        on_time = self._blocks[slots] <= ON_TIME
        by_time = self._minutes[slots] < self._newest_minute[source] - self._keep_us
        by_offset = (self._blocks[slots] + 1) * CORRECTION_BLOCK_OFFSETS < self._newest_offset[source]
        active = np.zeros(max(self._active_ms, default=0) + 1, dtype=np.int64)
        for partition, ms in self._active_ms.items():
            active[partition] = ms
        settled = active[self._partitions[slots]] - self._touched_ms[slots] > REWRITTEN_WITHIN_MS
        final = np.where(on_time, by_time, by_offset) & settled
        for slot in slots[final].tolist():
            del self._slots[self._digest(slot)]
            self._free.append(slot)
        return int(final.sum())

    def snapshot(self) -> Arrays:
        """Return all of the state."""
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        sources = list(self._sources)
        partitions = sorted(self._active_ms)
        return {
            "dimensions": np.array(self.dimensions, dtype=np.str_),
            "layouts": np.array([",".join(names) for names in self._layouts], dtype=np.str_),
            "combinations": np.array(self.combinations, dtype=np.str_).reshape(
                len(self.combinations), len(self.dimensions)
            ),
            "digests": self._digests[slots],
            "members": self._members[slots],
            "minutes": self._minutes[slots],
            "blocks": self._blocks[slots],
            "sources": self._source_of[slots],
            "partitions": self._partitions[slots],
            "through": self._through[slots],
            "touched_ms": self._touched_ms[slots],
            "measures": np.array(SUMS, dtype=np.str_),
            "sums": self._sums[slots],
            "source_names": np.array([log for log, _ in sources], dtype=np.str_),
            "source_partitions": np.array([partition for _, partition in sources], dtype=np.int64),
            "newest_minute": self._newest_minute,
            "newest_offset": self._newest_offset,
            "clocks": np.array(
                [(p, self._active_ms[p], self._latest_ms[p]) for p in partitions], dtype=np.int64
            ).reshape(-1, 3),
        }

    def restore(self, arrays: Arrays) -> Int64s:
        """Restore a snapshot. Dimensions added since are empty; those removed since are summed over.

        Returns the combinations' present numbers, by their numbers in the snapshot.
        """
        names = arrays["dimensions"].tolist()
        numbers = np.array(
            [self._member(dict(zip(names, values, strict=True))) for values in arrays["combinations"].tolist()],
            dtype=np.int64,
        )
        self._layouts = {tuple(filter(None, layout.split(","))): None for layout in arrays["layouts"].tolist()}
        count = len(arrays["digests"])
        self._allocate(max(count, _FIRST_SLOTS))
        self._digests[:count] = arrays["digests"]
        self._members[:count] = numbers[arrays["members"].astype(np.int64)] if count else 0
        self._minutes[:count] = arrays["minutes"]
        self._blocks[:count] = arrays["blocks"]
        self._source_of[:count] = arrays["sources"]
        self._partitions[:count] = arrays["partitions"]
        self._through[:count] = arrays["through"]
        self._touched_ms[:count] = arrays["touched_ms"]
        self._sums[:count] = by_measure_of_today(arrays["sums"], arrays["measures"].tolist())
        self._slots = {self._digest(slot): slot for slot in range(count)}
        self._free = list(range(len(self._through) - 1, count - 1, -1))
        logs, partitions = arrays["source_names"].tolist(), arrays["source_partitions"].tolist()
        self._sources = {source: number for number, source in enumerate(zip(logs, partitions, strict=True))}
        self._newest_minute = np.array(arrays["newest_minute"], dtype=np.int64)
        self._newest_offset = np.array(arrays["newest_offset"], dtype=np.int64)
        for partition, active_ms, latest_ms in arrays["clocks"].tolist():
            self._active_ms[partition], self._latest_ms[partition] = active_ms, latest_ms
        return numbers

    def _note_unreadable(self, record: RollupRecord, error: NotARollup) -> None:
        self.unreadable.append(NotARollup(f"partition {record.partition}, key {record.key!r}: {error}", error.reason))

    def _replace(self, read: Sequence[tuple[RollupRecord, Rollup]], totals: Int64s) -> Changes:
        """Replace the former totals, each aggregate's at most once. Returns the differences."""
        slots = np.array([self._slot(record, rollup) for record, rollup in read], dtype=np.int64)
        through = np.array([rollup.through_offset for _, rollup in read], dtype=np.int64)
        np.maximum.at(self._newest_minute, self._source_of[slots], self._minutes[slots])
        np.maximum.at(self._newest_offset, self._source_of[slots], through)
        self._partitions[slots] = [record.partition for record, _ in read]
        self._touched_ms[slots] = [self._active_ms[record.partition] for record, _ in read]
        # what isn't newer was rewritten, or written by a worker that had lost its partition
        is_newer = through > self._through[slots]
        slots, totals = slots[is_newer], totals[is_newer]
        added = totals - self._sums[slots]
        self._sums[slots] = totals
        self._through[slots] = through[is_newer]
        return Changes(self._members[slots], self._minutes[slots], added)

    def _slot(self, record: RollupRecord, rollup: Rollup) -> int:
        """Return the slot of an aggregate; a new, empty one where it wasn't known."""
        key = digest(record.key)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._new_slot(key)
            self._layouts.setdefault(tuple(rollup.dimensions))
            self._minutes[slot] = rollup.minute_us
            self._blocks[slot] = rollup.correction_block
            source = self._sources.setdefault((rollup.source_log, rollup.source_partition), len(self._sources))
            if source == len(self._newest_minute):
                self._newest_minute = np.append(self._newest_minute, 0)
                self._newest_offset = np.append(self._newest_offset, -1)
            self._source_of[slot] = source
            self._members[slot] = self._member(rollup.dimensions)
            self._through[slot] = _NOTHING
            self._sums[slot] = 0
        return slot

    def _advance(self, records: Sequence[RollupRecord]) -> None:
        """Add to each partition's active time what these records show."""
        by_partition: dict[int, list[int]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record.timestamp_ms)
        for partition, times in by_partition.items():
            latest = self._latest_ms.get(partition, min(times))
            steps = np.diff(np.maximum.accumulate([latest, *sorted(times)]))
            self._latest_ms[partition] = max(latest, *times)
            self._active_ms[partition] = self._active_ms.get(partition, 0) + int(np.minimum(steps, MAX_GAP_MS).sum())

    def _member(self, dimensions: dict[str, str]) -> int:
        if tuple(dimensions) == self.dimensions:
            return self.combination(tuple(dimensions.values()))
        return self.combination(tuple(dimensions.get(name, "") for name in self.dimensions))

    def _new_slot(self, key: bytes) -> int:
        if not self._free:
            former = len(self._through)
            for name in ("_digests", "_members", "_minutes", "_blocks", "_source_of", "_partitions", "_through",
                         "_touched_ms", "_sums"):  # fmt: skip
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
            self._free = list(range(2 * former - 1, former - 1, -1))
        slot = self._free.pop()
        self._slots[key] = slot
        self._digests[slot] = np.frombuffer(key, dtype=np.uint8)
        return slot

    def _digest(self, slot: int) -> bytes:
        return bytes(self._digests[slot])

    def _allocate(self, slots: int) -> None:
        self._digests = np.zeros((slots, KEY_BYTES), dtype=np.uint8)
        self._members = np.zeros(slots, dtype=np.int64)
        self._minutes = np.zeros(slots, dtype=np.int64)
        self._blocks = np.zeros(slots, dtype=np.int64)
        self._source_of = np.zeros(slots, dtype=np.int64)
        self._partitions = np.zeros(slots, dtype=np.int64)
        self._through = np.zeros(slots, dtype=np.int64)
        self._touched_ms = np.zeros(slots, dtype=np.int64)
        self._sums = np.zeros((slots, len(SUMS)), dtype=np.int64)
        self._free = list(range(slots - 1, -1, -1))


def newest(records: Iterable[RollupRecord]) -> Iterable[RollupRecord]:
    """Return of each key the record with the greatest ``through_offset``: the others would be replaced at once."""
    found: dict[bytes, RollupRecord] = {}
    for record in records:
        former = found.setdefault(record.key, record)
        if former is not record and _through(record.value) >= _through(former.value):
            found[record.key] = record
    return found.values()


def _through(value: bytes) -> int:
    """Return a record's ``through_offset`` without reading the rest; -1 where it isn't there."""
    at = value.find(_THROUGH_FIELD)
    if at < 0:
        return -1
    at += len(_THROUGH_FIELD)
    end = value.find(b",", at)
    return int(value[at:end]) if end > 0 and value[at:end].strip().isdigit() else -1


def digest(key: bytes) -> bytes:
    """Return the digest of an aggregate's Kafka key: ``KEY_BYTES`` bytes, by which the book knows it."""
    return hashlib.blake2b(key, digest_size=KEY_BYTES).digest()
