"""Where a notifier begins: a new one at the end of the alerts, a known one where it left off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, UnknownMemberIdError

from spendstream.pause import pause
from spendstream.transport.offsets import high_watermarks, partitions_of

log = structlog.get_logger(__name__)

_WAIT_S: Final = 1.0
_FETCH_WAIT_MS: Final = 50


async def anchor(topic: str, group: str, kafka: Mapping[str, Any], stopping: asyncio.Event) -> bool:
    """See to it that a group has committed where it begins; return False when `stopping` came first.

    A group that never committed begins at the end, so it tells no old alerts; that is committed at once, so nothing
    written from now on is passed over by a restart. A partition that was added to the topic later is read whole.
    Waits for a topic that is not there yet. Raises: aiokafka's KafkaError.
    """
    consumer = AIOKafkaConsumer(
        **kafka, group_id=group, enable_auto_commit=False, fetch_max_wait_ms=_FETCH_WAIT_MS, auto_offset_reset="latest"
    )
    try:
        await consumer.start()
        partitions = await _partitions(kafka, topic, stopping)
        if not partitions:
            return False
        consumer.assign(partitions)
        if any([await consumer.committed(partition) is not None for partition in partitions]):
            return True
        ends = await high_watermarks(consumer, partitions)
        try:
            await consumer.commit(ends)
        except (UnknownMemberIdError, CommitFailedError):
            log.debug("notify.anchored_by_another", group=group)  # another worker runs, and has committed its beginning
        return True
    finally:
        await consumer.stop()


async def recalled(partitions: Collection[TopicPartition], group: Any, kafka: Mapping[str, Any]) -> list[Any]:
    """Return the records of `partitions` that a group's consumer has behind it, each partition's in order.

    Raises: aiokafka's KafkaError.
    """
    committed = {partition: await group.committed(partition) or 0 for partition in partitions}
    ends = {partition: end for partition, end in committed.items() if end}
    if not ends:
        return []
    records: list[Any] = []
    reader = AIOKafkaConsumer(**kafka, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        await reader.start()
        reader.assign(list(ends))
        while True:
            for partition, some in (await reader.getmany(timeout_ms=_FETCH_WAIT_MS)).items():
                records.extend(record for record in some if record.offset < ends[partition])
            if all([await _is_at(reader, partition, end) for partition, end in ends.items()]):
                return records
    finally:
        await reader.stop()


async def _is_at(reader: Any, partition: TopicPartition, end: int) -> bool:
    """Whether a reader has come to an offset, or to the partition's end: a topic made anew is shorter."""
    at: int = await reader.position(partition)
    high = reader.highwater(partition)
    return at >= end or (high is not None and at >= high)


async def _partitions(kafka: Mapping[str, Any], topic: str, stopping: asyncio.Event) -> list[TopicPartition]:
    is_told = False
    while not stopping.is_set():
        with contextlib.suppress(LookupError):
            return [TopicPartition(topic, number) for number in (await partitions_of(kafka, [topic]))[topic]]
        if not is_told:
            log.warning("notify.no_topic", topic=topic, mend="spendstream topics")
        is_told = True
        await pause(_WAIT_S, stopping)
    return []
