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
import contextlib
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import faust
import numpy as np
import structlog
from aiokafka.consumer import fetcher
from aiokafka.errors import ConsumerStoppedError
from aiokafka.record.memory_records import MemoryRecords
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP, ConsumerMessage

from spendstream.core.batch import NO_TIMESTAMP, RecordBatch, UnreadableValue
from spendstream.kafka.consumer import seen_end, stable_end
from spendstream.kafka.wire import must_be_read_in_pieces, pieces

log = structlog.get_logger(__name__)

MAX_WAITING_RECORDS: Final = 100_000
"""Records delivered and not yet absorbed: beyond this the consumer stops fetching."""

MAX_WAITING_BYTES: Final = 64_000_000
"""The same for their keys and values, decompressed."""

MAX_FETCH_BYTES: Final = 16_000_000
"""Of keys and values, decompressed: delivered at once, give or take a piece."""

_MAX_WAIT_S: Final = 1.0
_WAIT_STEP_S: Final = 0.005

_LENGTH: Final = struct.Struct(">i")
_LEADER_EPOCH: Final = struct.Struct(">i")
_LEADER_EPOCH_AT: Final = 12
_KEPT_OF_UNREADABLE: Final = 100_000

_LOG_APPEND_TIME: Final = 1
"""The timestamp type of records that the broker stamped, with one time for a whole batch."""


class ColumnTopics(frozenset[str]):
    """The topics that a consumer fetches as columns. It takes the place of the consumer's value deserializer."""


@dataclass(frozen=True)
class UnreadableRecord:
    """A record of a batch that can't be read, in the attributes of aiokafka's records."""

    offset: int
    timestamp: int
    value: bytes
    key: bytes | None = None
    timestamp_type: int = 0


@dataclass(frozen=True)
class WireBatch:
    """The records of one batch on the wire. ``offset``: its last record's, after which the reader continues."""

    records: Sequence[Any]

    @property
    def offset(self) -> int:
        return int(self.records[-1].offset)


@dataclass(frozen=True)
class Passed:
    """Offsets that hold no record to deliver: a transaction's marker, or the records of one that was aborted."""

    first_offset: int
    last_offset: int
    leader_epoch: int


def record_batch(partition: int, records: Sequence[Any], leader_epoch: int = -1) -> RecordBatch:
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
        leader_epoch=leader_epoch,
    )


class _MemoryRecords:
    """aiokafka's parser of a partition's batches, which keeps the bytes that it parses."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._parsed: Any = MemoryRecords(data)
        self.size_in_bytes = self._parsed.size_in_bytes
        self.has_next = self._parsed.has_next
        self.next_batch = self._parsed.next_batch


class _WholeBatch:
    """A batch of aiokafka's parser that iterates over ``WireBatch``: one of all its records, or several of a large one.

    What can't be decompressed or parsed becomes records without a value: it stands there, and the partition goes on.
    """

    def __init__(self, parsed: Any, data: memoryview) -> None:
        self._parsed = parsed
        self._data = data
        self.leader_epoch = int(_LEADER_EPOCH.unpack_from(data, _LEADER_EPOCH_AT)[0]) if parsed.magic >= 2 else -1
        self.is_read = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parsed, name)

    def __next__(self) -> Any:
        return next(self._parsed)

    def __iter__(self) -> Iterator[WireBatch]:
        self.is_read = True
        offset = self._parsed.base_offset
        try:
            for records in pieces(self._data) if must_be_read_in_pieces(self._data) else [list(self._parsed)]:
                if records:
                    yield WireBatch(records)
                    offset = records[-1].offset + 1
        except Exception as error:
            log.error(
                "kafka.batch_unreadable", from_offset=offset, to_offset=self._parsed.next_offset - 1, exc_info=error
            )
            value = UnreadableValue.of(bytes(self._data[:_KEPT_OF_UNREADABLE]), repr(error))
            unread = range(offset, self._parsed.next_offset)
            for start in range(0, len(unread), MAX_WAITING_RECORDS):
                yield WireBatch(
                    [
                        UnreadableRecord(at, self._parsed.max_timestamp, value)
                        for at in unread[start:][:MAX_WAITING_RECORDS]
                    ]
                )


class _WholeBatches:
    def __init__(self, records: _MemoryRecords) -> None:
        self._records = records
        self._at = 0
        self._batch: _WholeBatch | None = None
        self._passed: list[Passed] = []
        self.is_inside_large = False

    @property
    def leader_epoch(self) -> int:
        """Of the batch that is read."""
        return -1 if self._batch is None else self._batch.leader_epoch

    def take_passed(self, from_offset: int) -> list[Passed]:
        """Return what was passed over without being read since the last call, from an offset on."""
        self._note_passed()
        passed, self._passed = self._passed, []
        return [
            Passed(max(each.first_offset, from_offset), each.last_offset, each.leader_epoch)
            for each in passed
            if each.last_offset >= from_offset
        ]

    def _note_passed(self) -> None:
        batch = self._batch
        if batch is not None and not batch.is_read:
            batch.is_read = True
            self._passed.append(Passed(batch.base_offset, batch.next_offset - 1, batch.leader_epoch))

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _WholeBatch:
        self.is_inside_large = self.next_is_large()
        self._note_passed()
        self._batch = _WholeBatch(self._records.next_batch(), self._next())
        return self._batch

    def next_is_large(self) -> bool:
        """Return whether the next batch could take long to read."""
        at = self._at
        is_large = self.has_next() and must_be_read_in_pieces(self._next())
        self._at = at
        return is_large

    def _next(self) -> memoryview:
        start = self._at
        (length,) = _LENGTH.unpack_from(self._records.data, start + 8)
        self._at = start + 12 + length
        return memoryview(self._records.data)[start : self._at]


class _PartitionRecords(fetcher.PartitionRecords):
    def __init__(
        self, tp: Any, records: Any, aborted: Any, offset: int, keys: Any, values: Any, crcs: bool, isolation: int
    ) -> None:
        as_columns = isinstance(values, ColumnTopics)
        self.batches = _WholeBatches(records) if as_columns and tp.topic in values else None
        self._ahead: tuple[Any, int] | None = None
        self.next_fetch_offset: int
        self._records_iterator: Any
        super().__init__(
            tp,
            self.batches or records,
            aborted,
            offset,
            keys,
            None if as_columns else values,
            crcs,
            isolation,
        )

    def is_slow(self) -> bool:
        """Return whether the next piece may take long."""
        return self.batches is not None and (self.batches.is_inside_large or self.batches.next_is_large())

    def read_ahead(self) -> None:
        """Read the next piece, which may take long, in any thread. It is not consumed yet."""
        if self._ahead is None:
            start = self.next_fetch_offset
            piece = next(self._records_iterator, None)
            self._ahead = piece, self.next_fetch_offset
            self.next_fetch_offset = start

    def __next__(self) -> Any:
        if self._ahead is None:
            return super().__next__()
        (piece, self.next_fetch_offset), self._ahead = self._ahead, None
        if piece is None:
            self._records_iterator = None
            raise StopIteration
        return piece

    def _unpack_records(self) -> Iterator[Any]:
        if self.batches is None:
            yield from super()._unpack_records()
            return
        start = self.next_fetch_offset
        for item in super()._unpack_records():
            behind = self.next_fetch_offset
            for passed in self.batches.take_passed(start):
                self.next_fetch_offset = passed.last_offset + 1
                yield passed
            self.next_fetch_offset = behind
            yield item
        yield from self.batches.take_passed(start)

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if not isinstance(record, WireBatch) or self.batches is None:
            return super()._consumer_record(tp, record)
        batch = record_batch(tp.partition, record.records, self.batches.leader_epoch)
        # a batch is fetched whole, though it may begin before the offset that was asked for
        return batch.after(self.next_fetch_offset - 1)


def fetch_columns(consumer: Any, topics: Iterable[str]) -> None:
    """Let an ``AIOKafkaConsumer``, before its start, deliver these topics as a ``RecordBatch`` for each wire batch."""
    consumer._value_deserializer = ColumnTopics(topics)
    fetcher.PartitionRecords = _PartitionRecords
    fetcher.MemoryRecords = _MemoryRecords


class Backlog:
    """Counts the records and bytes that were delivered and not yet absorbed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records = 0
        self.nbytes = 0

    @property
    def is_full(self) -> bool:
        return self.records >= MAX_WAITING_RECORDS or self.nbytes >= MAX_WAITING_BYTES

    def add(self, records: int, nbytes: int) -> None:
        with self._lock:
            self.records += records
            self.nbytes += nbytes


class FetchedBatch:
    """What one fetch brought of one partition. Its records count as waiting until they are absorbed, or forgotten.

    ``missing``: offsets between the first and the last whose records are gone: the topic is compacted.
    """

    def __init__(self, fetched: Sequence[RecordBatch | Passed], backlog: Backlog | None = None) -> None:
        self.first_offset, self.last_offset = fetched[0].first_offset, fetched[-1].last_offset
        self.first_epoch, self.last_epoch = fetched[0].leader_epoch, fetched[-1].leader_epoch
        batches = [each for each in fetched if isinstance(each, RecordBatch)]
        passed = sum(each.last_offset - each.first_offset + 1 for each in fetched if isinstance(each, Passed))
        self._size = sum(len(batch.values) for batch in batches)
        self.missing = self.last_offset - self.first_offset + 1 - self._size - passed
        self._batches: Sequence[RecordBatch] = batches
        self.nbytes = sum(batch.nbytes for batch in batches)
        self._backlog = backlog or Backlog()
        self._backlog.add(self._size, self.nbytes)

    def __len__(self) -> int:
        """Return how many records were fetched, absorbed or not."""
        return self._size

    def take(self) -> Sequence[RecordBatch]:
        """Return the records, to be absorbed now: they no longer wait, and the batch keeps none of them."""
        batches, self._batches = self._batches, ()
        if batches:
            self._backlog.add(-self._size, -self.nbytes)
        return batches

    def __del__(self) -> None:
        self.take()


class _ColumnThread(AIOKafkaConsumerThread):
    """Faust's thread of the Kafka client, fetching the batched topics as columns."""

    def _create_worker_consumer(self, transport: Transport) -> Any:
        client = super()._create_worker_consumer(transport)
        fetch_columns(client, cast(BatchedConsumer, self.consumer).batched_topics)
        client._isolation_level = "read_committed"  # Faust offers it only with transactions of its own
        return client

    def highwater(self, tp: TP) -> int:
        """Return the offset up to which records can be read: before the first transaction that is still open."""
        return cast(int, stable_end(self._ensure_consumer(), tp))

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109 (Faust's)
        max_records: int | None = None,
    ) -> dict[Any, list[Any]]:
        """Return what was fetched, up to about ``MAX_FETCH_BYTES``, decompressed piece by piece.

        What may take long runs in a thread: heartbeats need this loop, and without them the group expels the worker.
        """
        if not self.consumer.flow_active:
            return {}
        source = consumer._fetcher
        if consumer._closed or source._closed:
            raise ConsumerStoppedError
        drained: dict[Any, list[Any]] = {}
        size = 0
        with source._subscriptions.fetch_context():
            while size < MAX_FETCH_BYTES:
                tp = next((tp for tp in source._records if not active_partitions or tp in active_partitions), None)
                if tp is None:
                    if drained or not timeout:
                        break
                    waiter = source._create_fetch_waiter()
                    await asyncio.wait([waiter], timeout=timeout)
                    if not waiter.done():
                        waiter.cancel()
                        break
                    waiter.result()  # raises what authorization refuses
                    timeout = None
                    continue
                await self._read_ahead(source._records[tp])
                got = await source.fetched_records([tp], timeout=0, max_records=1)
                for at, batches in got.items():
                    drained.setdefault(at, []).extend(batches)
                    size += sum(batch.nbytes if isinstance(batch, RecordBatch) else 0 for batch in batches)
                with contextlib.suppress(KeyError):  # the next partition's turn
                    source._records.move_to_end(tp)
        return drained

    async def _read_ahead(self, result: Any) -> None:
        records = getattr(result, "_partition_records", None)
        if isinstance(records, _PartitionRecords) and records.is_slow():
            await asyncio.get_running_loop().run_in_executor(None, records.read_ahead)


class BatchedConsumer(Consumer):
    """Faust's aiokafka consumer, with batches for chosen topics."""

    batched_topics: ClassVar[frozenset[str]] = frozenset()

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ColumnThread(self, loop=self.loop, beacon=self.beacon)

    def on_init(self) -> None:
        super().on_init()
        self._backlog = Backlog()

    async def _has_room(self) -> bool:
        """Wait a moment while too much is waiting. Returns whether there is room now."""
        deadline = time.monotonic() + _MAX_WAIT_S
        while time.monotonic() < deadline and not self.should_stop:
            if not self._backlog.is_full:
                return True
            await asyncio.sleep(_WAIT_STEP_S)
        return False

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109 (Faust's)
        """Yield one message per partition fetched; record by record for topics that aren't batched."""
        if not await self._has_room():
            return
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

    def _batch_message(self, tp: TP, fetched: Sequence[RecordBatch | Passed]) -> ConsumerMessage:
        records = FetchedBatch(fetched, self._backlog)
        last = fetched[-1]
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=records.last_offset,
            timestamp=max(0, int(last.timestamps_ms[-1])) / 1000.0 if isinstance(last, RecordBatch) else 0.0,
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

    def rewind(self, tp: TP, offset: int) -> None:
        """Let an offset below what was committed be committed: the log was cut."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        self._committed_offset[tp] = offset

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
