"""Reading Kafka: membership in a consumer group, and where a partition ends on any Kafka-protocol broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient

_FETCH_WAIT_MS: Final = 50
_MIN_HEARTBEAT_MS: Final = 100
_WEEK_MS: Final = 7 * 24 * 3600 * 1000


def membership(group: str, session_timeout_s: float, max_poll_ms: int = _WEEK_MS) -> dict[str, Any]:
    """Return the arguments of an aiokafka consumer in a group, which commits by itself what it has delivered.

    A member that sends heartbeats may wait ``max_poll_ms`` between two polls: by default however long a receiver
    or a ClickHouse is away.
    """
    session_ms = int(session_timeout_s * 1000)
    return {
        "group_id": group,
        "enable_auto_commit": False,
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": max(_MIN_HEARTBEAT_MS, session_ms // 4),
        "max_poll_interval_ms": max_poll_ms,
    }


async def end_offsets(
    bootstrap: str,
    partitions: Sequence[TopicPartition],
    *,
    security: Mapping[str, Any] | None = None,
    timeout_s: float = 30.0,
) -> dict[TopicPartition, int]:
    """Return, for each partition, the offset that its next record will get.

    The broker's ListOffsets answer is only where to look: Tansu's counts one record of the last batch (after a batch
    of 20 records from offset 17 it says 18, not 37). The high watermark that a fetch from there
    carries is right on every broker. On an idle Kafka the fetch waits 50 ms.

    Raises: TimeoutError, when a partition gives no answer in `timeout_s` seconds, as one that does not exist;
    aiokafka's KafkaConnectionError, when no broker answers.
    """
    if not partitions:
        return {}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        **(security or {}),
    )
    try:
        async with asyncio.timeout(timeout_s):
            await consumer.start()
            return await high_watermarks(consumer, partitions)
    finally:
        await consumer.stop()


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


async def high_watermarks(consumer: Any, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the partitions' ends with a consumer outside any group. It is left assigned to them."""
    consumer.assign(partitions)
    for partition, offset in (await consumer.end_offsets(partitions)).items():
        consumer.seek(partition, offset)
    ends: dict[TopicPartition, int] = {}
    while len(ends) < len(partitions):
        await consumer.getmany(timeout_ms=_FETCH_WAIT_MS)
        ends = {partition: end for partition in partitions if (end := consumer.highwater(partition)) is not None}
    return ends
