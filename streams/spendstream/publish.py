"""Files of usage to Kafka: rows in, acknowledged records out, and an error for each row that is not an event.

SpendstreamError
├── TopicMissing     the usage topic doesn't exist: run `spendstream topics`
└── PublishFailed    Kafka didn't acknowledge everything; publishing the same file again is harmless
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from spendstream.core.decode import decode, uuid_text
from spendstream.errors import SpendstreamError
from spendstream.intake import MAX_LINE_BYTES, Line, RowError, rejected

MAX_BATCH_BYTES: Final = 900_000
"""Less than Kafka's default limit of 1 MB for a batch; a single larger row is a batch of its own."""

MAX_ROWS_AHEAD: Final = 20_000

_BATCH_ROWS: Final = 2_000
_IDLE_S: Final = 0.02
_READER_PAUSE_S: Final = 0.005


class TopicMissing(SpendstreamError):
    """Nothing was published: the topic doesn't exist, and one that Kafka creates by itself has the wrong settings."""


class PublishFailed(SpendstreamError):
    """Kafka is unavailable or refused records. ``acknowledged``: how many it accepted before."""

    def __init__(self, acknowledged: int, cause: BaseException) -> None:
        super().__init__(
            f"Kafka did not accept everything ({cause!r}); {acknowledged} records are published. "
            "Publish the same file again: an event_id counts once"
        )
        self.acknowledged = acknowledged


@dataclass(frozen=True)
class PublishSettings:
    """``topic``: its full name. ``client``: connection arguments of aiokafka's clients."""

    topic: str
    client: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """``published``: records that Kafka acknowledged; ``invalid``: rows that are not events. Duration in seconds."""

    published: int
    invalid: int
    seconds: float


def _nothing(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to publish: its key, as ``UsageEvent.partition_key``, and its value."""

    key: bytes
    value: bytes


async def publish(
    rows: Iterable[Line | RowError],
    settings: PublishSettings,
    *,
    on_error: Callable[[RowError], None] = _nothing,
    on_progress: Callable[[int], None] = _nothing,
) -> Summary:
    """Publish every row that is an event, and return once all in-sync replicas have all of them.

    A record's key determines its partition. Its Kafka timestamp is the time of publishing, never the event's: retention
    counts from it. ``on_error`` is called for each invalid row, ``on_progress`` with the number of rows read so far.

    Raises: TopicMissing; PublishFailed; aiokafka's KafkaConnectionError, if no broker answers; what reading raises.
    """
    started = time.monotonic()
    producer = AIOKafkaProducer(
        **settings.client,
        acks="all",
        compression_type="lz4",
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=8 * MAX_BATCH_BYTES,
    )
    try:
        await producer.start()
        packer = _Packer(producer, settings.topic, await _partitions(producer, settings.topic))
        feed = _Feed(rows)
        try:
            invalid = await _pump(feed, packer, on_error, on_progress)
        finally:
            feed.close()
        await packer.finish()
    finally:
        await producer.stop()
    return Summary(packer.acknowledged, invalid, time.monotonic() - started)


async def _pump(
    feed: _Feed, packer: _Packer, on_error: Callable[[RowError], None], on_progress: Callable[[int], None]
) -> int:
    read = invalid = 0
    while (rows := feed.take(_BATCH_ROWS)) is not None:
        if not rows:
            await packer.send_all()  # the source pauses: its rows so far need not wait
            await asyncio.sleep(_IDLE_S)
            continue
        for row in validate(rows):
            if isinstance(row, RowError):
                invalid += 1
                on_error(row)
            else:
                await packer.add(row.key, row.value)
        read += len(rows)
        on_progress(read)
        await asyncio.sleep(0)
    return invalid


async def _partitions(producer: AIOKafkaProducer, topic: str) -> list[int]:
    # Of all topics: a broker may create a topic when its metadata is requested by name.
    cluster = await producer.client.fetch_all_metadata()
    partitions: set[int] | None = cluster.partitions_for_topic(topic)
    if not partitions:
        raise TopicMissing(f"There is no topic {topic}: create it with `spendstream topics`")
    await producer.partitions_for(topic)
    return sorted(partitions)


class _Packer:
    """Packs records into one batch a partition and sends those that are full.

    The producer keeps one batch per partition in flight and one queued; a third waits, and so does reading.
    """

    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: list[int]) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._choose = DefaultPartitioner()
        self._open: dict[int, Any] = {}
        self._sent: list[tuple[asyncio.Future[Any], int]] = []
        self.acknowledged = 0

    async def add(self, key: bytes, value: bytes) -> None:
        """Add a record to its partition's batch. Raises: PublishFailed."""
        partition = self._choose(key, self._partitions, self._partitions)
        batch = self._open.get(partition)
        if batch is not None and batch.append(key=key, value=value, timestamp=None) is not None:
            return
        if batch is not None:
            await self._send(partition)
        batch = self._open[partition] = self._producer.create_batch()
        batch.append(key=key, value=value, timestamp=None)  # the first always fits

    async def send_all(self) -> None:
        """Send all batches, full or not. Raises: PublishFailed."""
        for partition in list(self._open):
            await self._send(partition)

    async def finish(self) -> None:
        """Send what is left and wait until everything is acknowledged. Raises: PublishFailed."""
        await self.send_all()
        await asyncio.gather(*(future for future, _ in self._sent), return_exceptions=True)
        self._settle()

    async def _send(self, partition: int) -> None:
        batch = self._open.pop(partition)
        try:
            future = await self._producer.send_batch(batch, self._topic, partition=partition)
        except KafkaError as error:
            await asyncio.gather(*(sent for sent, _ in self._sent), return_exceptions=True)
            self._settle()
            raise PublishFailed(self.acknowledged, error) from error
        self._sent.append((future, batch.record_count()))
        self._settle()

    def _settle(self) -> None:
        """Count and drop what was acknowledged since the last call. Raises: PublishFailed."""
        failure: BaseException | None = None
        waiting = []
        for future, records in self._sent:
            if not future.done():
                waiting.append((future, records))
            elif (error := future.exception()) is None:
                self.acknowledged += records
            else:
                failure = failure or error
        self._sent = waiting
        if failure is not None:
            raise PublishFailed(self.acknowledged, failure) from failure


def validate_all(rows: Iterable[Line | RowError]) -> Iterator[Outgoing | RowError]:
    """Yield for each row its record or its error, in order; reads ahead by a batch."""
    stream = iter(rows)
    while batch := list(islice(stream, _BATCH_ROWS)):
        yield from validate(batch)


def validate(batch: Sequence[Line | RowError]) -> Iterator[Outgoing | RowError]:
    """Yield for each row its record or its error, in order.

    The meter's own decoder takes 5 µs a row, the contract's model 25; a property test holds them to the same verdict.
    """
    decoded = decode([row.value for row in batch if isinstance(row, Line)], MAX_LINE_BYTES)
    keys = iter(decoded.calls.select("task_id", "conversation_id", "id_hi", "id_lo").iter_rows())
    index = 0
    for row in batch:
        if isinstance(row, RowError):
            yield row
            continue
        if (rejection := decoded.rejected.get(index)) is not None:
            yield rejected(row, rejection)
        else:
            task, conversation, hi, lo = next(keys)  # calls are in the order of their records
            key = task or conversation or uuid_text(hi, lo)
            yield Outgoing(key.encode(), row.value)
        index += 1


class _Feed:
    """Reads up to ``MAX_ROWS_AHEAD`` rows ahead in a thread, so that a pausing source doesn't hold back earlier rows.

    For one reader; ``take`` raises what reading raises.
    """

    def __init__(self, rows: Iterable[Line | RowError]) -> None:
        self._rows = rows
        self._ahead: deque[Line | RowError] = deque()
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._closed = threading.Event()
        # a daemon, so that an interrupted command doesn't wait for the next line of a terminal
        self._thread = threading.Thread(target=self._read, name="read-rows", daemon=True)
        self._thread.start()

    def take(self, limit: int) -> list[Line | RowError] | None:
        """Return the rows read so far: an empty list if there are none yet, None after the last one."""
        ended = self._ended.is_set()  # checked first, so that all rows before the end are in _ahead afterwards
        taken = [self._ahead.popleft() for _ in range(min(limit, len(self._ahead)))]
        if taken or not ended:
            return taken
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Stop reading ahead."""
        self._closed.set()

    def _read(self) -> None:
        try:
            for row in self._rows:
                self._ahead.append(row)
                while len(self._ahead) >= MAX_ROWS_AHEAD and not self._closed.is_set():
                    time.sleep(_READER_PAUSE_S)
                if self._closed.is_set():
                    return
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
