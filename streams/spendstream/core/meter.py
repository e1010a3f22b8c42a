"""The meter of one source partition: decode, check, dedupe, price, roll up. Pure: a function of the log alone.

Nothing here waits or writes. ``absorb`` takes fetch batches in offset order; ``take`` returns what they produced
since the last take. Once all of that is acknowledged, ``mark_durable`` drops what no replay can need.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from spendstream.core.aggregates import Aggregates, blocks
from spendstream.core.batch import NO_TIMESTAMP, RecordBatch
from spendstream.core.decode import Rejection, decode, uuid_text
from spendstream.core.dedupe import Ids, SeenIds
from spendstream.core.lateness import CORRECTION_CODE, NO_WATERMARK, advance, classify_lateness, window_of
from spendstream.core.money import usd_text
from spendstream.core.pricing import PriceBook, RateSet
from spendstream.core.progress import ProgressRecord
from spendstream.core.rollup_record import AggregateKey, Rollup, totals_of
from spendstream.core.timestamps import epoch_us
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.measures import (
    BUCKET_COSTS,
    COST,
    COUNTERFACTUALS,
    ESTIMATED,
    PARTIAL,
    PRICE_QUALITIES,
    SUBSTITUTED,
)
from spendstream.schemas.progress import BookInForce, Counters, Progress, Quarantined, RateSwitch
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS

Books = Mapping[tuple[str, int], PriceBook | None]
"""The books that a log may switch to, by id and offset of publication; None where this release can't rebuild one."""

_NO_BOOKS: Final[Books] = MappingProxyType({})
_NO_IDS: Final = np.zeros((0, 2), dtype=np.uint64)
_NO_GENERATIONS: Final = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class MeterRules:
    """The rules that decide what is counted and when. All workers of a group must have the same."""

    dimensions: tuple[str, ...] = DEFAULT_DIMENSIONS
    allowed_lateness_s: int = 600
    allowed_skew_s: int = 300
    dedupe_horizon_s: int = 3600
    cardinality_cap: int = 10_000
    max_record_bytes: int = 1_000_000


@dataclass(frozen=True)
class Rejected:
    """A record that becomes a dead letter."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    rejection: Rejection


@dataclass(frozen=True)
class Rerouted:
    """A keyless record on its way to the partition that its key belongs to."""

    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes


@dataclass(frozen=True)
class MeterOutput:
    """What the batches since the last take produced. All of it must be acknowledged before ``progress`` is written."""

    calls: pl.DataFrame | None
    cards: dict[str, RateSet]
    """By id: every card on the rows of ``calls``."""
    rollups: list[tuple[AggregateKey, NDArray[np.int64]]]
    rejected: list[Rejected]
    rerouted: list[Rerouted]
    progress: ProgressRecord


class UnknownRateBook(LookupError):
    """The log switches to a book that isn't among those given. Nothing was absorbed: add it, and absorb again."""

    def __init__(self, switch: RateSwitch) -> None:
        self.switch = switch
        super().__init__(f"rate book {switch.rate_book}, published at offset {switch.published}")


class StageFailed(Exception):
    """A bug stopped a stage half-way: the meter is unusable. ``stage``: where; the cause is chained."""

    def __init__(self, stage: str, error: Exception) -> None:
        self.stage = stage
        super().__init__(f"{stage}: {error!r}")


@contextmanager
def stage(name: str, unexpected: type[Exception] = Exception) -> Iterator[None]:
    """Name the stage that an unexpected error comes from. Raises: StageFailed."""
    try:
        yield
    except (UnknownRateBook, StageFailed):
        raise
    except unexpected as error:
        raise StageFailed(name, error) from error


@dataclass
class _Pending:
    first_offset: int | None = None
    calls: list[pl.DataFrame] = field(default_factory=list)
    cards: dict[str, RateSet] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    rerouted: list[Rerouted] = field(default_factory=list)
    ids: list[Ids] = field(default_factory=list)
    generations: list[NDArray[np.int64]] = field(default_factory=list)


class PartitionMeter:
    """Meters one source partition, starting after a marker. Takes batches in offset order; replays are skipped.

    ``book``: prices what comes after the marker. ``books``: those that the log may switch to; it may grow.
    """

    def __init__(self, marker: Progress, rules: MeterRules, book: PriceBook, books: Books = _NO_BOOKS) -> None:
        self._rules = rules
        self._prices = book
        self._books = books
        self._book = marker.book
        self._marker = marker
        self._through = marker.through_offset
        self._watermark_us = marker.watermark_us
        self._through_timestamp_ms = marker.through_timestamp_ms
        self._log_clock_ms = marker.log_clock_ms
        self._counters = marker.counters.model_dump()
        self.seen = SeenIds(rules.dedupe_horizon_s)
        self.aggregates = Aggregates(rules.dimensions, rules.cardinality_cap)
        self._pending = _Pending()
        self._quarantined = {each.offset: each for each in marker.quarantined}
        self._rollup_end = marker.rollups_from
        self._ids_from: dict[int, int] = {}
        self._progress_end = 0

    @property
    def marker(self) -> Progress:
        """What is durable."""
        return self._marker

    @property
    def through_offset(self) -> int:
        """The last record absorbed, durable or not."""
        return self._through

    @property
    def book(self) -> BookInForce:
        """What prices the records after ``through_offset``."""
        return self._book

    @property
    def has_pending(self) -> bool:
        return self._pending.first_offset is not None

    @property
    def pending_calls(self) -> int:
        return sum(frame.height for frame in self._pending.calls)

    @property
    def watermark_us(self) -> int:
        return self._watermark_us

    @property
    def counters(self) -> Counters:
        return Counters(**self._counters)

    def absorb(self, batch: RecordBatch, now: datetime) -> None:
        """Meter a batch.

        ``now`` stamps ``priced_at`` and caps record times that are ahead of it: a producer whose clock is years ahead
        would make dedupe forget every id, and let events of that future through. It affects nothing else.
        Raises: UnknownRateBook, before anything has changed.
        """
        recorded = batch.after(self._through)
        if recorded is None:
            return
        latest_ms = epoch_us(now) // 1000 + self._rules.allowed_skew_s * 1000
        stamps = np.clip(recorded.timestamps_ms, NO_TIMESTAMP, latest_ms)
        fresh = dataclasses.replace(recorded, timestamps_ms=stamps)
        log_clock = np.maximum(np.maximum.accumulate(fresh.timestamps_ms), self._log_clock_ms)
        with stage("decode"):
            held = self._held(fresh)
            values = (
                [None if row in held else value for row, value in enumerate(fresh.values)] if held else fresh.values
            )
            decoded = decode(values, self._rules.max_record_bytes)
            rejected = decoded.rejected | held
            switches = {row: switch for row in decoded.rejected if (switch := _switch(values[row])) is not None}
            books = self._books_from(fresh, switches)
        if self._pending.first_offset is None:
            self._pending.first_offset = self._through + 1
        with stage("check"):
            self._reject(fresh, {row: why for row, why in rejected.items() if row not in switches})
            calls = self._located(decoded.calls, fresh, log_clock)
            # first: a dead letter stays in the partition where it was recorded
            calls = self._without_future(calls, fresh)
            calls = self._without_keyless(calls, fresh)
            calls = self._in_time(calls)
            calls = self._deduplicated(calls)
        with stage("price"):
            calls = self._priced_by(books, calls, now)
        with stage("fold"):
            fresh_calls = self.aggregates.absorb(calls.with_columns(pl.Series("block", blocks(calls))))
        if fresh_calls.height:
            self._pending.calls.append(fresh_calls)
        self._book, self._prices = books[-1]
        self._counters["records"] += len(fresh.values) - len(switches)
        self._through = fresh.last_offset
        self._through_timestamp_ms = int(recorded.timestamps_ms[-1])
        self._log_clock_ms = int(log_clock[-1])
        self.seen.forget(self._log_clock_ms)

    def quarantine(self, faults: Sequence[Quarantined]) -> ProgressRecord:
        """Turn records that are still to be absorbed into dead letters. Returns the marker that makes it durable.

        Nothing may be pending: the marker repeats what is durable.
        """
        assert not self.has_pending
        self._quarantined.update({each.offset: each for each in faults})
        self._marker = self._marker.model_copy(update={"quarantined": list(self._quarantined.values())})
        marker = self._marker.model_copy(update={"first_offset": self._through + 1, "id_segments": []})
        return ProgressRecord(marker, _NO_IDS, _NO_GENERATIONS)

    def trial(self, first_offset: int) -> "PartitionMeter":
        """Return an empty meter of the same rules and books that starts at an offset: to see what fails."""
        marker = self._marker.model_copy(
            update={
                "through_offset": first_offset - 1,
                "book": self._book,
                "quarantined": [*self._quarantined.values()],
            }
        )
        return PartitionMeter(marker, self._rules, self._prices, self._books)

    def _held(self, batch: RecordBatch) -> dict[int, Rejection]:
        """Return the records of a batch that are quarantined, by row."""
        if not self._quarantined:
            return {}
        return {
            row: Rejection(Reason.INTERNAL_ERROR, None, f"{found.stage}: {found.error}", stage=found.stage)
            for row, offset in enumerate(batch.offsets.tolist())
            if (found := self._quarantined.get(offset)) is not None
        }

    def _reject(self, batch: RecordBatch, rejected: dict[int, Rejection]) -> None:
        for row, rejection in rejected.items():
            self._pending.rejected.append(
                Rejected(
                    offset=int(batch.offsets[row]),
                    timestamp_ms=int(batch.timestamps_ms[row]),
                    key=batch.keys[row],
                    value=batch.values[row],
                    rejection=rejection,
                )
            )
        self._counters["dead_letters"] += len(rejected)

    def _located(self, calls: pl.DataFrame, batch: RecordBatch, log_clock_ms: NDArray[np.int64]) -> pl.DataFrame:
        """Add where and when each call was recorded. A record without a timestamp takes the log's clock."""
        rows = calls["row"].to_numpy()
        stamps = batch.timestamps_ms[rows]
        recorded = np.where(stamps == NO_TIMESTAMP, log_clock_ms[rows], stamps)
        return calls.with_columns(
            pl.Series("offset", batch.offsets[rows]),
            pl.Series("recorded_at_us", recorded * 1000),
            pl.Series("generation", self.seen.generation(log_clock_ms[rows])),
        )

    def _without_keyless(self, calls: pl.DataFrame, batch: RecordBatch) -> pl.DataFrame:
        """Reroute records without a Kafka key: their duplicates may be in any partition, a key brings them together."""
        if None not in batch.keys:
            return calls
        keyless = np.fromiter((batch.keys[row] is None for row in calls["row"]), dtype=np.bool_, count=calls.height)
        if not keyless.any():
            return calls
        for call in calls.filter(pl.Series(keyless)).iter_rows(named=True):
            value = batch.values[call["row"]]
            assert value is not None, "a decoded record has a value"
            key = call["task_id"] or call["conversation_id"] or uuid_text(call["id_hi"], call["id_lo"])
            self._pending.rerouted.append(Rerouted(call["offset"], call["recorded_at_us"] // 1000, key.encode(), value))
        self._counters["rerouted"] += int(keyless.sum())
        return calls.filter(pl.Series(~keyless))

    def _without_future(self, calls: pl.DataFrame, batch: RecordBatch) -> pl.DataFrame:
        """Reject events ahead of their record by more than the allowed skew: they would move the watermark too far."""
        ahead_us = (calls["occurred_at_us"] - calls["recorded_at_us"]).to_numpy()
        # a log without timestamps has no clock to be ahead of
        future = (ahead_us > self._rules.allowed_skew_s * 1_000_000) & (calls["recorded_at_us"] > 0).to_numpy()
        if not future.any():
            return calls
        rejected = {}
        for row, ahead, hi, lo, service in zip(
            *(column.filter(pl.Series(future)).to_list() for column in (calls["row"], pl.Series(ahead_us))),
            *(calls[name].filter(pl.Series(future)).to_list() for name in ("id_hi", "id_lo", "service")),
            strict=True,
        ):
            message = (
                f"occurred_at: {ahead / 1e6:.0f} s ahead of the record's Kafka timestamp; at most "
                f"{self._rules.allowed_skew_s} s are allowed: set the producer's clock"
            )
            rejected[row] = Rejection(
                Reason.OCCURRED_IN_FUTURE, "occurred_at", message, uuid_text(hi, lo), service or None
            )
        self._reject(batch, rejected)
        return calls.filter(pl.Series(~future))

    def _in_time(self, calls: pl.DataFrame) -> pl.DataFrame:
        """Add each call's window and lateness; advance the watermark."""
        occurred = calls["occurred_at_us"].to_numpy()
        minute = window_of(occurred)
        watermark = advance(self._watermark_us, occurred) if calls.height else occurred
        lateness = classify_lateness(minute, watermark, self._rules.allowed_lateness_s)
        if calls.height:
            self._watermark_us = int(watermark[-1])
        return calls.with_columns(pl.Series("minute_us", minute), pl.Series("lateness", lateness))

    def _deduplicated(self, calls: pl.DataFrame) -> pl.DataFrame:
        ids = np.column_stack((calls["id_hi"].to_numpy(), calls["id_lo"].to_numpy()))
        generations = calls["generation"].to_numpy()
        first = self.seen.accept(ids, generations)
        self._pending.ids.append(ids[first])
        self._pending.generations.append(generations[first])
        self._counters["duplicates"] += int(calls.height - first.sum())
        kept = calls if first.all() else calls.filter(pl.Series(first))
        lateness = kept["lateness"].to_numpy()
        self._counters["metered"] += kept.height
        self._counters["late"] += int(np.count_nonzero(lateness == 1))
        self._counters["corrections"] += int(np.count_nonzero(lateness == CORRECTION_CODE))
        return kept

    def _books_from(
        self, batch: RecordBatch, switches: Mapping[int, RateSwitch]
    ) -> list[tuple[BookInForce, PriceBook]]:
        """Return the book in force and those that a batch switches to, in order of their first offset."""
        books = [(self._book, self._prices)]
        for row, switch in sorted(switches.items()):
            former, _ = books[-1]
            if switch.published <= former.published:
                continue
            at = switch.rate_book, switch.published
            if at not in self._books:
                raise UnknownRateBook(switch)
            prices = self._books[at]
            if prices is not None:
                since = former.since if former.id == switch.rate_book else int(batch.offsets[row]) + 1
                books.append((BookInForce(id=at[0], published=at[1], since=since), prices))
        return books

    def _priced_by(
        self, books: Sequence[tuple[BookInForce, PriceBook]], calls: pl.DataFrame, now: datetime
    ) -> pl.DataFrame:
        """Price each call by the book in force at its offset."""
        if len(books) == 1:
            return self._priced(calls, books[0][1], now)
        cuts = np.searchsorted(calls["offset"].to_numpy(), [book.since for book, _ in books[1:]])
        parts = zip([0, *cuts], [*cuts, calls.height], books, strict=True)
        return pl.concat([self._priced(calls[start:end], prices, now) for start, end, (_, prices) in parts])

    def _priced(self, calls: pl.DataFrame, book: PriceBook, now: datetime) -> pl.DataFrame:
        """Add the model, the costs in pico-dollars, the rate card they come from, and the counterfactual costs."""
        asked = pl.coalesce("requested_at_us", "occurred_at_us").alias("priced_at_us")
        costs = book.price(calls.with_columns(asked))
        nothing = np.zeros(calls.height, dtype=np.int64)
        cards = [card.id for card in costs.cards] + [""]
        sources = [card.source for card in costs.cards] + [""]
        card = pl.Series(costs.card.astype(np.int64) % len(cards))
        self._pending.cards.update(zip(cards, costs.sets, strict=False))
        self._counters["unpriced"] += int(np.count_nonzero(~costs.priced))
        of_quality = np.bincount(costs.quality, minlength=len(PRICE_QUALITIES)).tolist()
        for mark, code in (("substituted", SUBSTITUTED), ("estimated", ESTIMATED), ("partly_priced", PARTIAL)):
            self._counters[mark] += of_quality[code]
        return calls.with_columns(
            pl.when(pl.col("model_served") == "")
            .then(pl.col("model_requested"))
            .otherwise(pl.col("model_served"))
            .alias("model"),
            pl.col("gpu_us").fill_null(0),
            pl.Series("priced", costs.priced),
            pl.Series("unpriced_reason", costs.unpriced_reason),
            pl.Series("quality", costs.quality),
            pl.Series("price_notes", costs.note_texts, dtype=pl.String).gather(costs.notes).alias("price_notes"),
            pl.Series("context_step", costs.context_step),
            _unit_costs(costs.unit_costs, calls.height),
            pl.Series(COST, costs.total_pusd),
            *(
                pl.Series(column, costs.by_bucket.get(column.removeprefix("cost_").removesuffix("_pusd"), nothing))
                for column in BUCKET_COSTS
            ),
            *(pl.Series(column, getattr(costs, column)) for column in COUNTERFACTUALS),
            pl.Series("rate_card_id", cards, dtype=pl.String).gather(card).alias("rate_card_id"),
            pl.Series("rate_source", sources, dtype=pl.String).gather(card).alias("rate_source"),
            pl.lit(epoch_us(now), dtype=pl.Int64).alias("priced_at_us"),
        )

    def take(self) -> MeterOutput:
        """Return everything since the last take. Call ``mark_durable`` with its progress once it is durable."""
        pending, self._pending = self._pending, _Pending()
        first = self._through + 1 if pending.first_offset is None else pending.first_offset
        marker = self._marker.model_copy(
            update={
                "first_offset": first,
                "through_offset": self._through,
                "through_timestamp_ms": self._through_timestamp_ms,
                "watermark_us": self._watermark_us,
                "log_clock_ms": self._log_clock_ms,
                "counters": self.counters,
                "book": self._book,
                "id_segments": [],
                "quarantined": [each for offset, each in self._quarantined.items() if offset > self._through],
            }
        )
        return MeterOutput(
            calls=pl.concat(pending.calls) if pending.calls else None,
            cards=pending.cards,
            rollups=self.aggregates.take_dirty(),
            rejected=pending.rejected,
            rerouted=pending.rerouted,
            progress=ProgressRecord(
                marker,
                np.concatenate(pending.ids) if pending.ids else _NO_IDS,
                np.concatenate(pending.generations) if pending.generations else _NO_GENERATIONS,
            ),
        )

    def rollups_written(self, output: MeterOutput, rollup_offset: int | None) -> ProgressRecord:
        """Return the progress to write once the rollups are acknowledged, the first of them at ``rollup_offset``."""
        if rollup_offset is not None:
            self._rollup_end = rollup_offset + len(output.rollups)
            self.aggregates.written_from([key for key, _ in output.rollups], rollup_offset)
        needed = self.aggregates.rollups_from()
        marker = output.progress.marker.model_copy(
            update={
                "rollups_from": self._rollup_end if needed is None else needed,
                "ids_from": min(self._ids_from.values(), default=self._progress_end),
            }
        )
        return ProgressRecord(marker, output.progress.ids, output.progress.generations)

    def mark_durable(self, progress: ProgressRecord, offset: int) -> int:
        """Drop what no replay from the durable marker can need. Returns how many aggregates were evicted.

        ``offset``: of the progress record in the progress topic.
        """
        self._marker = progress.marker
        self._quarantined = {at: each for at, each in self._quarantined.items() if at > self._marker.through_offset}
        self._note_ids(progress, offset)
        return self.aggregates.evict(
            progress.marker.watermark_us, progress.marker.through_offset, self._rules.allowed_lateness_s
        )

    def _note_ids(self, progress: ProgressRecord, offset: int) -> None:
        """Remember from which offset the ids of each live generation can be read back."""
        self._progress_end = max(self._progress_end, offset + 1)
        for generation in np.unique(progress.generations).tolist():
            self._ids_from[generation] = min(offset, self._ids_from.get(generation, offset))
        oldest = self.seen.live(progress.marker.log_clock_ms)
        self._ids_from = {born: at for born, at in self._ids_from.items() if born >= oldest}


def _switch(value: bytes | None) -> RateSwitch | None:
    """Return the switch that a record is which is no usage event; None if it is none either."""
    if value is None or not value.startswith(b'{"rate_book":'):
        return None
    try:
        return RateSwitch.model_validate_json(value)
    except ValidationError:
        return None


def new_marker(partition: int, source_log: str, through_offset: int) -> Progress:
    """Return the marker of a partition that was never metered."""
    return Progress(
        partition=partition,
        source_log=source_log,
        first_offset=through_offset + 1,
        through_offset=through_offset,
        watermark_us=NO_WATERMARK,
        log_clock_ms=0,
        rollups_from=0,
    )


def newest_marker(source_log: str, records: Sequence[ProgressRecord]) -> Progress:
    """Return a log's greatest marker. Of equal ones the first that states a book: whoever writes another reads it.

    Raises: ValueError, if the log has none.
    """
    markers = (record.marker for record in records if record.marker.source_log == source_log)
    return max(markers, key=lambda marker: (marker.through_offset, marker.book.id != ""))


def restore(
    source_log: str,
    records: Sequence[tuple[int, ProgressRecord]],
    rollups: Sequence[tuple[int, Rollup]],
    rules: MeterRules,
    book: PriceBook,
    books: Books = _NO_BOOKS,
    in_force: BookInForce | None = None,
) -> PartitionMeter:
    """Rebuild a meter from the markers, ids and rollups it published, each with its offset.

    ``book``: the prices of the book that the marker states, or of ``in_force`` in its place.

    The greatest marker of the source log wins, not the last: a worker that lost the partition without knowing may
    write an older one. Ids of an older log are kept: a producer may repeat an event into a recreated topic.
    """
    marker = newest_marker(source_log, [record for _, record in records])
    if in_force is not None:
        marker = marker.model_copy(update={"book": in_force})
    marker = marker.model_copy(update={"quarantined": _quarantined_after(marker, [record for _, record in records])})
    meter = PartitionMeter(marker, rules, book, books)
    for offset, record in records:
        meter._note_ids(record, offset)
        for generation in np.unique(record.generations).tolist():
            meter.seen.relearn(generation, record.ids[record.generations == generation])
    meter.seen.forget(marker.log_clock_ms)
    live = [(offset, rollup) for offset, rollup in rollups if rollup.source_log == source_log]
    totals = totals_of([rollup for _, rollup in live])
    for (offset, rollup), values in zip(live, totals, strict=True):
        meter.aggregates.restore(rollup.key, values, offset)
    meter.aggregates.evict(marker.watermark_us, marker.through_offset, rules.allowed_lateness_s)
    return meter


def _quarantined_after(marker: Progress, records: Sequence[ProgressRecord]) -> list[Quarantined]:
    """Return what any worker has quarantined behind a marker: its dead letter may be written already."""
    found = {
        each.offset: each
        for record in records
        if record.marker.source_log == marker.source_log
        for each in record.marker.quarantined
        if each.offset > marker.through_offset
    }
    return [found[offset] for offset in sorted(found)]


def _unit_costs(by_call: Mapping[int, Mapping[str, int]], n: int) -> pl.Series:
    """Return what the units of calls cost, as JSON objects of decimal text in USD; null where none have a rate."""
    texts: list[str | None] = [None] * n if by_call else []
    for call, costs in by_call.items():
        if costs:
            texts[call] = json.dumps({unit: usd_text(pusd) for unit, pusd in costs.items()})
    column = pl.Series("cost_by_unit", texts, dtype=pl.String)
    return column if by_call else column.extend_constant(None, n)
