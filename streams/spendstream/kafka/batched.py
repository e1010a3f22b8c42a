"""A Faust transport that delivers one event per (partition, fetch) instead of one per record.

Faust's cost is per event: about 90 µs, whatever it holds. For the topics named in ``batched_topics`` the consumer
yields all fetched records as one message, whose offset is the last of them. Faust then acks and
commits that offset, which covers the batch, as long as batches are acked in order: the agent acks after a flush.

The records come as columns, one ``RecordBatch`` for each batch on the wire, without a Python step a record:
aiokafka passes every parsed record through two generators and wraps it in a ``ConsumerRecord`` of eleven fields, which
costs more than parsing it. A batched topic needs four of them (offset, timestamp, key, value), as columns.
aiokafka has no hook for this, so its partition reader is replaced, for the named topics of one consumer alone; every
other consumer of the process reads as before. Checksums, aborted transactions and control records are still handled by
aiokafka.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import faust
import numpy as np
from aiokafka.consumer import fetcher
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP, ConsumerMessage

from spendstream.core.batch import NO_TIMESTAMP, RecordBatch
from spendstream.kafka.consumer import seen_end

MAX_WAITING_RECORDS: Final = 100_000
"""Records delivered and not yet absorbed: beyond this the consumer stops fetching."""

_MAX_WAIT_S: Final = 1.0
_WAIT_STEP_S: Final = 0.005

_LOG_APPEND_TIME: Final = 1
"""The timestamp type of records that the broker stamped, with one time for a whole batch."""


class ColumnTopics(frozenset[str]):
    """The topics that a consumer fetches as columns. It takes the place of the consumer's value deserializer."""


@dataclass(frozen=True)
class WireBatch:
    """The records of one batch on the wire. ``offset``: its last record's, after which the reader continues."""

    records: Sequence[Any]

    @property
    def offset(self) -> int:
        return int(self.records[-1].offset)


def record_batch(partition: int, records: Sequence[Any]) -> RecordBatch:
    """Return parsed records, at least one, of one batch on the wire as columns."""
    first, last, n = records[0], records[-1], len(records)
    return RecordBatch(
        partition=partition,
        offsets=(
            np.arange(first.offset, last.offset + 1, dtype=np.int64)
            if last.offset + 1 - first.offset == n  # offsets grow: without a gap between the ends there is none inside
            else np.array([r.offset for r in records], dtype=np.int64)
        ),
        timestamps_ms=(
            np.full(n, last.timestamp, dtype=np.int64)
            if first.timestamp_type == _LOG_APPEND_TIME and first.timestamp == last.timestamp
            else np.array([NO_TIMESTAMP if r.timestamp is None else r.timestamp for r in records], dtype=np.int64)
        ),
        keys=[r.key for r in records],
        values=[r.value for r in records],
    )


class _WholeBatch:
    """A batch of aiokafka's parser that iterates in one step: over a ``WireBatch`` of all its records, if any."""

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parsed, name)

    def __next__(self) -> Any:
        return next(self._parsed)

    def __iter__(self) -> Iterator[WireBatch]:
        records = list(self._parsed)
        return iter([WireBatch(records)] if records else [])


class _WholeBatches:
    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed

    def has_next(self) -> bool:
        return bool(self._parsed.has_next())

    def next_batch(self) -> _WholeBatch:
        return _WholeBatch(self._parsed.next_batch())


class _PartitionRecords(fetcher.PartitionRecords):
    def __init__(
        self, tp: Any, records: Any, aborted: Any, offset: int, keys: Any, values: Any, crcs: bool, isolation: int
    ) -> None:
        as_columns = isinstance(values, ColumnTopics)
        whole = as_columns and tp.topic in values
        super().__init__(
            tp,
            _WholeBatches(records) if whole else records,
            aborted,
            offset,
            keys,
            None if as_columns else values,
            crcs,
            isolation,
        )

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if not isinstance(record, WireBatch):
            return super()._consumer_record(tp, record)
        batch = record_batch(tp.partition, record.records)
        # a batch is fetched whole, though it may begin before the offset that was asked for
        return batch.after(self.next_fetch_offset - 1)


def fetch_columns(consumer: Any, topics: Iterable[str]) -> None:
    """Let an ``AIOKafkaConsumer``, before its start, deliver these topics as a ``RecordBatch`` for each wire batch."""
    consumer._value_deserializer = ColumnTopics(topics)
    fetcher.PartitionRecords = _PartitionRecords


class Backlog:
    """Counts the records that were delivered and not yet absorbed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records = 0

    @property
    def records(self) -> int:
        return self._records

    def add(self, records: int) -> None:
        with self._lock:
            self._records += records


class FetchedBatch:
    """The records of one fetch of one partition. It counts as waiting until it is absorbed, or forgotten."""

    def __init__(self, batches: Sequence[RecordBatch], backlog: Backlog | None = None) -> None:
        self.first_offset, self.last_offset = batches[0].first_offset, batches[-1].last_offset
        self._size = sum(len(batch.values) for batch in batches)
        self._batches: Sequence[RecordBatch] = batches
        self._backlog = backlog or Backlog()
        self._backlog.add(self._size)

    def __len__(self) -> int:
        """Return how many records were fetched, absorbed or not."""
        return self._size

    def take(self) -> Sequence[RecordBatch]:
        """Return the records, to be absorbed now: they no longer wait, and the batch keeps none of them."""
        batches, self._batches = self._batches, ()
        if batches:
            self._backlog.add(-self._size)
        return batches

    def __del__(self) -> None:
        self.take()


class _ColumnThread(AIOKafkaConsumerThread):
    """Faust's thread of the Kafka client, fetching the batched topics as columns."""

    def _create_worker_consumer(self, transport: Transport) -> Any:
        client = super()._create_worker_consumer(transport)
        fetch_columns(client, cast(BatchedConsumer, self.consumer).batched_topics)
        return client


class BatchedConsumer(Consumer):
    """Faust's aiokafka consumer, with batches for chosen topics."""

    batched_topics: ClassVar[frozenset[str]] = frozenset()

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ColumnThread(self, loop=self.loop, beacon=self.beacon)

    def on_init(self) -> None:
        super().on_init()
        self._backlog = Backlog()

    async def _until_absorbed(self) -> None:
        """Pause while too many records are waiting. Bounded: what a rebalance dropped is never absorbed, only freed."""
        deadline = time.monotonic() + _MAX_WAIT_S
        while time.monotonic() < deadline and not self.should_stop:
            if self._backlog.records < MAX_WAITING_RECORDS:
                return
            await asyncio.sleep(_WAIT_STEP_S)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109 (Faust's)
        """Yield one message per partition fetched; record by record for topics that aren't batched."""
        await self._until_absorbed()
        generation = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            # fetched while a rebalance began: read again from what is committed
            await self.perform_seek()
            return
        for tp, fetched in records.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if not fetched or not (active is None or tp in active or tp in self._buffered_partitions):
                continue
            self.app.monitor.track_tp_end_offset(tp, seen_end(self, tp) or 0)
            if tp.topic in self.batched_topics:
                # Faust drops what it has "read" before; the agent decides whether a batch is new
                self._read_offset[tp] = None
                yield tp, self._batch_message(tp, fetched)
            else:
                for record in fetched:
                    yield tp, self._to_message(tp, record)

    def _batch_message(self, tp: TP, batches: Sequence[RecordBatch]) -> ConsumerMessage:
        records = FetchedBatch(batches, self._backlog)
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=records.last_offset,
            timestamp=max(0, int(batches[-1].timestamps_ms[-1])) / 1000.0,
            timestamp_type=0,
            headers=None,
            key=None,
            value=cast(Any, records),  # the agent takes it out again; nothing of Faust looks inside
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _new_offset(self, tp: TP) -> int | None:
        """Commit behind the last acked batch: batches are acked in order, so nothing before it is open."""
        if tp.topic not in self.batched_topics:
            offset: int | None = super()._new_offset(tp)
            return offset
        acked = self._acked[tp]
        if not acked:
            return None
        last = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return int(last) + 1

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Between two batches' last offsets lies a batch, not a gap."""
        if tp.topic not in self.batched_topics:
            await super()._add_gap(tp, offset_from, offset_to)


class BatchSchema(faust.Schema[Any, Any]):
    """Passes a batch's records on as they are: there is nothing to deserialise."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        return None

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        return message.value


def batched_transport(*topics: str) -> type[Transport]:
    """Return a transport class whose consumer batches these topics."""
    consumer = type("BatchedTopicsConsumer", (BatchedConsumer,), {"batched_topics": frozenset(topics)})
    return type("BatchedTransport", (Transport,), {"Consumer": consumer})
