"""Drained: everything that was published is durable, and visible in ClickHouse."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from spendstream.errors import SpendstreamError
from spendstream.kafka.consumer import high_watermarks
from spendstream.kafka.topics import SINK_GROUPS
from spendstream.schemas import topics
from spendstream.settings import Settings

log = structlog.get_logger(__name__)

_INTERVAL_S: Final = 0.1
_LOOK_WITHIN_S: Final = 15.0
"""A look takes some tenths of a second; one that takes this long is abandoned and repeated."""

_FIRST_LOOK_WITHIN_S: Final = 5.0
"""The least that a look gets while there is no answer yet, however little time is left."""

_TOPICS_WITHIN_S: Final = 3.0
_FETCH_WAIT_MS: Final = 50
_NO_OFFSET: Final = -1


class TopicsMissing(SpendstreamError):
    """A topic does not exist, so nothing can be drained."""


@dataclass(frozen=True)
class PartitionState:
    """How far a consumer group is in one partition. ``committed``: its next offset, None where it never committed."""

    group: str
    topic: str
    partition: int
    committed: int | None
    begin: int
    end: int

    @property
    def behind(self) -> int:
        """Records that the group has yet to make durable. A partition that holds none is done, committed or not."""
        return max(0, self.end - max(self.committed or 0, self.begin))


@dataclass(frozen=True)
class DrainReport:
    """Where everything stood. ``partitions``: the meter's on the usage topic first, then each sink's."""

    partitions: tuple[PartitionState, ...]
    seconds: float
    is_drained: bool

    @property
    def behind(self) -> tuple[PartitionState, ...]:
        """The partitions that are still behind."""
        return tuple(state for state in self.partitions if state.behind)

    @property
    def records(self) -> int:
        """Records in the drained topics, by their offsets."""
        return sum(state.end - state.begin for state in self.partitions)

    @property
    def records_behind(self) -> int:
        """Records that are not durable yet."""
        return sum(state.behind for state in self.partitions)


async def drain(
    settings: Settings, timeout_s: float, on_progress: Callable[[DrainReport], None] | None = None
) -> DrainReport:
    """Wait until the meter and the sinks have made everything durable that was published before they were asked.

    Returns: the state at the end; ``is_drained`` is false after ``timeout_s`` seconds. A broker that answers badly for
    a moment, as while a group changes its members, is asked again.

    Raises: TopicsMissing; aiokafka's KafkaConnectionError, when no broker answers at first.
    """
    watch = _Watch(settings, time.monotonic(), timeout_s, on_progress)
    has_looked = False
    while not (has_looked and watch.is_over()):
        try:
            # new connections each time: what an earlier one waits for may never come
            async with _Offsets(settings) as offsets:
                has_looked = True
                await watch.look(offsets)
        except TopicsMissing:
            # a broker that has just started knows of none for a moment
            if not has_looked and time.monotonic() - watch.started > _TOPICS_WITHIN_S:
                raise
        except (KafkaError, OSError) as error:
            if not has_looked:
                raise
            log.info("drain.retry", error=repr(error))
        if not watch.is_over():
            await asyncio.sleep(_INTERVAL_S)
    return watch.last


@dataclass
class _Watch:
    """Looks until everything is durable or the time is over. ``last``: the state as it was last seen."""

    settings: Settings
    started: float
    timeout_s: float
    on_progress: Callable[[DrainReport], None] | None
    last: DrainReport = DrainReport((), 0.0, False)

    def is_over(self) -> bool:
        """Whether everything is durable, or the time is over."""
        return self.last.is_drained or self._left_s() <= 0

    async def look(self, offsets: "_Offsets") -> None:
        """Look repeatedly; return when it is over, or when the broker does not answer as it should."""
        while True:
            # A caller without time, such as reconcile, still wants an answer, and on a busy machine that takes a while.
            least_s = 1.0 if self.last.partitions else _FIRST_LOOK_WITHIN_S
            within_s = min(max(least_s, self._left_s()), _LOOK_WITHIN_S)
            try:
                async with asyncio.timeout(within_s):
                    states, is_drained = await _states(offsets, self.settings)
            except (KafkaError, TimeoutError, OSError) as error:
                log.info("drain.retry", error=repr(error))
                self.last = replace(self.last, seconds=time.monotonic() - self.started, is_drained=False)
                return
            report = DrainReport(tuple(states), time.monotonic() - self.started, is_drained)
            if self.on_progress is not None:
                self.on_progress(report)
            self.last = report
            if self.is_over():
                return
            await asyncio.sleep(_INTERVAL_S)

    def _left_s(self) -> float:
        return self.timeout_s - (time.monotonic() - self.started)


async def _states(offsets: "_Offsets", settings: Settings) -> tuple[list[PartitionState], bool]:
    """Return where each group is, and whether that is the end.

    The order matters. What the meter publishes is acknowledged before it commits its source, so the sinks' ends are
    read after the meter's commits. The usage topic's end is read once more at the end, because the meter itself
    publishes there: it sends a record without a key to the partition of its key.
    """
    usage = settings.topic(topics.USAGE)
    states = await offsets.states(settings.group("meter"), usage)
    for topic, role in SINK_GROUPS.items():
        states += await offsets.states(settings.group(role), settings.topic(topic))
    if any(state.behind for state in states):
        return states, False
    again = await offsets.ends([usage])
    metered = {TopicPartition(state.topic, state.partition): state.end for state in states if state.topic == usage}
    return states, again == metered


class _Offsets:
    """Ends and commits, with one connection for each."""

    def __init__(self, settings: Settings) -> None:
        self._admin: Any = AIOKafkaAdminClient(**settings.kafka_client())
        self._consumer: Any = AIOKafkaConsumer(
            **settings.kafka_client(), enable_auto_commit=False, fetch_max_wait_ms=_FETCH_WAIT_MS
        )
        self._names = [settings.topic(name) for name in (topics.USAGE, *SINK_GROUPS)]
        self._partitions: dict[str, list[TopicPartition]] = {}

    async def __aenter__(self) -> "_Offsets":
        try:
            await self._admin.start()
            await self._consumer.start()
            # All names first: some brokers create a topic whose metadata is asked for by name.
            missing = sorted(set(self._names) - set(await self._admin.list_topics()))
            if missing:
                raise TopicsMissing(f"{', '.join(missing)}: no such topic; run `spendstream topics`")
            for topic in await self._admin.describe_topics(self._names):
                name = topic["topic"]
                numbers = sorted(each["partition"] for each in topic["partitions"])
                self._partitions[name] = [TopicPartition(name, number) for number in numbers]
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def ends(self, names: Sequence[str]) -> Mapping[TopicPartition, int]:
        """Return the offset that each partition's next record will get."""
        return await high_watermarks(self._consumer, [each for name in names for each in self._partitions[name]])

    async def states(self, group: str, topic: str) -> list[PartitionState]:
        """Return how far a group is in a topic; the ends are read before the commits."""
        partitions = self._partitions[topic]
        ends = await self.ends([topic])
        begins = await self._consumer.beginning_offsets(partitions)
        committed = await self._committed(group, partitions)
        return [
            PartitionState(group, topic, each.partition, committed.get(each), begins[each], ends[each])
            for each in partitions
        ]

    async def _committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        # Named partitions: asked for all of a group's, some brokers answer with none.
        answer = await self._admin.list_consumer_group_offsets(group, partitions=partitions)
        if any(each not in answer for each in partitions):
            # A coordinator that is loading, or no longer the group's, answers with an error above an empty list, and
            # aiokafka passes the list on: taken as it is, all that the group ever committed would count as behind.
            raise GroupCoordinatorNotAvailableError(f"{group}: its coordinator does not say what was committed")
        return {each: found.offset for each, found in answer.items() if found.offset > _NO_OFFSET}
