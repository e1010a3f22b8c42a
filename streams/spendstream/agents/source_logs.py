"""Whether a partition of the usage topic still holds what was metered, and where metering continues if it doesn't.

A topic may be deleted and created again, and a log may lose its tail: an unclean election, or a power loss where one
replica is all there is. In both cases it grows again, with other records at offsets that were metered before. The
markers hold hashes of records, by which the last one that is still the same is found.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import TopicPartition

from spendstream.core.batch import record_hash
from spendstream.errors import SpendstreamError
from spendstream.kafka.consumer import high_watermarks
from spendstream.schemas import topics
from spendstream.schemas.progress import Progress

log = structlog.get_logger(__name__)

_RECORD_TIMEOUT_MS: Final = 10_000
_LOOKS: Final = 4
_LOOK_AGAIN_S: Final = 0.5


class StartUnknown(SpendstreamError):
    """A partition was metered, and the markers that say how far are gone. To guess would count calls twice."""


@dataclass(frozen=True)
class Comparison:
    """A log, [``begin``, ``end``), beside what was metered of it.

    ``fork``: the last metered offset that still holds the same record, -1 where none does; None: it is the same log.
    """

    begin: int
    end: int
    fork: int | None


class SourceLogs:
    """Looks at partitions of the usage topic with a consumer that reads no other meanwhile."""

    def __init__(self, consumer: Any, topic: Callable[[str], str]) -> None:
        self._consumer = consumer
        self._topic = topic(topics.USAGE)
        self._full_name = topic

    async def span(self, partition: int) -> tuple[int, int]:
        """Return the first offset that the log holds, and the one that its next record will get."""
        source = TopicPartition(self._topic, partition)
        begin = (await self._consumer.beginning_offsets([source]))[source]
        return begin, max(begin, (await high_watermarks(self._consumer, [source]))[source])

    async def committed(self, partition: int) -> int | None:
        """Return the offset that the consumer's group has committed."""
        source = TopicPartition(self._topic, partition)
        self._consumer.assign([source])
        found: int | None = await self._consumer.committed(source)
        return found

    async def compare(self, marker: Progress, markers: Sequence[Progress]) -> Comparison:
        """Compare a log with its newest marker, and where they differ, with all of its markers that are given."""
        begin, end = await self.span(marker.partition)
        for _ in range(_LOOKS):
            if marker.through_offset < end:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)  # a leader that was just elected may not know the end yet
            begin, end = await self.span(marker.partition)
        checkpoints = {
            offset: hashed
            for each in markers
            if each.source_log == marker.source_log
            for offset, hashed in each.checkpoints
        }
        offsets = sorted(checkpoints)
        if marker.through_offset < end:
            newest = [at for at in offsets if at >= begin][-1:]
            if not newest and not checkpoints and not await self._has_same_time(marker, begin):
                return Comparison(begin, end, -1)
            if not newest or await self.holds(marker.partition, newest[0], checkpoints[newest[0]]) is not False:
                return Comparison(begin, end, None)
        held = [at for at in offsets if begin <= at < end]
        return Comparison(begin, end, await self._fork(marker.partition, held, checkpoints))

    async def require_never_metered(self, partition: int) -> None:
        """Raise StartUnknown, where the internal topics have held records of a partition that has no marker."""
        names = [self._full_name(name) for name in (topics.PROGRESS, topics.ROLLUP, topics.PRICED)]
        ends = await high_watermarks(self._consumer, [TopicPartition(name, partition) for name in names])
        held = [at.topic for at, end in ends.items() if end > 0]
        if held:
            raise StartUnknown(
                f"{self._topic}[{partition}] was metered ({', '.join(held)} held records of it), but {names[0]} has no "
                "marker any more that says how far. A guess could count calls twice, or leave some out. "
                f"{_state(partition)}"
            )

    async def rollups_expired(self, marker: Progress) -> bool:
        """Return whether open aggregates can't be read back. Their rows are final then, and a new log adds others.

        Raises: StartUnknown, when an interrupted flush may have written more of them than the marker says.
        """
        at = TopicPartition(self._full_name(topics.ROLLUP), marker.partition)
        begin = (await self._consumer.beginning_offsets([at]))[at]
        if begin <= marker.rollups_from or marker.rollups_from == marker.rollups_to:
            return False
        end = (await high_watermarks(self._consumer, [at]))[at]
        if marker.rollups_to < 0 or end > marker.rollups_to:
            raise StartUnknown(
                f"{at.topic}[{at.partition}] has lost its records before offset {begin}, and needs those from "
                f"{marker.rollups_from} on: it is unknown which calls behind offset {marker.through_offset} of "
                f"{self._topic} an interrupted flush has counted. {_state(marker.partition)}"
            )
        log.error("meter.rollups_expired", partition=marker.partition, needed_from=marker.rollups_from, begin=begin)
        return True

    async def holds(self, partition: int, offset: int, hashed: str) -> bool | None:
        """Return whether an offset still holds the record of a hash; None where it holds none that can be read."""
        found = await self.record(TopicPartition(self._topic, partition), offset)
        if found is None or found.offset != offset:
            return None
        timestamp = -1 if found.timestamp is None else int(found.timestamp)
        return record_hash(timestamp, found.key, found.value) == hashed

    async def _fork(self, partition: int, offsets: Sequence[int], checkpoints: Mapping[int, str]) -> int:
        """Return the greatest of the offsets that agrees: up to there two logs are the same, behind it they differ."""
        low, high = -1, len(offsets)
        while high - low > 1:
            middle = (low + high) // 2
            at = offsets[middle]
            if await self.holds(partition, at, checkpoints[at]):
                low = middle
            else:
                high = middle
        return -1 if low < 0 else offsets[low]

    async def _has_same_time(self, marker: Progress, begin: int) -> bool:
        """Compare as a release without hashes could: by the time of the last record."""
        if marker.through_timestamp_ms < 0 or marker.through_offset < begin:
            return True
        found = await self.record(TopicPartition(self._topic, marker.partition), marker.through_offset)
        if found is None or found.offset != marker.through_offset:
            return True
        return bool(found.timestamp == marker.through_timestamp_ms)

    async def record(self, at: TopicPartition, offset: int) -> Any:
        """Return the first record at or behind an offset; None where the broker sends none in time."""
        self._consumer.assign([at])
        self._consumer.seek(at, offset)
        fetched = await self._consumer.getmany(at, timeout_ms=_RECORD_TIMEOUT_MS, max_records=1)
        return next(iter(fetched.get(at, [])), None)


def new_name() -> str:
    """Return the name of a log. Random: whatever is derived from a log, another one may have as well."""
    return secrets.token_hex(8)


def _state(partition: int) -> str:
    return (
        "Find the next offset in ClickHouse: SELECT max(source_offset) + 1 FROM calls WHERE source_partition = "
        f"{partition}. Then state it: spendstream resume --partition {partition} --from-offset OFFSET"
    )
