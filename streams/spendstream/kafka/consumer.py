"""Reading Kafka: where a topic ends, everything up to there, and membership in a consumer group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient

_FETCH_WAIT_MS: Final = 50
_READ_WAIT_MS: Final = 500
_MIN_HEARTBEAT_MS: Final = 100
_WEEK_MS: Final = 7 * 24 * 3600 * 1000


def membership(group: str, session_timeout_s: float, max_poll_ms: int = _WEEK_MS) -> dict[str, Any]:
    """Return the arguments of an aiokafka consumer in a group, which commits by itself what it has delivered.

    A member that sends heartbeats may wait ``max_poll_ms`` between two polls: by default however long a receiver or a
    ClickHouse is away.
    """
    session_ms = int(session_timeout_s * 1000)
    return {
        "group_id": group,
        "enable_auto_commit": False,
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": max(_MIN_HEARTBEAT_MS, session_ms // 4),
        "max_poll_interval_ms": max_poll_ms,
    }


async def partitions_of(kafka: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[int]]:
    """Return the partition numbers of topics, in order.

    ``kafka``: the connection arguments of aiokafka's clients. A consumer knows only topics that it reads already. All
    topics are asked for: a broker may create one whose metadata is asked for by name.

    Raises: LookupError, which names the topics that don't exist; aiokafka's KafkaError.
    """
    client = AIOKafkaClient(**kafka)
    try:
        await client.bootstrap()
        cluster = await client.fetch_all_metadata()
    finally:
        await client.close()
    found = {name: sorted(cluster.partitions_for_topic(name) or ()) for name in names}
    missing = [name for name, numbers in found.items() if not numbers]
    if missing:
        raise LookupError(f"no topic {', '.join(missing)}: create it with `spendstream topics`")
    return found


async def end_offsets(
    kafka: Mapping[str, Any], partitions: Sequence[TopicPartition], *, timeout_s: float = 30.0
) -> dict[TopicPartition, int]:
    """Return, for each partition, the offset that its next record will get. On an idle Kafka it takes 50 ms.

    ``kafka``: the connection arguments of aiokafka's clients.

    Raises: TimeoutError, when a partition gives no answer in ``timeout_s`` seconds, as one that does not exist;
    aiokafka's KafkaConnectionError, when no broker answers.
    """
    if not partitions:
        return {}
    consumer = AIOKafkaConsumer(**kafka, enable_auto_commit=False, fetch_max_wait_ms=_FETCH_WAIT_MS)
    try:
        async with asyncio.timeout(timeout_s):
            await consumer.start()
            return await high_watermarks(consumer, partitions)
    finally:
        await consumer.stop()


async def high_watermarks(consumer: Any, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the partitions' ends with a consumer outside any group, which is left assigned to them.

    The broker's ListOffsets answer is only where to look: Tansu's counts one record of the last batch (after a batch
    of 20 records from offset 17 it says 18, not 37). The high watermark that a fetch from there carries is right on
    every broker. Waits for as long as a partition gives no answer.
    """
    consumer.assign(partitions)
    for partition, offset in (await consumer.end_offsets(partitions)).items():
        consumer.seek(partition, offset)
    ends: dict[TopicPartition, int] = {}
    while len(ends) < len(partitions):
        await consumer.getmany(timeout_ms=_FETCH_WAIT_MS)
        ends = {partition: end for partition in partitions if (end := consumer.highwater(partition)) is not None}
    return ends


def seen_end(consumer: Any, partition: TopicPartition) -> int | None:
    """Return a partition's end as the last fetch saw it; None before one, and while a rebalance takes it away.

    ``consumer``: aiokafka's or Faust's. Both raise in the second case, even before they tell the partition's owner.
    Who only observes must not end because of it.
    """
    try:
        end: int | None = consumer.highwater(partition)
    except Exception:
        return None
    return end


async def read_to_end(
    consumer: Any,
    starts: Mapping[TopicPartition, int | None],
    *,
    until: Mapping[TopicPartition, int] | None = None,
    stalled_after_s: float = 30.0,
) -> AsyncIterator[tuple[TopicPartition, Sequence[Any]]]:
    """Yield what partitions hold, from where each is to start to its end as it stands now, a fetch at a time.

    ``starts``: the first offset; None is the beginning, a negative one counts from the end as an index does, and one
    that has expired is the beginning. ``until``: offsets to stop before, where the end is not nearer. Each partition's
    records come in order, tombstones included; a fetch may bring a few that were written meanwhile, unless ``until``
    cuts them off. The end is the high watermark, asked for once, before the first record: see ``high_watermarks``.

    ``consumer``: started, without a subscription. Its assignment becomes these partitions alone. Afterwards its
    position in each is behind the last record fetched.

    Raises: TimeoutError, when the broker sends nothing for ``stalled_after_s`` seconds; aiokafka's KafkaError.
    """
    partitions = list(starts)
    if not partitions:
        return
    try:
        async with asyncio.timeout(stalled_after_s):
            ends = await high_watermarks(consumer, partitions)
            begins = await consumer.beginning_offsets(partitions)
    except TimeoutError as error:
        topics = ", ".join(sorted({at.topic for at in partitions}))
        raise TimeoutError(f"the broker did not say within {stalled_after_s:g} s where {topics} ends") from error
    limits = {at: min(end, (until or {}).get(at, end)) for at, end in ends.items()}
    positions: dict[TopicPartition, int] = {}
    for at, start in starts.items():
        wanted = begins[at] if start is None else ends[at] + start if start < 0 else start
        positions[at] = max(begins[at], wanted)
        consumer.seek(at, positions[at])
    advanced_at = time.monotonic()
    while unread := [at for at in partitions if positions[at] < limits[at]]:
        fetched = await consumer.getmany(*unread, timeout_ms=_READ_WAIT_MS)
        for at, records in fetched.items():
            if until is not None:
                records = [record for record in records if record.offset < limits[at]]
            if records:
                yield at, records
        before, positions = positions, {at: await consumer.position(at) for at in partitions}
        if positions != before:
            advanced_at = time.monotonic()
        elif time.monotonic() - advanced_at > stalled_after_s:
            where = ", ".join(f"{at.topic}[{at.partition}] at {positions[at]} of {limits[at]}" for at in unread)
            raise TimeoutError(f"the broker has sent nothing for {stalled_after_s:g} s: {where}")
