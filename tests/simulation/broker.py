"""A virtual Kafka: logs, consumer groups, and the few methods of aiokafka's clients that the product calls.

What a request may meet, drawn while the weather is bad: it is lost; it is done and its answer is lost; it is done
twice; it is done long after its sender gave up.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaConnectionError, KafkaError, RequestTimedOutError

from tests.reference_meter import LogRecord
from tests.simulation.clock import PROCESS, VirtualLoop

REQUEST_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Stored:
    """A record, as aiokafka's ``ConsumerRecord``."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    timestamp_type: int = 1


class PartitionLog:
    """Records in offset order. ``begin`` and ``end``: the first offset kept, and the next one to write."""

    def __init__(self, at: TopicPartition, by_append_time: bool) -> None:
        self.at = at
        self.records: list[Stored] = []
        self.begin = self.end = 0
        self._by_append_time = by_append_time

    def append(self, records: Iterable[tuple[bytes | None, bytes | None, int | None]], now_ms: int) -> int:
        """Append (key, value, timestamp) and return the first one's offset."""
        first = self.end
        for key, value, timestamp_ms in records:
            stamp = now_ms if timestamp_ms is None or self._by_append_time else timestamp_ms
            self.records.append(Stored(*self.at, self.end, stamp, key, value))
            self.end += 1
        return first

    def read(self, offset: int, most: int) -> list[Stored]:
        return [record for record in self.records if record.offset >= offset][:most]

    def compact(self, before: int) -> int:
        """Keep, of each key, the last record below an offset, and all from there on. Returns how many were removed."""
        last = {record.key: record.offset for record in self.records if record.offset < before}
        kept = [r for r in self.records if r.offset >= before or r.key is None or last[r.key] == r.offset]
        removed = len(self.records) - len(kept)
        self.records = kept
        return removed

    def plain(self) -> list[LogRecord]:
        return [LogRecord(r.offset, r.timestamp, r.key, r.value) for r in self.records]


class Member(Protocol):
    """One of a consumer group."""

    topic: str
    process: str

    def rejoin(self) -> None: ...
    def revoke(self) -> None: ...
    def assign_to(self, generation: int, partitions: list[TopicPartition]) -> None: ...


class Group:
    """Who reads which partition, and how far they committed. A generation ends when somebody comes or goes."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self.name = name
        self.generation = 0
        self.members: list[Member] = []
        self.committed: dict[TopicPartition, int] = {}
        self.former: list[dict[TopicPartition, int]] = []

    def join(self, member: Member) -> None:
        self.members.append(member)
        self.rebalance()

    def leave(self, member: Member) -> None:
        if member in self.members:
            self.members.remove(member)
            self.rebalance()

    def rebalance(self) -> None:
        """Members let go of all that they had, and learn at their own time what they have now."""
        self.generation += 1
        generation, members = self.generation, list(self.members)
        for member in members:
            member.revoke()
        if not members:
            return
        first = self._broker.rng.randrange(len(members))
        logs = self._broker.logs(members[0].topic)
        for number, member in enumerate(members):
            own = [log.at for log in logs if (log.at.partition + first) % len(members) == number]
            self._broker.loop.call_later(self._broker.rng.uniform(0, 0.3), self._tell, member, generation, own)

    def _tell(self, member: Member, generation: int, partitions: list[TopicPartition]) -> None:
        if generation == self.generation and member in self.members:
            member.assign_to(generation, partitions)

    def commit(self, member: Member, generation: int, offsets: dict[TopicPartition, int]) -> None:
        if member not in self.members or generation != self.generation:
            raise CommitFailedError("the group has moved on")
        self.former.append(dict(self.committed))
        self.committed.update(offsets)


@dataclass
class Weather:
    """How often each thing happens to a request. ``late``: only writes, and only as an unidempotent producer has it."""

    lost: float = 0.0
    unanswered: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    longest_s: float = 0.02


@dataclass
class Trap:
    """The next request to a topic kills the process that makes it: before it is done, or once it is."""

    topic: str
    is_done: bool


class Broker:
    """All topics and groups. ``kill``: ends a process at once, by its name."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, kill: Callable[[str], None]) -> None:
        self.loop = loop
        self.rng = rng
        self.kill = kill
        self.weather = Weather()
        self.traps: list[Trap] = []
        self.cut_off: dict[str, float] = {}
        self._readers: dict[str, list[asyncio.Future[None]]] = {}
        self._topics: dict[str, list[PartitionLog]] = {}
        self._groups: dict[str, Group] = {}

    def create(self, topic: str, partitions: int, by_append_time: bool = False) -> None:
        self._topics[topic] = [PartitionLog(TopicPartition(topic, n), by_append_time) for n in range(partitions)]

    def logs(self, topic: str) -> list[PartitionLog]:
        return self._topics[topic]

    def log(self, at: TopicPartition) -> PartitionLog:
        return self._topics[at.topic][at.partition]

    def group(self, name: str) -> Group:
        return self._groups.setdefault(name, Group(self, name))

    def partition_of(self, topic: str, key: bytes | None) -> int:
        return zlib.crc32(key or b"") % len(self._topics[topic])

    def latency_s(self) -> float:
        return self.rng.uniform(0, self.weather.longest_s)

    def members_of(self, process: str) -> list[tuple[Group, Member]]:
        groups = self._groups.values()
        return [(group, member) for group in groups for member in group.members if member.process == process]

    def append(self, at: TopicPartition, records: Sequence[tuple[bytes | None, bytes | None, int | None]]) -> int:
        for reader in self._readers.pop(at.topic, []):
            if not reader.done():
                reader.set_result(None)
        return self.log(at).append(records, self.loop.now_ms())

    async def written(self, topic: str, within_s: float) -> None:
        """Return when something was written to a topic, or the time is over."""
        reader: asyncio.Future[None] = self.loop.create_future()
        self._readers.setdefault(topic, []).append(reader)
        await asyncio.wait([reader], timeout=within_s)

    def is_away(self, process: str) -> bool:
        return self.cut_off.get(process, 0) > self.loop.time()

    def request(self, work: Callable[[], Any], topic: str = "", is_write: bool = False) -> asyncio.Future[Any]:
        """Send a request of the running process; the answer is what ``work`` returns, or raises, when it arrives."""
        process, weather, draw = PROCESS.get(), self.weather, self.rng.random()
        trap = next((each for each in self.traps if is_write and each.topic == topic), None)
        there_s, back_s = self.latency_s(), self.latency_s()
        if process in self.loop.dead:
            return self.loop.nothing()
        if trap is not None and process:
            self.traps.remove(trap)
            if trap.is_done:
                self.loop.call_later(there_s, work)
            self.loop.call_later(there_s, self.kill, process)
            return self.loop.create_future()
        if self.is_away(process):
            return self._failed(KafkaConnectionError("no broker answers"))
        if (draw := draw - weather.lost) < 0:
            return self._failed(RequestTimedOutError("lost"))
        if (draw := draw - weather.unanswered) < 0:
            self.loop.call_later(there_s, _quietly, work)
            return self._failed(RequestTimedOutError("unanswered"))
        if is_write and (draw := draw - weather.late) < 0:
            self.loop.call_later(REQUEST_TIMEOUT_S + self.rng.uniform(0, 2), _quietly, work)
            return self._failed(RequestTimedOutError("late"))
        if is_write and (draw := draw - weather.doubled) < 0:
            self.loop.call_later(there_s, _quietly, work)
        return self.loop.resolve(work, there_s, back_s)

    def _failed(self, error: Exception) -> asyncio.Future[Any]:
        def fail() -> None:
            raise error

        return self.loop.resolve(fail, REQUEST_TIMEOUT_S, 0)


def _quietly(work: Callable[[], Any]) -> None:
    try:
        work()
    except Exception:  # its sender is told something else
        pass


@dataclass(frozen=True)
class Written:
    """What a producer's future holds. ``offset``: of the first record of the batch."""

    offset: int


class _Batch:
    """A producer's batch of at most ``most`` records."""

    def __init__(self, most: int) -> None:
        self.records: list[tuple[bytes | None, bytes | None, int | None]] = []
        self._most = most

    def append(self, *, key: bytes | None, value: bytes | None, timestamp: int | None) -> object | None:
        if len(self.records) == self._most:
            return None
        self.records.append((key, value, timestamp))
        return self


class Producer:
    """aiokafka's ``AIOKafkaProducer`` without idempotence: one request for what goes to a partition at once."""

    def __init__(self, *, broker: Broker, **_: Any) -> None:
        self._broker = broker
        self._waiting: dict[TopicPartition, list[tuple[Any, asyncio.Future[Any]]]] = {}

    async def start(self) -> None:
        await self._broker.request(lambda: None)

    async def stop(self) -> None:
        pass

    def create_batch(self) -> _Batch:
        return _Batch(self._broker.rng.choice((2, 5, 1000)))

    async def send(
        self, topic: str, *, value: bytes, key: bytes | None, partition: int | None, timestamp_ms: int | None
    ) -> asyncio.Future[Any]:
        number = self._broker.partition_of(topic, key) if partition is None else partition
        return self._send(TopicPartition(topic, number), [(key, value, timestamp_ms)])

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        return self._send(TopicPartition(topic, partition), list(batch.records))

    def _send(self, at: TopicPartition, records: list[Any]) -> asyncio.Future[Any]:
        """Queue records: one request for each partition at a time, so that their order stays."""
        future: asyncio.Future[Any] = self._broker.loop.create_future()
        queue = self._waiting.setdefault(at, [])
        queue.append((records, future))
        if len(queue) == 1:
            self._broker.loop.call_soon(self._next, at)
        return future

    def _next(self, at: TopicPartition) -> None:
        records, future = self._waiting[at][0]
        broker = self._broker
        answer = broker.request(lambda: Written(broker.append(at, records)), at.topic, is_write=True)

        def done(answered: asyncio.Future[Any]) -> None:
            if not future.done():
                error = answered.exception()
                if error is None:
                    future.set_result(answered.result())
                else:
                    future.set_exception(error)
            self._waiting[at].pop(0)
            if self._waiting[at]:
                self._next(at)

        answer.add_done_callback(done)


class Consumer:
    """aiokafka's ``AIOKafkaConsumer``: partitions assigned by hand, or through a group."""

    def __init__(
        self, *, broker: Broker, group_id: str | None = None, auto_offset_reset: str = "latest", **_: Any
    ) -> None:
        self._broker = broker
        self.process = PROCESS.get()
        self._group = None if group_id is None else broker.group(group_id)
        self._from_earliest = auto_offset_reset == "earliest"
        self._positions: dict[TopicPartition, int | None] = {}
        self._highs: dict[TopicPartition, int] = {}
        self._generation = 0
        self._listener: Any = None
        self.topic = ""

    async def start(self) -> None:
        await self._broker.request(lambda: None)

    async def stop(self) -> None:
        if self.topic and self._group is not None and self.process not in self._broker.loop.dead:
            self._group.leave(self)
            self.topic = ""

    # by hand

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions)
        self._highs.clear()

    def seek(self, at: TopicPartition, offset: int) -> None:
        self._positions[at] = offset

    async def position(self, at: TopicPartition) -> int:
        return self._positions[at] or 0

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        logs = [self._broker.log(at) for at in partitions]
        found: dict[TopicPartition, int] = await self._broker.request(lambda: {log.at: log.begin for log in logs})
        return found

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        logs = [self._broker.log(at) for at in partitions]
        found: dict[TopicPartition, int] = await self._broker.request(lambda: {log.at: log.end for log in logs})
        return found

    async def committed(self, at: TopicPartition) -> int | None:
        assert self._group is not None
        group = self._group
        found: int | None = await self._broker.request(lambda: group.committed.get(at))
        return found

    def highwater(self, at: TopicPartition) -> int | None:
        return self._highs.get(at)

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[Stored]]:
        loop, deadline = self._broker.loop, self._broker.loop.time() + timeout_ms / 1000
        while True:
            await asyncio.sleep(self._broker.latency_s())
            found = {} if self._broker.is_away(self.process) else self._fetch(partitions, max_records)
            if found or loop.time() >= deadline:
                return found
            await self._broker.written(self.topic, deadline - loop.time())

    def _fetch(
        self, partitions: Sequence[TopicPartition], max_records: int | None
    ) -> dict[TopicPartition, list[Stored]]:
        found = {}
        for at in partitions or tuple(self._positions):
            position = self._positions.get(at)
            if position is None:
                continue
            log = self._broker.log(at)
            if not log.begin <= position <= log.end:
                position = self._positions[at] = log.begin if self._from_earliest else log.end
            records = log.read(position, min(max_records or 1000, self._broker.rng.choice((1, 3, 1000))))
            self._highs[at] = log.end
            if records:
                found[at] = records
                self._positions[at] = records[-1].offset + 1
            elif position < log.end:
                self._positions[at] = log.end  # what is left was compacted
        return found

    # through a group

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        (self.topic,), self._listener = topics, listener
        assert self._group is not None
        self._group.join(self)

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions) if self.topic else set()

    def revoke(self) -> None:
        self._positions = {}

    def assign_to(self, generation: int, partitions: list[TopicPartition]) -> None:
        if self.process in self._broker.loop.dead:
            return
        self._generation = generation
        PROCESS.set(self.process)
        self._broker.loop.create_task(self._take_up(generation, partitions))

    def rejoin(self) -> None:
        """Learn that the group went on without this member."""
        if self._group is not None and self not in self._group.members and self.process not in self._broker.loop.dead:
            self.revoke()
            self._group.join(self)

    async def _take_up(self, generation: int, partitions: list[TopicPartition]) -> None:
        assert self._group is not None
        self._positions = dict.fromkeys(partitions)
        self._highs.clear()
        await self._listener.on_partitions_assigned(partitions)
        for at in partitions:
            committed = await self._committed(at)
            if generation == self._generation and at in self._positions:
                self._positions[at] = self._broker.log(at).begin if committed is None else committed

    async def _committed(self, at: TopicPartition) -> int | None:
        while True:
            try:
                return await self.committed(at)
            except KafkaError:
                await asyncio.sleep(0.1)

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        assert self._group is not None
        group, generation = self._group, self._generation
        await self._broker.request(lambda: group.commit(self, generation, dict(offsets)))
