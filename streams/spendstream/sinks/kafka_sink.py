"""The loop from one topic to one table: gather, encode, insert, commit what was inserted.

Delivery is at least once, and the tables make it exact: a record that was not committed is read and inserted again, and
its rows replace themselves. So a rebalance needs no special handling: what another member inserts too changes nothing.

While ClickHouse is down, the insert is retried and the loop holds at most two batches in memory (one being inserted,
one gathered) beside the consumer's own buffers. The consumer stays in its group: aiokafka sends heartbeats and rejoins
in the background, and ``max_poll_interval_ms``, which would expel a member that does not poll, is set to a week. It
guards against a stuck thread, but here heartbeats share the loop's thread: they stop when it is stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from spendstream.kafka.consumer import membership, seen_end
from spendstream.sinks.encoders import ConsumedRecord, Encoded, RowEncoder, undecodable_insert
from spendstream.sinks.writer import ClickHouseWriter, NoMetrics, SinkMetrics
from spendstream.waiting import Backoff, in_thread, sleep_unless_stopped

log = structlog.get_logger(__name__)

_IDLE_POLL_S: Final = 0.5
_RETRY_S: Final = 1.0
_LAG_INTERVAL_S: Final = 5.0
_AFTER_FAILURE: Final = Backoff(first_s=1.0, max_s=30.0)


@dataclass(frozen=True)
class KafkaSinkSettings:
    """How a sink reads. ``kafka``: aiokafka's connection arguments, ``bootstrap_servers`` and so on.

    A batch is full at ``max_records`` records or ``max_bytes`` bytes, or ``linger_s`` after its first record.
    """

    topic: str
    group: str
    kafka: Mapping[str, Any] = field(default_factory=dict)
    linger_s: float = 0.25
    max_records: int = 10_000
    max_bytes: int = 8 * 1024 * 1024
    session_timeout_s: float = 10.0
    stop_timeout_s: float = 10.0


@dataclass
class _Batch:
    """Records of several partitions, each partition's in offset order. ``ends``: the offset after the last one."""

    records: list[ConsumedRecord] = field(default_factory=list)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    size: int = 0

    def add(self, partition: TopicPartition, records: Sequence[Any]) -> None:
        self.records.extend(records)
        self.ends[partition] = records[-1].offset + 1
        self.size += sum(len(record.value or b"") for record in records)


class Gaps:
    """Follows the offsets of each partition and notices where some were skipped.

    Skipped records were deleted by Kafka before they were inserted: retention is shorter than the outage was.
    """

    def __init__(self) -> None:
        self._next: dict[TopicPartition, int] = {}

    def expect(self, partition: TopicPartition, offset: int) -> None:
        """Set the next offset, as the group committed it."""
        self._next[partition] = offset

    def forget(self) -> None:
        """Expect nothing: the partitions belong to others now."""
        self._next.clear()

    def skipped(self, partition: TopicPartition, first: int, last: int) -> int:
        """Record a run of offsets and return how many are missing before it.

        An offset below the expected one is a repetition, or the topic was recreated: nothing is missing.
        """
        expected = self._next.get(partition, first)
        self._next[partition] = last + 1
        return max(0, first - expected)


class KafkaSink:
    """One sink. ``run()`` returns after ``stop()``."""

    def __init__(
        self,
        encoder: RowEncoder,
        writer: ClickHouseWriter,
        settings: KafkaSinkSettings,
        *,
        metrics: SinkMetrics | None = None,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:
        self._encoder = encoder
        self._writer = writer
        self._settings = settings
        self._metrics = metrics or NoMetrics()
        self._new_consumer = consumer
        self._gaps = Gaps()
        self._owed: dict[TopicPartition, int] = {}  # delivered, and not committed yet
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    async def run(self) -> None:
        """Move records until ``stop()``. What it could not commit, a later run begins with.

        Raises: what nobody foresaw.
        """
        self._stopped.clear()
        consumer = None
        try:
            consumer = await self._start()
            if consumer is not None:
                await self._pump(consumer)
        finally:
            if consumer is not None:
                await consumer.stop()
            await self._writer.close()
            self._stopped.set()

    async def keep_running(self) -> None:
        """Run until ``stop()``. An error that nobody foresaw costs a pause, not the worker: metering goes on."""
        attempt = 0
        while not self._stopping.is_set():
            try:
                await self.run()
            except Exception as error:
                attempt += 1
                pause_s = _AFTER_FAILURE.pause_s(attempt)
                log.error("sink.failed", topic=self._topic, pause_s=round(pause_s, 1), exc_info=error)
                self._metrics.insert_failed(self._encoder.table, "failed")
                await sleep_unless_stopped(pause_s, self._stopping)

    async def stop(self) -> None:
        """Finish the current insert, or abandon it after ``stop_timeout_s`` seconds; return when ``run()`` is done."""
        self._stopping.set()
        await self._stopped.wait()

    async def _start(self) -> Any:
        """Return a started consumer; None when stopped before a broker answered."""
        is_logged = False
        while not self._stopping.is_set():
            consumer = self._consumer()
            try:
                await consumer.start()
                consumer.subscribe([self._settings.topic], listener=_Listener(self, consumer))
                return consumer
            except KafkaError as error:
                await consumer.stop()
                if not is_logged:
                    log.warning("sink.kafka_unavailable", topic=self._topic, error=str(error))
                is_logged = True
                await sleep_unless_stopped(_RETRY_S, self._stopping)
        return None

    def _consumer(self) -> Any:
        return self._new_consumer(
            **self._settings.kafka,
            **membership(self._settings.group, self._settings.session_timeout_s),
            auto_offset_reset="earliest",
        )

    async def _pump(self, consumer: Any) -> None:
        """Gather a batch while the one before is delivered; deliveries are one at a time, in order."""
        delivery: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                batch = await self._gather(consumer)
                if delivery is not None and (batch.records or delivery.done()):
                    await self._await_delivery(consumer, delivery)
                    delivery = None
                if self._owed and delivery is None and not batch.records:
                    await self._commit(consumer, {})
                if batch.records and not self._stopping.is_set():
                    delivery = asyncio.create_task(self._deliver(consumer, batch), name=f"deliver-{self._topic}")
            if delivery is not None:
                await asyncio.wait({delivery}, timeout=self._settings.stop_timeout_s)
                if delivery.done():
                    delivery.result()
        finally:
            if delivery is not None and not delivery.done():
                delivery.cancel()
                await asyncio.wait({delivery})

    async def _await_delivery(self, consumer: Any, delivery: asyncio.Task[None]) -> None:
        """Return when delivered or stopping. Meanwhile report the lag, which shows an outage. Raises what failed."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not delivery.done() and not stopping.done():
                done, _ = await asyncio.wait(
                    {delivery, stopping}, timeout=_LAG_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    await self._report_lag(consumer)
        finally:
            stopping.cancel()
        if delivery.done():
            delivery.result()

    async def _gather(self, consumer: Any) -> _Batch:
        """Return the next batch, empty when nothing came for half a second."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        batch = _Batch()
        deadline = loop.time() + _IDLE_POLL_S
        while len(batch.records) < settings.max_records and batch.size < settings.max_bytes:
            left_s = deadline - loop.time()
            if left_s <= 0 or self._stopping.is_set():
                break
            was_empty = not batch.records
            for partition, records in (await self._poll(consumer, left_s, len(batch.records))).items():
                if records:
                    self._note_gap(partition, records)
                    batch.add(partition, records)
            if was_empty and batch.records:
                deadline = loop.time() + settings.linger_s
        return batch

    async def _poll(self, consumer: Any, timeout_s: float, gathered: int) -> Mapping[TopicPartition, Sequence[Any]]:
        try:
            polled: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(
                timeout_ms=max(1, int(timeout_s * 1000)), max_records=self._settings.max_records - gathered
            )
            return polled
        except KafkaError as error:
            log.warning("sink.read_failed", topic=self._topic, error=str(error))
            await sleep_unless_stopped(_RETRY_S, self._stopping)
            return {}

    async def _deliver(self, consumer: Any, batch: _Batch) -> None:
        encoded: Encoded = await in_thread(lambda: self._encoder.encode(batch.records), f"encode-{self._encoder.table}")
        for insert in encoded.inserts:
            await self._writer.insert(insert)
        if encoded.undecodable:
            for one in encoded.undecodable:
                at = {"topic": one.record.topic, "partition": one.record.partition, "offset": one.record.offset}
                log.error("sink.record_undecodable", **at, error=one.message)
                self._metrics.undecodable(one.record.topic, one.reason.value)
            await self._writer.insert(undecodable_insert(encoded.undecodable))
        await self._commit(consumer, batch.ends)

    async def _commit(self, consumer: Any, ends: Mapping[TopicPartition, int]) -> None:
        """Commit what was delivered, and what an earlier commit failed to: no later batch may come to commit it."""
        owed = {**self._owed, **ends}
        mine = {partition: end for partition, end in owed.items() if partition in consumer.assignment()}
        self._owed = mine
        try:
            if mine:
                await consumer.commit(mine)
        except (KafkaError, IllegalStateError) as error:
            # The partitions were lost or the broker is down: whoever reads these records again inserts them again.
            words = " ".join(str(error).split())
            log.info("sink.commit_failed", topic=self._topic, error=words)
            return
        self._owed = {}
        for partition, end in mine.items():
            if (high := seen_end(consumer, partition)) is not None:
                self._metrics.lag(partition.topic, partition.partition, max(0, high - end))

    async def _report_lag(self, consumer: Any) -> None:
        try:
            partitions = consumer.assignment()
            for partition, end in (await consumer.end_offsets(partitions)).items():
                committed = await consumer.committed(partition)
                high = max(end, seen_end(consumer, partition) or 0)
                self._metrics.lag(partition.topic, partition.partition, max(0, high - (committed or 0)))
        except (KafkaError, IllegalStateError, ValueError):
            pass  # the broker is down, or a rebalance runs: the next report will do

    def _note_gap(self, partition: TopicPartition, records: Sequence[Any]) -> None:
        lost = self._gaps.skipped(partition, records[0].offset, records[-1].offset)
        if lost and not self._encoder.is_compacted:
            at = {"topic": partition.topic, "partition": partition.partition, "before_offset": records[0].offset}
            log.error("sink.records_lost", **at, records=lost)
            self._metrics.records_lost(partition.topic, partition.partition, lost)

    async def _assigned(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self._gaps.forget()
        self._owed = {}  # read again from what is committed
        for partition in partitions:
            try:
                committed = await consumer.committed(partition)
            except KafkaError:
                continue  # a gap goes unnoticed; the records that are there do not
            if committed is not None:
                self._gaps.expect(partition, committed)

    @property
    def _topic(self) -> str:
        return self._settings.topic


class _Listener(ConsumerRebalanceListener):
    """Learns where each partition starts. A batch in hand is kept: see the module."""

    def __init__(self, sink: KafkaSink, consumer: Any) -> None:
        self._sink = sink
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        pass

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        await self._sink._assigned(self._consumer, assigned)
