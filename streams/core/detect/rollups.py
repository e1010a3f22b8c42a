"""Absolute rollups to what changed, exactly: the detector's memory of every aggregate that may still be revised.

A rollup record replaces its predecessor of the same key, so what it adds is the difference to what was known. An
aggregate is forgotten once it is final twice over: by its partition's event time (or offsets, for a correction), and by
``REWRITTEN_WITHIN_MS`` of the rollup topic's own active time. Within that a meter that crashed in the middle of a flush
has written again whatever it had not; time in which nothing was written doesn't count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS
from schemas.rollup import ON_TIME
from streams.core.clock import MINUTE_US
from streams.core.detect.cut import KEY_BYTES, Born, Bounds, Cut, Source, digest
from streams.core.detect.finding import Arrays
from streams.core.money import PUSD
from streams.core.rollup.aggregates import CORRECTION_BLOCK_OFFSETS
from streams.core.rollup.measures import BUCKET_COSTS, COLUMN, COST, COUNTERFACTUALS, SUMS, TOKENS

REWRITTEN_WITHIN_MS: Final = 300_000
LONGEST_GAP_MS: Final = 10_000
"""A silence of the topic counts as no more active time than this."""

_FIRST_SLOTS: Final = 1024

Int64s = NDArray[np.int64]


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


class NotARollup(ValueError):
    """A record of the rollup topic that can't be read as one."""


class _Rollup(msgspec.Struct):
    source_log: str
    source_partition: int
    minute: str
    correction_block: int
    dimensions: dict[str, str]
    through_offset: int
    calls: int
    failed_calls: int
    retries: int
    late_calls: int
    unpriced_calls: int
    unpriced_tokens: int
    web_searches: int
    gpu_us: int
    latency_ms_sum: int
    latency_calls: int
    tokens: dict[str, int]
    cost_usd: str
    cost_usd_by_bucket: dict[str, str]
    cost_without_cache_usd: str
    cost_at_standard_tier_usd: str
    cost_with_requested_model_usd: str
    first_offset: int = -1


_decode = msgspec.json.Decoder(_Rollup).decode
_PLAIN: Final = SUMS[: SUMS.index(TOKENS[0])]
_TOKEN_COLUMNS: Final = {bucket: COLUMN[field] for bucket, field in zip(TOKEN_BUCKETS, TOKENS, strict=True)}
_COST_COLUMNS: Final = {bucket: COLUMN[field] for bucket, field in zip(COST_BUCKETS, BUCKET_COSTS, strict=True)}
_THROUGH: Final = b'"through_offset":'


class RollupBook:
    """The newest totals of every aggregate that may still change. One writer.

    ``dimensions``: the names that count; what a rollup carries beyond them is summed over, what it lacks is empty.
    ``keep_s``: the allowed lateness of the meter: so long an aggregate is revised after its minute.
    Memory: about 550 bytes an aggregate.
    """

    def __init__(self, dimensions: Sequence[str], keep_s: int) -> None:
        self.dimensions = tuple(dimensions)
        self.combinations: list[tuple[str, ...]] = []
        """By number: the values of ``dimensions``."""
        self.unreadable: list[NotARollup] = []
        self.born: dict[bytes, Born] | None = None
        """The aggregates that were met since the last cut, by the digest of their key; None: nobody wants to know."""
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
        """Take in records in the order of their partitions; return what they added.

        What can't be read as a rollup is left out, and named in ``unreadable`` until that is cleared.
        """
        changes = []
        for record in _newest(records):
            try:
                change = self._replace(record, read(record))
            except NotARollup as error:
                self.unreadable.append(error)
            else:
                if change is not None:
                    changes.append(change)
        if not changes:
            empty = np.zeros(0, dtype=np.int64)
            return Changes(empty, empty, np.zeros((0, len(SUMS)), dtype=np.int64))
        numbers, minutes, sums = zip(*changes, strict=True)
        return Changes(np.array(numbers), np.array(minutes), np.stack(sums))

    def combination(self, values: tuple[str, ...]) -> int:
        """Return the number of a combination of dimension values; a new one where it wasn't known."""
        number = self._numbers.setdefault(values, len(self.combinations))
        if number == len(self.combinations):
            self.combinations.append(values)
        return number

    def known_since(self, minute_us: int) -> Changes:
        """Return all that is known of minutes from ``minute_us`` on, as if it were added now: for a new watch."""
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        slots = slots[self._minutes[slots] >= minute_us]
        return Changes(self._members[slots], self._minutes[slots], self._sums[slots])

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The names of dimensions that keys were made of: as the meter is configured, and as it was."""
        return tuple(self._layouts)

    def cut(self) -> Cut:
        """Return which aggregates are known at this moment; from now on ``born`` names those that are met."""
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        source, blocks = self._source_of[slots], self._blocks[slots]
        on_time = blocks <= ON_TIME
        # one that comes later is of these minutes and blocks almost surely: see Cut.may_be_summed
        oldest_minute = self._newest_minute - self._keep_us
        oldest_block = self._newest_offset // CORRECTION_BLOCK_OFFSETS - 1
        np.minimum.at(oldest_minute, source[on_time], self._minutes[slots][on_time])
        np.minimum.at(oldest_block, source[~on_time], blocks[~on_time])
        bounds = {
            each: Bounds(int(self._newest_offset[number]), int(oldest_minute[number]), int(oldest_block[number]))
            for each, number in self._sources.items()
        }
        self.born = {}
        return Cut(frozenset(self._slots), bounds, self.layouts)

    def forget_final(self) -> int:
        """Forget what is final. Returns how many aggregates."""
        slots = np.fromiter(self._slots.values(), dtype=np.int64, count=len(self._slots))
        if not len(slots):
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
            "combinations": _text(self.combinations, len(self.dimensions)),
            "digests": self._digests[slots],
            "members": self._members[slots],
            "minutes": self._minutes[slots],
            "blocks": self._blocks[slots],
            "sources": self._source_of[slots],
            "partitions": self._partitions[slots],
            "through": self._through[slots],
            "touched_ms": self._touched_ms[slots],
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
        """Take over a snapshot's state. Dimensions that are new since are empty; those that went are summed over.

        Returns: the combinations' present numbers, by their numbers in the snapshot.
        """
        names = arrays["dimensions"].tolist()
        numbers = np.array(
            [self._member(dict(zip(names, values, strict=True))) for values in arrays["combinations"].tolist()],
            dtype=np.int64,
        )
        layouts = arrays["layouts"].tolist() if "layouts" in arrays else [",".join(names)]
        self._layouts = {tuple(filter(None, layout.split(","))): None for layout in layouts}
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
        self._sums[:count] = arrays["sums"]
        self._slots = {self._digest(slot): slot for slot in range(count)}
        self._free = list(range(len(self._through) - 1, count - 1, -1))
        logs, partitions = arrays["source_names"].tolist(), arrays["source_partitions"].tolist()
        self._sources = {source: number for number, source in enumerate(zip(logs, partitions, strict=True))}
        self._newest_minute = np.array(arrays["newest_minute"], dtype=np.int64)
        self._newest_offset = np.array(arrays["newest_offset"], dtype=np.int64)
        for partition, active_ms, latest_ms in arrays["clocks"].tolist():
            self._active_ms[partition], self._latest_ms[partition] = active_ms, latest_ms
        return numbers

    def _replace(self, record: RollupRecord, rollup: _Rollup) -> tuple[int, int, Int64s] | None:
        """Put an aggregate's totals in place of the former ones; return the difference, None where there is none."""
        active_ms = self._advance(record)
        source = self._source(rollup.source_log, rollup.source_partition)
        minute_us = int(np.datetime64(rollup.minute.removesuffix("Z"), "us").astype(np.int64))
        self._newest_minute[source] = max(self._newest_minute[source], minute_us)
        self._newest_offset[source] = max(self._newest_offset[source], rollup.through_offset)
        totals = sums_of(rollup)
        key = digest(record.key)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._new_slot(key)
            self._layouts.setdefault(tuple(rollup.dimensions))
            if self.born is not None:
                origin = rollup.source_log, rollup.source_partition
                self.born[key] = Born(origin, minute_us, rollup.correction_block, rollup.first_offset)
            self._minutes[slot] = minute_us
            self._blocks[slot] = rollup.correction_block
            self._source_of[slot] = source
            self._members[slot] = self._member(rollup.dimensions)
            added = totals
        elif rollup.through_offset <= self._through[slot]:
            self._touched_ms[slot] = active_ms
            return None  # written again, or by a worker that had lost its partition
        else:
            added = totals - self._sums[slot]
        self._through[slot] = rollup.through_offset
        self._touched_ms[slot] = active_ms
        self._partitions[slot] = record.partition
        self._sums[slot] = totals
        return int(self._members[slot]), minute_us, added

    def _advance(self, record: RollupRecord) -> int:
        """Return the active time of the record's partition, in ms, with this record."""
        latest = self._latest_ms.get(record.partition, record.timestamp_ms)
        step = min(max(record.timestamp_ms - latest, 0), LONGEST_GAP_MS)
        self._latest_ms[record.partition] = max(latest, record.timestamp_ms)
        active_ms = self._active_ms.get(record.partition, 0) + step
        self._active_ms[record.partition] = active_ms
        return active_ms

    def _member(self, dimensions: dict[str, str]) -> int:
        return self.combination(tuple(dimensions.get(name, "") for name in self.dimensions))

    def _source(self, log: str, partition: int) -> int:
        number = self._sources.setdefault((log, partition), len(self._sources))
        if number == len(self._newest_minute):
            self._newest_minute = np.append(self._newest_minute, 0)
            self._newest_offset = np.append(self._newest_offset, -1)
        return number

    def _new_slot(self, key: bytes) -> int:
        if not self._free:
            self._grow()
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

    def _grow(self) -> None:
        former = len(self._through)
        for name in ("_digests", "_members", "_minutes", "_blocks", "_source_of", "_partitions", "_through",
                     "_touched_ms", "_sums"):  # fmt: skip
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        self._free = list(range(2 * former - 1, former - 1, -1))


def read(record: RollupRecord) -> _Rollup:
    """Read a rollup record. Raises: NotARollup."""
    try:
        return _decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotARollup(f"partition {record.partition}, key {record.key!r}: {error}") from error


def sums_of(rollup: _Rollup) -> Int64s:
    """Return a rollup's additive measures, in the order of ``SUMS``; money in pico-dollars."""
    sums = np.zeros(len(SUMS), dtype=np.int64)
    for name in _PLAIN:
        sums[COLUMN[name]] = getattr(rollup, name)
    for bucket, count in rollup.tokens.items():
        sums[_TOKEN_COLUMNS[bucket]] = count
    sums[COLUMN[COST]] = _pusd(rollup.cost_usd)
    for bucket, cost in rollup.cost_usd_by_bucket.items():
        sums[_COST_COLUMNS[bucket]] = _pusd(cost)
    counterfactuals = (
        rollup.cost_without_cache_usd,
        rollup.cost_at_standard_tier_usd,
        rollup.cost_with_requested_model_usd,
    )
    for name, cost in zip(COUNTERFACTUALS, counterfactuals, strict=True):
        sums[COLUMN[name]] = _pusd(cost)
    return sums


def _newest(records: Sequence[RollupRecord]) -> Iterable[RollupRecord]:
    """Return of each key the record with the greatest ``through_offset``: the others would be replaced at once."""
    newest: dict[bytes, RollupRecord] = {}
    for record in records:
        former = newest.get(record.key)
        if former is None or _through(record.value) >= _through(former.value):
            newest[record.key] = record
    return newest.values()


def _through(value: bytes) -> int:
    """Return a record's ``through_offset`` without reading the rest; -1 where it isn't there."""
    at = value.find(_THROUGH)
    if at < 0:
        return -1
    at += len(_THROUGH)
    end = value.find(b",", at)
    return int(value[at:end]) if end > 0 and value[at:end].strip().isdigit() else -1


def _pusd(text: str) -> int:
    """Return decimal USD as pico-dollars; faster than through ``Decimal``, for amounts that the meter wrote."""
    whole, _, decimals = text.partition(".")
    if not decimals:
        return int(whole) * PUSD
    fraction = int(decimals.ljust(12, "0"))
    return int(whole) * PUSD + (-fraction if whole.startswith("-") else fraction)


def _text(rows: Sequence[tuple[str, ...]], width: int) -> NDArray[np.str_]:
    return np.array(rows, dtype=np.str_).reshape(len(rows), width)
