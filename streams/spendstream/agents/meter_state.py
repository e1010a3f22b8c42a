"""The meter's state in Kafka: written by a flush, read back by a recovery.

Flush: make a meter's output durable, in the order that makes a crash at any point harmless.
Recovery: rebuild a partition's meter from what was published, before its first record is metered.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from spendstream.agents.rate_books import RateBooks
from spendstream.agents.source_logs import Comparison, SourceLogs, new_name
from spendstream.core.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.batch import CutValue
from spendstream.core.lateness import is_final
from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import (
    MeterOutput,
    MeterRules,
    PartitionMeter,
    Rejected,
    covered_through,
    live_log,
    new_marker,
    newest_marker,
    restore,
    stage,
)
from spendstream.core.pricing import card_record
from spendstream.core.progress import ProgressRecord, read_progress, write_progress
from spendstream.core.quarantine import shortened
from spendstream.core.rollup_record import NotARollup, Rollup, read_rollup, refused, rollup_record, totals_of
from spendstream.core.timestamps import epoch_us
from spendstream.errors import SpendstreamError
from spendstream.kafka.consumer import READ_COMMITTED, delete_records, read_to_end
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import DeadLetter
from spendstream.schemas.progress import Counters, Progress, Quarantined
from spendstream.schemas.rollup import ON_TIME

log = structlog.get_logger(__name__)

PRICED_MAX_ROWS = 20_000
PRICED_MAX_BYTES = 900_000
"""Below Kafka's default of 1 MB a record, so that a topic created by hand accepts it."""

MAX_KEPT_BYTES: Final = 1_500_000
"""A value or key in a dead letter is whole up to this. Base64 makes 2 MB of it, and both fit into a record of 8 MB."""

CUT_BYTES: Final = 100_000
"""How much is kept of a larger one."""

_REFUSED_KEPT_BYTES: Final = 10_000
"""Of a letter that the broker refuses as too large: its topic was made by hand, with a lower limit."""

_MAX_MESSAGE: Final = 2_000
_MAX_FIELD: Final = 256

_RECOVERY_TIMEOUT_S: Final = 300
_PRUNE_RECORDS: Final = 1_000


@dataclass(frozen=True)
class Encoded:
    """The Kafka records of an output, by topic."""

    cards: list[Record]
    priced: list[Record]
    rollups: list[Record]
    dead_letters: list[Record]
    rerouted: list[Record]


@dataclass(frozen=True)
class Flusher:
    """Writes the output of meters. ``topic`` gives a topic's full name; ``executor`` runs the encoding."""

    producer: AckedProducer
    topic: Callable[[str], str]
    executor: Executor
    dimensions: tuple[str, ...]
    published_cards: set[str] = field(default_factory=set)
    """Ids of the rate cards that this worker has published. After a restart it publishes them again, to no effect."""

    async def flush(
        self, meter: PartitionMeter, output: MeterOutput, at_rest: asyncio.Lock, commit: Callable[[], Awaitable[None]]
    ) -> None:
        """Make the output of one partition's meter durable. Whoever changes the meter holds ``at_rest``.

        1. The rate cards that are new are acknowledged, and after them the priced calls, dead letters and rerouted
           records: no row of the ledger lacks its card, and the ledger can't trail the rollups.
        2. The rollups are acknowledged. A crash from here on replays records, and each aggregate skips what it holds.
        3. The marker is acknowledged: what is at or below it is counted, and its event ids are known.
        4. The source offset is committed: Kafka need not deliver it again.
        """
        partition = output.progress.marker.partition
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self.executor, self.encode, output)
        with stage("produce", MessageSizeTooLargeError):
            await self.producer.write(self.topic(topics.RATE_CARD), encoded.cards)
            self.published_cards.update(output.cards)
            await asyncio.gather(
                self.producer.write(self.topic(topics.PRICED), encoded.priced),
                self._write_dead_letters(output, encoded.dead_letters),
                self.producer.write(self.topic(topics.USAGE), encoded.rerouted),
            )
        offset = await self.producer.write_packed(self.topic(topics.ROLLUP), partition, encoded.rollups)
        async with at_rest:
            progress = meter.rollups_written(output, offset)
        marker = Record(
            key=str(partition).encode(),
            value=write_progress(progress),
            timestamp_ms=progress.marker.log_clock_ms or None,
        )
        stands_at = await self.producer.write_packed(self.topic(topics.PROGRESS), partition, [marker])
        async with at_rest:
            meter.mark_durable(progress, stands_at or 0)
        await commit()

    async def quarantine(self, meter: PartitionMeter, faults: Sequence[Quarantined]) -> None:
        """Make it durable that records become dead letters, before the meter absorbs them. Nothing may be pending."""
        marker = meter.quarantine(faults)
        record = Record(key=str(marker.marker.partition).encode(), value=write_progress(marker))
        await self.producer.write_packed(self.topic(topics.PROGRESS), marker.marker.partition, [record])

    def encode(self, output: MeterOutput) -> Encoded:
        """Return the Kafka records of an output. Raises: StageFailed."""
        partition, source_log = output.progress.marker.partition, output.progress.marker.source_log
        priced: list[Record] = []
        with stage("encode_calls"):
            if output.calls is not None:
                table = ledger_table(output.calls, partition=partition, source_log=source_log)
                priced = [
                    Record(key=None, value=payload, partition=partition)
                    for payload in ledger_records(table, PRICED_MAX_ROWS, PRICED_MAX_BYTES)
                ]
        with stage("encode_cards"):
            cards = [
                Record(key=card_id.encode(), value=card_record(rates).model_dump_json().encode())
                for card_id, rates in output.cards.items()
                if card_id not in self.published_cards
            ]
        with stage("encode_rollups"):
            rollups = [
                Record(*rollup_record(source_log, partition, self.dimensions, key, totals), partition=partition)
                for key, totals in output.rollups
            ]
        with stage("encode_dead_letters"):
            letters = [self._dead_letter(output.progress.marker, rejected) for rejected in output.rejected]
        return Encoded(
            cards=cards,
            priced=priced,
            rollups=rollups,
            dead_letters=letters,
            rerouted=[Record(key=r.key, value=r.value, timestamp_ms=r.timestamp_ms) for r in output.rerouted],
        )

    async def _write_dead_letters(self, output: MeterOutput, letters: Sequence[Record]) -> None:
        """Write dead letters; those that the broker finds too large with only the beginning of their record."""
        topic = self.topic(topics.DEAD_LETTER)
        try:
            await self.producer.write(topic, letters)
        except MessageSizeTooLargeError:
            for rejected, letter in zip(output.rejected, letters, strict=True):
                try:
                    await self.producer.write(topic, [letter])
                except MessageSizeTooLargeError:
                    short = self._dead_letter(output.progress.marker, rejected, _REFUSED_KEPT_BYTES)
                    log.warning("meter.dead_letter_cut", topic=topic, offset=rejected.offset, size=len(letter.value))
                    await self.producer.write(topic, [short])

    def _dead_letter(self, marker: Progress, rejected: Rejected, most: int = MAX_KEPT_BYTES) -> Record:
        rejection, value = rejected.rejection, rejected.value or b""
        message, size, key = rejection.message, _size(value), rejected.key
        kept = value if size <= most else value[: min(most, CUT_BYTES)]
        if size > len(kept):
            message += f"; of its {size} bytes the letter has the first {len(kept)}"
        if key is not None and _size(key) > most:
            message += f"; of its key's {_size(key)} bytes the letter has the first {min(most, CUT_BYTES)}"
            key = key[: min(most, CUT_BYTES)]
        is_cut = size > len(kept) or (key is not None and _size(rejected.key or b"") > len(key))
        letter = DeadLetter(
            topic=self.topic(topics.USAGE),
            source_log=marker.source_log,
            partition=marker.partition,
            offset=rejected.offset,
            reason=rejection.reason,
            field=None if rejection.field is None else shortened(rejection.field, _MAX_FIELD),
            message=shortened(message, _MAX_MESSAGE),
            event_id=rejection.event_id,
            service=rejection.service,
            recorded_at=datetime.fromtimestamp(max(rejected.timestamp_ms, 0) / 1000, UTC),
            key=None if key is None else base64.b64encode(key),
            original=base64.b64encode(kept),
            original_bytes=size if is_cut else None,
            original_sha256=_sha256(value) if is_cut else None,
            stage=rejection.stage,
        )
        return Record(key=f"{marker.partition}/{rejected.offset}".encode(), value=letter.model_dump_json().encode())


def _size(value: bytes) -> int:
    return value.size if isinstance(value, CutValue) else len(value)


def _sha256(value: bytes) -> str:
    return value.sha256 if isinstance(value, CutValue) else hashlib.sha256(value).hexdigest()


class InterruptedFlush(SpendstreamError):
    """A crash left half a flush, and the settings that could finish it have changed."""


class Recovery:
    """Rebuilds meters. Each recovery reads with a consumer of its own."""

    def __init__(
        self,
        client: dict[str, Any],
        group: str,
        topic: Callable[[str], str],
        rules: MeterRules,
        books: RateBooks,
        producer: AckedProducer,
        metrics: Metrics | None = None,
    ) -> None:
        self._client = client
        self._group = group
        self._topic = topic
        self._rules = rules
        self._producer = producer
        self._metrics = metrics
        self.books = books

    async def recover(self, partition: int) -> PartitionMeter:
        """Return the meter that continues at the partition's last marker.

        Without a marker it starts where the group has committed, else at the beginning of the log.

        Raises: StartUnknown, when it was metered and has no marker; InterruptedFlush, when a crash left rollups of
            other dimensions after the marker; NotARollup; TimeoutError.
        """
        await self.books.ready.wait()
        consumer = self._consumer()
        try:
            async with asyncio.timeout(_RECOVERY_TIMEOUT_S):
                await consumer.start()
                return await self._recover(consumer, partition)
        finally:
            await consumer.stop()

    async def _recover(self, consumer: AIOKafkaConsumer, partition: int) -> PartitionMeter:
        records = await self._progress(consumer, partition)
        logs = SourceLogs(consumer, self._topic)
        if records:
            live = live_log([record for _, record in records])
            marker = newest_marker(live, [record for _, record in records])
            found, records = await self._compare(logs, consumer, marker, records)
            if found.fork is not None:
                through = max(found.fork, found.begin - 1)
                rewritten = marker.through_offset - through
                log.error(
                    "meter.log_rewritten",
                    partition=partition,
                    former_log=live,
                    metered_through=marker.through_offset,
                    same_through=found.fork,
                    begin_offset=found.begin,
                    end_offset=found.end,
                    rewritten=rewritten,
                )
                marker = self._next_life(marker, through, rewritten=max(0, rewritten))
            elif await logs.rollups_expired(marker):
                marker = self._next_life(marker, marker.through_offset)
        else:
            await logs.require_never_metered(partition)
            begin, end = await logs.span(partition)
            committed = await logs.committed(partition)
            start = committed if committed is not None and begin <= committed <= end else begin
            found = Comparison(begin, end, None)
            marker = new_marker(partition, new_name(), start - 1, former_log="")
            log.info("meter.new_log", partition=partition, source_log=marker.source_log, offset=start)
        live = marker.source_log
        # a name and a book are stated before the first record is priced, and not without need: most restarts add none
        is_empty = marker.through_offset + 1 >= found.end and not marker.book.id
        if is_empty:
            records.append((records[-1][0] if records else -1, ProgressRecord.without_ids(marker)))
        elif not marker.book.id:
            records = await self._state(consumer, marker, records[0][0] if records else 0)
            live = live_log([record for _, record in records])
        newest = newest_marker(live, [record for _, record in records])
        in_force, prices = await self.books.in_force(newest.book, newest.through_offset)
        rollups = await self._rollups(consumer, newest)
        stated = None if is_empty else in_force
        meter = restore(live, records, rollups, self._rules, prices, self.books.shelf, stated)
        if (lost := found.begin - newest.through_offset - 1) > 0:
            log.error("meter.records_lost", partition=partition, records=lost, before_offset=found.begin)
            meter.pass_over(found.begin - 1, lost)
        self.books.metered_by(partition, meter)
        log.info(
            "meter.recovered",
            partition=partition,
            source_log=live,
            through_offset=newest.through_offset,
            rate_book=in_force.id,
            aggregates=len(meter.aggregates),
            ids=meter.seen.count,
        )
        return meter

    def _next_life(self, marker: Progress, through: int, rewritten: int = 0) -> Progress:
        """Return the marker of the log that follows another from an offset on; its totals stand beside the former's."""
        name = new_name()
        log.info("meter.new_log", partition=marker.partition, source_log=name, offset=through + 1)
        life = new_marker(marker.partition, name, through, former_log=marker.source_log)
        counters = Counters(rewritten=rewritten)
        return life.model_copy(update={"rollups_from": max(marker.rollups_to, 0), "counters": counters})

    async def _compare(
        self, logs: SourceLogs, consumer: AIOKafkaConsumer, marker: Progress, records: list[tuple[int, ProgressRecord]]
    ) -> tuple[Comparison, list[tuple[int, ProgressRecord]]]:
        """Compare the log with the markers; where none within the horizon agrees, with the older ones as well.

        Returns: the comparison, and the markers since the fork, whose ids tell what behind it was counted.
        """
        found = await logs.compare(marker, [record.marker for _, record in records])
        if found.fork != -1:
            return found, records
        at = TopicPartition(self._topic(topics.PROGRESS), marker.partition)
        older = [
            (record.offset, found_marker.marker)
            async for _, fetched in read_to_end(consumer, {at: None}, until={at: records[0][0]})
            for record in fetched
            if (found_marker := _marker(record.value or b"", marker.partition)) is not None
        ]
        if not older:
            return found, records
        found = await logs.compare(marker, [*(each for _, each in older), *(record.marker for _, record in records)])
        since = [offset for offset, each in older if each.through_offset > (found.fork or 0)]
        return found, records if found.fork == -1 or not since else await self._progress_from(
            consumer, marker.partition, since[0]
        )

    async def _state(
        self, consumer: AIOKafkaConsumer, marker: Progress, ids_from: int
    ) -> list[tuple[int, ProgressRecord]]:
        """State a log's name and rate book before its first record is priced; return the markers since.

        Two workers may do so at once, with different names and books. Each reads both afterwards, and the first counts.
        """
        book, _ = await self.books.in_force(marker.book, marker.through_offset)
        stated = marker.model_copy(
            update={"book": book, "first_offset": marker.through_offset + 1, "ids_from": max(ids_from, 0)}
        )
        record = Record(
            key=str(marker.partition).encode(),
            value=write_progress(ProgressRecord.without_ids(stated)),
            timestamp_ms=marker.log_clock_ms or None,
        )
        await self._producer.write_packed(self._topic(topics.PROGRESS), marker.partition, [record])
        if self._metrics is not None and stated.counters.rewritten:
            self._metrics.log_rewritten(marker.partition, stated.counters.rewritten)
        return await self._progress(consumer, marker.partition)

    async def still_holds(self, partition: int, checkpoint: tuple[int, str]) -> bool:
        """Return whether the usage topic still has a record that was metered, or none in its place."""
        consumer = self._consumer()
        try:
            async with asyncio.timeout(_RECOVERY_TIMEOUT_S):
                await consumer.start()
                logs = SourceLogs(consumer, self._topic)
                begin, end = await logs.span(partition)
                if checkpoint[0] < begin:
                    return True
                return checkpoint[0] < end and await logs.holds(partition, *checkpoint) is not False
        finally:
            await consumer.stop()

    async def prune(self, partition: int) -> None:
        """Delete the markers that nothing needs any more, if they are many: without, the progress topic only grows.

        Those within the dedupe horizon are needed for their ids, and those since the usage log's first record to find
        out up to where a log that was cut is still the same.
        """
        consumer, at = self._consumer(), TopicPartition(self._topic(topics.PROGRESS), partition)
        try:
            async with asyncio.timeout(_RECOVERY_TIMEOUT_S):
                await consumer.start()
                last = await self._read(consumer, topics.PROGRESS, partition, -1)
                low = (await consumer.beginning_offsets([at]))[at]
                newest = _marker(last[-1][2], partition) if last else None
                if newest is None or newest.marker.ids_from - low < _PRUNE_RECORDS:
                    return
                logs = SourceLogs(consumer, self._topic)
                begin, _ = await logs.span(partition)
                high = newest.marker.ids_from
                while high - low > _PRUNE_RECORDS:
                    middle = (low + high) // 2
                    record = await logs.record(at, middle)
                    found = None if record is None else _marker(record.value or b"", partition)
                    is_needed = found is None or found.marker.through_offset >= begin
                    low, high = (low, middle) if is_needed else (middle, high)
            await delete_records(self._client, at, low)
        finally:
            await consumer.stop()

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._client,
            group_id=self._group,  # never joined: partitions are assigned by hand, to read what was committed
            enable_auto_commit=False,
            isolation_level=READ_COMMITTED,
            fetch_max_wait_ms=100,
            fetch_max_bytes=64_000_000,
            max_partition_fetch_bytes=16_000_000,
        )

    async def _rollups(self, consumer: AIOKafkaConsumer, marker: Progress) -> list[tuple[int, Rollup]]:
        """Read the rollups of what a marker leaves open. Raises: NotARollup, InterruptedFlush."""
        read: list[tuple[int, bytes | None, Rollup]] = []
        wrong: dict[int, tuple[bytes | None, NotARollup]] = {}
        for offset, key, value in await self._read(consumer, topics.ROLLUP, marker.partition, marker.rollups_from):
            try:
                read.append((offset, key, read_rollup(value)))
            except NotARollup as refusal:
                wrong[offset] = key, refusal
        for number, error in refused([rollup for *_, rollup in read], totals_of).items():
            wrong[read[number][0]] = read[number][1], error
        read = [each for each in read if each[0] not in wrong]
        last_offset = {key: offset for offset, key, _ in read}
        for offset, (key, error) in wrong.items():
            self._note_unreadable(topics.ROLLUP, marker.partition, offset, error)
            is_replaced = last_offset.get(key, -1) > offset
            if not is_replaced and is_key_of_open_rollup(key, marker, self._rules.allowed_lateness_s):
                at = f"{self._topic(topics.ROLLUP)}[{marker.partition}], offset {offset}"
                raise NotARollup(
                    f"{at}: {error}. It stands in place of a total that is still open: without that, amounts would be "
                    "wrong. If a newer release wrote it, upgrade this worker; if not, write the last readable record "
                    "of its key again"
                )
        rollups: list[tuple[int, Rollup]] = []
        for offset, _, rollup in read:
            if rollup.source_log != marker.source_log or rollup.source_partition != marker.partition:
                continue
            if tuple(rollup.dimensions) == self._rules.dimensions:
                rollups.append((offset, rollup))
            elif rollup.through_offset > marker.through_offset:
                former = ",".join(rollup.dimensions)
                raise InterruptedFlush(
                    f"a flush was interrupted while METER_DIMENSIONS was {former}, and now it is "
                    f"{','.join(self._rules.dimensions)}: its calls would count twice. Start once with the former "
                    "dimensions, stop, then change them"
                )
        return rollups

    def _note_unreadable(self, topic: str, partition: int, offset: int, error: Exception) -> None:
        log.error("record.unreadable", topic=self._topic(topic), partition=partition, offset=offset, error=str(error))
        if self._metrics is not None:
            self._metrics.unreadable(self._topic(topic))

    async def _progress(self, consumer: AIOKafkaConsumer, partition: int) -> list[tuple[int, ProgressRecord]]:
        """Read the markers whose ids lie within the dedupe horizon; the last marker says where they begin.

        What can't be read is skipped. Where an older marker is the last one, what follows it is replayed, which is
        exact: aggregates skip what they hold, and ids are learned again.
        """
        for start in (-1, -100, -10_000, None):
            found = [
                (offset, marker)
                for offset, _, value in await self._read(consumer, topics.PROGRESS, partition, start)
                if (marker := _marker(value, partition)) is not None
            ]
            if found:
                break
        else:
            return []
        last_offset, newest = found[-1]
        return await self._progress_from(consumer, partition, min(newest.marker.ids_from, last_offset))

    async def _progress_from(
        self, consumer: AIOKafkaConsumer, partition: int, start: int
    ) -> list[tuple[int, ProgressRecord]]:
        records: list[tuple[int, ProgressRecord]] = []
        skipped = 0
        for offset, _, value in await self._read(consumer, topics.PROGRESS, partition, start):
            marker = _marker(value, partition)
            if marker is not None:
                records.append((offset, marker))
                continue
            skipped += 1
            self._note_unreadable(topics.PROGRESS, partition, offset, ValueError(f"not a marker: {value[:80]!r}"))
        return await self._without_holes(consumer, partition, records) if skipped else records

    async def _without_holes(
        self, consumer: AIOKafkaConsumer, partition: int, records: list[tuple[int, ProgressRecord]]
    ) -> list[tuple[int, ProgressRecord]]:
        """Leave out the markers behind one that can't be read: its ids are learned again by a replay.

        Foreign records leave no hole. Where Kafka no longer has the usage, no replay can learn the ids: repeats of
        those events would count twice, which is said, and metering goes on at the newest marker.
        """
        live = records[-1][1].marker.source_log
        through = covered_through(record.marker for _, record in records if record.marker.source_log == live)
        if through >= newest_marker(live, [record for _, record in records]).through_offset:
            return records
        source = TopicPartition(self._topic(topics.USAGE), partition)
        consumer.assign([source])
        begin = (await consumer.beginning_offsets([source]))[source]
        log.error("meter.marker_missing", partition=partition, after_offset=through, replayed=begin <= through + 1)
        if begin > through + 1:
            return records
        return [
            (offset, record)
            for offset, record in records
            if record.marker.source_log != live or record.marker.through_offset <= through
        ]

    async def _read(
        self, consumer: AIOKafkaConsumer, topic: str, partition: int, start: int | None
    ) -> list[tuple[int, bytes | None, bytes]]:
        """Read a partition to its end, as ``read_to_end`` does: (offset, key, value), without tombstones."""
        at = TopicPartition(self._topic(topic), partition)
        return [
            (record.offset, record.key, record.value)
            async for _, records in read_to_end(consumer, {at: start})
            for record in records
            if record.value is not None
        ]


def _marker(value: bytes, partition: int) -> ProgressRecord | None:
    """Return a record of the progress topic; None where it is none, or of another partition."""
    try:
        record = read_progress(value)
    except (ValueError, OverflowError, MemoryError):
        return None
    return record if record.marker.partition == partition else None


def is_key_of_open_rollup(key: bytes | None, marker: Progress, allowed_lateness_s: int) -> bool:
    """Return whether a key is of an aggregate that the marker's log may still change."""
    try:
        source_log, partition, minute, block, *_ = msgspec.json.decode(key or b"", type=list[Any])
        minute_us = epoch_us(datetime.fromisoformat(minute))
        is_ours = (source_log, partition) == (marker.source_log, marker.partition) and isinstance(block, int)
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False
    if block <= ON_TIME:
        return is_ours and not is_final(minute_us, marker.watermark_us, allowed_lateness_s)
    return is_ours and block >= (marker.through_offset + 1) // CORRECTION_BLOCK_OFFSETS
