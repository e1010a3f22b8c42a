"""Rows of usage to Kafka, in batches packed by partition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from spendstream.intake import Line, RowError
from spendstream.publish.errors import PublishFailed, TopicMissing
from spendstream.publish.feed import Feed
from spendstream.publish.lines import judge

MAX_BATCH_BYTES: Final = 900_000
"""Below Kafka's default of 1 MB a request's batch; a single larger row is a batch of its own."""

_ROWS_A_TURN: Final = 2000
_IDLE_S: Final = 0.02


@dataclass(frozen=True)
class PublishSettings:
    """``topic``: its full name. ``client``: connection arguments of aiokafka's clients."""

    topic: str
    client: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """``published``: records that Kafka acknowledged; ``invalid``: rows that are no events. Duration in seconds."""

    published: int
    invalid: int
    seconds: float


def _nothing(_: object) -> None:
    pass


async def publish(
    rows: Iterable[Line | RowError],
    settings: PublishSettings,
    *,
    on_error: Callable[[RowError], None] = _nothing,
    on_progress: Callable[[int], None] = _nothing,
) -> Summary:
    """Publish every row that is an event, and return once all in-sync replicas have all of them.

    A record's key decides its partition, and its Kafka timestamp is the time of publishing, never the event's:
    retention counts from it. ``on_error`` is called for each invalid row, ``on_progress`` with how many rows were
    taken so far.

    Raises: TopicMissing; PublishFailed; aiokafka's KafkaConnectionError, where no broker answers; what reading raises.
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
        feed = Feed(rows)
        try:
            invalid = await _pump(feed, packer, on_error, on_progress)
        finally:
            feed.close()
        await packer.finish()
    finally:
        await producer.stop()
    return Summary(packer.acknowledged, invalid, time.monotonic() - started)


async def _pump(
    feed: Feed, packer: _Packer, on_error: Callable[[RowError], None], on_progress: Callable[[int], None]
) -> int:
    taken = invalid = 0
    while (rows := feed.take(_ROWS_A_TURN)) is not None:
        if not rows:
            await packer.send_all()  # the source pauses: what it gave so far need not wait
            await asyncio.sleep(_IDLE_S)
            continue
        for row in judge(rows):
            if isinstance(row, RowError):
                invalid += 1
                on_error(row)
            else:
                await packer.add(row.key, row.value)
        taken += len(rows)
        on_progress(taken)
        await asyncio.sleep(0)
    return invalid


async def _partitions(producer: AIOKafkaProducer, topic: str) -> list[int]:
    # All names, not this one: a broker may create a topic whose metadata is asked for by name.
    cluster = await producer.client.fetch_all_metadata()
    partitions: set[int] | None = cluster.partitions_for_topic(topic)
    if not partitions:
        raise TopicMissing(f"There is no topic {topic}; make it with `spendstream topics`")
    await producer.partitions_for(topic)
    return sorted(partitions)


class _Packer:
    """Packs records into one batch a partition and sends those that are full.

    The producer holds one batch a partition in flight and one behind it; a third waits, and so does reading.
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
        """Put a record into its partition's batch. Raises: PublishFailed."""
        partition = self._choose(key, self._partitions, self._partitions)
        batch = self._open.get(partition)
        if batch is not None and batch.append(key=key, value=value, timestamp=None) is not None:
            return
        if batch is not None:
            await self._send(partition)
        batch = self._open[partition] = self._producer.create_batch()
        batch.append(key=key, value=value, timestamp=None)  # the first always fits

    async def send_all(self) -> None:
        """Send the batches as they are. Raises: PublishFailed."""
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
        """Count what was acknowledged since; let go of it."""
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
