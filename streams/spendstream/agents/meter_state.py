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

import numpy as np
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from spendstream.agents.rate_books import RateBooks
from spendstream.core.batch import CutValue
from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import (
    MeterOutput,
    MeterRules,
    PartitionMeter,
    Rejected,
    new_marker,
    newest_marker,
    restore,
    stage,
)
from spendstream.core.pricing import card_record
from spendstream.core.progress import ProgressRecord, read_progress, write_progress
from spendstream.core.quarantine import shortened
from spendstream.core.rollup_record import NotARollup, read_rollup, rollup_record
from spendstream.errors import SpendstreamError
from spendstream.kafka.consumer import high_watermarks, read_to_end
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import DeadLetter
from spendstream.schemas.progress import Progress, Quarantined

log = structlog.get_logger(__name__)

PRICED_MAX_ROWS = 20_000
PRICED_MAX_BYTES = 900_000
"""Below Kafka's default of 1 MB a record, so that a topic created by hand accepts it."""

MAX_KEPT_BYTES: Final = 1_500_000
"""Of a value or key in a dead letter. Base64 makes 2 MB of it, and both together fit into a record of 8 MB."""

_REFUSED_KEPT_BYTES: Final = 10_000
"""Of a letter that the broker refuses as too large: its topic was made by hand, with a lower limit."""

_MAX_MESSAGE: Final = 2_000
_MAX_FIELD: Final = 256

_FIRST_RECORD_TIMEOUT_MS: Final = 10_000
_RECOVERY_TIMEOUT_S: Final = 300


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

    def _dead_letter(self, marker: Progress, rejected: Rejected, kept_bytes: int = MAX_KEPT_BYTES) -> Record:
        rejection, value = rejected.rejection, rejected.value or b""
        is_cut = isinstance(value, CutValue) or len(value) > kept_bytes
        size = value.size if isinstance(value, CutValue) else len(value)
        message = rejection.message
        if is_cut:
            message += f"; of its {size} bytes the letter has the first {min(len(value), kept_bytes)}"
        key = rejected.key
        if key is not None and len(key) > kept_bytes:
            message += f"; of its key's {len(key)} bytes the letter has the first {kept_bytes}"
            is_cut, key = True, key[:kept_bytes]
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
            original=base64.b64encode(value[:kept_bytes]),
            original_bytes=size if is_cut else None,
            original_sha256=_sha256(value) if is_cut else None,
            stage=rejection.stage,
        )
        return Record(key=f"{marker.partition}/{rejected.offset}".encode(), value=letter.model_dump_json().encode())


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
    ) -> None:
        self._client = client
        self._group = group
        self._topic = topic
        self._rules = rules
        self._producer = producer
        self.books = books

    async def recover(self, partition: int) -> PartitionMeter:
        """Return the meter that continues at the partition's last marker.

        Without a marker it starts where the group has committed, else at the beginning of the log.

        Raises: InterruptedFlush, when a crash left rollups of other dimensions after the marker; NotARollup;
            TimeoutError.
        """
        await self.books.ready.wait()
        consumer = AIOKafkaConsumer(
            **self._client,
            group_id=self._group,  # never joined: partitions are assigned by hand, to read what was committed
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
            fetch_max_bytes=64_000_000,
            max_partition_fetch_bytes=16_000_000,
        )
        try:
            async with asyncio.timeout(_RECOVERY_TIMEOUT_S):
                await consumer.start()
                return await self._recover(consumer, partition)
        finally:
            await consumer.stop()

    async def _recover(self, consumer: AIOKafkaConsumer, partition: int) -> PartitionMeter:
        records = await self._progress(consumer, partition)
        live = await self._live_log(consumer, partition, [record for _, record in records])
        if live is None:
            marker, is_empty = await self._first_marker(consumer, partition)
            live = marker.source_log
            records.append((records[-1][0] if records else -1, _without_ids(marker)))
            log.info("meter.new_log", partition=partition, source_log=live, offset=marker.through_offset + 1)
        else:
            marker, is_empty = newest_marker(live, [record for _, record in records]), False
        if not marker.book.id and not is_empty:
            records = await self._state_book(consumer, marker, records[0][0])
        newest = newest_marker(live, [record for _, record in records])
        in_force, prices = await self.books.in_force(newest.book, newest.through_offset)
        rollups = []
        for offset, value in await self._read(consumer, topics.ROLLUP, partition, newest.rollups_from):
            try:
                rollup = read_rollup(value)
            except NotARollup as error:
                at = f"{self._topic(topics.ROLLUP)}[{partition}], offset {offset}"
                raise NotARollup(f"{at}: {error}. If a newer release wrote it, upgrade this worker") from error
            if tuple(rollup.dimensions) == self._rules.dimensions:
                rollups.append((offset, rollup))
            elif rollup.source_log == live and rollup.through_offset > newest.through_offset:
                former = ",".join(rollup.dimensions)
                raise InterruptedFlush(
                    f"a flush was interrupted while METER_DIMENSIONS was {former}, and now it is "
                    f"{','.join(self._rules.dimensions)}: its calls would count twice. Start once with the former "
                    "dimensions, stop, then change them"
                )
        stated = None if is_empty else in_force
        meter = restore(live, records, rollups, self._rules, prices, self.books.shelf, stated)
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

    async def _state_book(
        self, consumer: AIOKafkaConsumer, marker: Progress, ids_from: int
    ) -> list[tuple[int, ProgressRecord]]:
        """State the book of a log that has none before its first record is priced; return the markers since.

        Two workers may do so at once, with different books. Each reads both afterwards, and the first one counts.
        """
        book, _ = await self.books.in_force(marker.book, marker.through_offset)
        stated = marker.model_copy(
            update={"book": book, "first_offset": marker.through_offset + 1, "ids_from": max(ids_from, 0)}
        )
        record = Record(
            key=str(marker.partition).encode(),
            value=write_progress(_without_ids(stated)),
            timestamp_ms=marker.log_clock_ms or None,
        )
        await self._producer.write_packed(self._topic(topics.PROGRESS), marker.partition, [record])
        return await self._progress(consumer, marker.partition)

    async def _progress(self, consumer: AIOKafkaConsumer, partition: int) -> list[tuple[int, ProgressRecord]]:
        """Read the markers whose ids lie within the dedupe horizon; the last marker says where they begin."""
        last = await self._read(consumer, topics.PROGRESS, partition, -1)
        if not last:
            return []
        offset, value = last[-1]
        start = min(read_progress(value).marker.ids_from, offset)
        return [
            (offset, read_progress(value))
            for offset, value in await self._read(consumer, topics.PROGRESS, partition, start)
        ]

    async def _first_marker(self, consumer: AIOKafkaConsumer, partition: int) -> tuple[Progress, bool]:
        """Name a log that was never metered after its first record, so that every worker gives it the same name.

        Returns: its marker, and whether it has no record yet; the name is only provisional then.
        """
        source = TopicPartition(self._topic(topics.USAGE), partition)
        consumer.assign([source])
        begin = (await consumer.beginning_offsets([source]))[source]
        end = (await high_watermarks(consumer, [source]))[source]
        committed = await consumer.committed(source)
        start = committed if committed is not None and begin <= committed <= end else begin
        first = await self._first_record(consumer, source, start) if start < end else None
        first_ms = 0 if first is None else max(int(first.timestamp or 0), 0)
        return new_marker(partition, f"{first_ms:x}-{start:x}", start - 1), start >= end

    async def _live_log(self, consumer: AIOKafkaConsumer, partition: int, records: list[ProgressRecord]) -> str | None:
        """Return the log that the newest marker speaks of, or None where the topic was recreated since."""
        if not records:
            return None
        marker = records[-1].marker
        newest = newest_marker(marker.source_log, records)
        source = TopicPartition(self._topic(topics.USAGE), partition)
        begin = (await consumer.beginning_offsets([source]))[source]
        end = (await high_watermarks(consumer, [source]))[source]
        recreated = newest.through_offset >= end
        if not recreated and begin <= newest.through_offset and newest.through_timestamp_ms >= 0:
            found = await self._first_record(consumer, source, newest.through_offset)
            if found is not None and found.offset == newest.through_offset:
                recreated = found.timestamp != newest.through_timestamp_ms
        if recreated:
            log.warning("meter.topic_recreated", partition=partition, former_log=marker.source_log, end_offset=end)
            return None
        return newest.source_log

    async def _first_record(self, consumer: AIOKafkaConsumer, source: TopicPartition, offset: int) -> Any:
        """Return the first record at or behind an offset; None where the broker sends none in time."""
        consumer.assign([source])
        consumer.seek(source, offset)
        fetched = await consumer.getmany(source, timeout_ms=_FIRST_RECORD_TIMEOUT_MS, max_records=1)
        return next(iter(fetched.get(source, [])), None)

    async def _read(
        self, consumer: AIOKafkaConsumer, topic: str, partition: int, start: int
    ) -> list[tuple[int, bytes]]:
        """Read a partition to its end, as ``read_to_end`` does: (offset, value), without tombstones."""
        at = TopicPartition(self._topic(topic), partition)
        return [
            (record.offset, record.value)
            async for _, records in read_to_end(consumer, {at: start})
            for record in records
            if record.value is not None
        ]


def _without_ids(marker: Progress) -> ProgressRecord:
    return ProgressRecord(marker, np.zeros((0, 2), dtype=np.uint64), np.zeros(0, dtype=np.int64))
