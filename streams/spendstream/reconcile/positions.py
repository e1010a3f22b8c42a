"""How far the meter and the sinks are, by Kafka's offsets and by the meter's own markers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from spendstream.core.progress import read_progress
from spendstream.drain import DrainReport, drain
from spendstream.kafka.consumer import partitions_of, read_to_end
from spendstream.schemas import topics
from spendstream.schemas.progress import Progress
from spendstream.settings import Settings

_LAST_MARKERS: Final = 16
"""A worker that lost its partition without knowing may write an older marker behind the newest: read a few."""

_INTERVAL_S: Final = 0.2


@dataclass(frozen=True)
class SourcePartition:
    """A partition of the usage topic: its records are [``begin``, ``end``). ``marker`` None: it was never metered."""

    partition: int
    begin: int
    end: int
    marker: Progress | None

    @property
    def behind(self) -> int:
        """Records that are published and not yet durably metered."""
        through = self.begin - 1 if self.marker is None else max(self.marker.through_offset, self.begin - 1)
        return max(0, self.end - 1 - through)


@dataclass(frozen=True)
class Positions:
    """How far everything is. ``sinks_have_markers``: ClickHouse has all that was flushed up to the markers."""

    partitions: tuple[SourcePartition, ...]
    sinks_have_markers: bool
    records_behind: int

    @property
    def is_drained(self) -> bool:
        """Whether everything published is metered and in ClickHouse."""
        return self.records_behind == 0 and not any(each.behind for each in self.partitions)

    @property
    def markers(self) -> dict[int, Progress]:
        """The marker of each partition that was metered, by its number."""
        return {each.partition: each.marker for each in self.partitions if each.marker is not None}


async def read_positions(settings: Settings, wait_s: float) -> Positions:
    """Read the markers, then wait up to ``wait_s`` seconds until the sinks hold what the markers cover.

    The order makes the markers a safe point while the meter runs: priced calls and rollups are acknowledged before
    their marker is written, so once the sinks have reached the ends that were read after the markers, ClickHouse has
    everything at or below them.

    Raises: TopicsMissing; aiokafka's errors, when no broker answers; TimeoutError.
    """
    usage = settings.topic(topics.USAGE)
    markers = await read_markers(settings)
    first = await _look(settings)
    targets = {(each.topic, each.partition): each.end for each in first.partitions}
    report, waited_s = first, 0.0
    while not (reached := _sinks_reached(report, targets, settings)) and waited_s < wait_s:
        await asyncio.sleep(_INTERVAL_S)
        waited_s += _INTERVAL_S
        report = await _look(settings)
    return Positions(
        tuple(
            SourcePartition(each.partition, each.begin, each.end, markers.get(each.partition))
            for each in first.partitions
            if each.topic == usage
        ),
        reached,
        report.records_behind,
    )


async def read_markers(settings: Settings) -> dict[int, Progress]:
    """Return the newest marker of each source partition that was metered, by the partition's number.

    Raises: aiokafka's errors; TimeoutError, where the broker does not send what it has.
    """
    topic = settings.topic(topics.PROGRESS)
    try:
        numbers = (await partitions_of(settings.kafka_client(), [topic]))[topic]
    except LookupError:
        return {}
    consumer = AIOKafkaConsumer(
        **settings.kafka_client(), enable_auto_commit=False, fetch_max_wait_ms=100, max_partition_fetch_bytes=16_000_000
    )
    markers: dict[int, list[Progress]] = {}
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, number) for number in numbers]
        async for at, records in read_to_end(consumer, dict.fromkeys(partitions, -_LAST_MARKERS)):
            markers.setdefault(at.partition, []).extend(
                read_progress(record.value).marker for record in records if record.value is not None
            )
    finally:
        await consumer.stop()
    return {partition: newest(found) for partition, found in sorted(markers.items()) if found}


def newest(markers: Sequence[Progress]) -> Progress:
    """Return the valid marker: the greatest of the log that the last one names."""
    log = markers[-1].source_log
    return max((marker for marker in markers if marker.source_log == log), key=lambda marker: marker.through_offset)


async def _look(settings: Settings) -> DrainReport:
    for _ in range(30):
        report = await drain(settings, 0.0)
        if report.partitions:
            return report
        await asyncio.sleep(_INTERVAL_S)
    raise TimeoutError("Kafka answers, but does not say how far its consumer groups are")


def _sinks_reached(report: DrainReport, targets: dict[tuple[str, int], int], settings: Settings) -> bool:
    usage = settings.topic(topics.USAGE)
    return all(
        max(each.committed or 0, each.begin) >= targets[each.topic, each.partition]
        for each in report.partitions
        if each.topic != usage and (each.topic, each.partition) in targets
    )
