"""A simulated worker: the real agent, flusher, recovery and sinks, between a virtual Faust and virtual clients."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError
from faust.types import TP

from spendstream.agents.meter import MeterAgent
from spendstream.agents.meter_state import Flusher, Recovery
from spendstream.clickhouse.client import ClickHouseSettings
from spendstream.core.meter import MeterRules
from spendstream.core.pricing import PriceBook
from spendstream.kafka.batched import FetchedBatch, record_batch
from spendstream.kafka.producer import AckedProducer
from spendstream.kafka.topics import SINK_GROUPS
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.schemas.progress import BookInForce
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import DeadLetterEncoder, RateCardEncoder, RollupEncoder
from spendstream.sinks.kafka_sink import KafkaSink, KafkaSinkSettings
from spendstream.sinks.writer import ClickHouseWriter
from tests.simulation.broker import Broker, Consumer
from tests.simulation.clock import PROCESS

METRICS: Final = Metrics()
COMMIT_EVERY_S: Final = 1.0


class Books:
    """One rate book, in force since ever."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self.ready = asyncio.Event()
        self.ready.set()
        self.shelf: dict[tuple[str, int], PriceBook | None] = {}

    async def in_force(self, marker: BookInForce, through_offset: int) -> tuple[BookInForce, PriceBook]:
        return (marker if marker.id else BookInForce(id="book", published=0, since=through_offset + 1)), self._book

    def metered_by(self, partition: int, meter: Any) -> None:
        pass


@dataclass
class _Message:
    value: FetchedBatch
    partition: int
    generation_id: int
    tp: TP


@dataclass
class _Event:
    message: _Message
    faust: Faust

    def ack(self) -> None:
        acked = self.faust.acked.setdefault(self.message.tp, [])
        acked.append(self.message.value.last_offset)


class Faust:
    """Faust's app, consumer and stream, as ``kafka.batched`` makes them: one event for each fetch of a partition."""

    def __init__(self, broker: Broker, group: str, rng: random.Random) -> None:
        self._broker = broker
        self._group = broker.group(group)
        self._rng = rng
        self.process = PROCESS.get()
        self._positions: dict[TP, int] = {}
        self._highs: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}
        self._queue: asyncio.Queue[_Event] = asyncio.Queue()
        self.agent: MeterAgent
        self.topic = topics.USAGE
        self.consumer = self
        self.consumer_generation_id = 0
        self.acked: dict[TP, list[int]] = {}
        self.crashed: asyncio.Future[BaseException] = broker.loop.create_future()

    # what the agent asks

    def highwater(self, at: TP) -> int | None:
        return self._highs.get(at)

    async def seek(self, at: TP, offset: int) -> None:
        if at in self._positions:
            self._positions[at] = offset

    async def crash(self, error: BaseException) -> None:
        if not self.crashed.done():
            self.crashed.set_result(error)

    def noack(self) -> Faust:
        return self

    async def events(self) -> AsyncIterator[_Event]:
        while True:
            yield await self._queue.get()

    # what the group tells

    def join(self) -> None:
        self._group.join(self)

    def revoke(self) -> None:
        if self.process in self._broker.loop.dead:
            return
        PROCESS.set(self.process)
        self.agent.revoked({TP(*at) for at in self._positions})
        self._positions.clear()
        self.acked.clear()

    def assign_to(self, generation: int, partitions: list[TopicPartition]) -> None:
        if self.process in self._broker.loop.dead:
            return
        PROCESS.set(self.process)
        self.consumer_generation_id = generation
        self.agent.assigned([TP(*at) for at in partitions])  # type: ignore[arg-type]
        for at in partitions:
            committed = self._group.committed.get(at)
            begin = self._broker.log(at).begin
            self._committed[TP(*at)] = committed or 0
            self._positions[TP(*at)] = begin if committed is None else max(begin, committed)

    # what its tasks do

    async def fetch(self) -> None:
        while True:
            await asyncio.sleep(self._rng.choice((0.001, 0.3, 0.9)))
            fetched = False
            if not self._broker.is_away(self.process):
                for at, position in list(self._positions.items()):
                    log = self._broker.log(TopicPartition(*at))
                    self._highs[at] = log.end
                    records = log.read(position, self._rng.choice((1, 4, 1000)))
                    if records:
                        fetched = True
                        self._positions[at] = records[-1].offset + 1
                        batch = record_batch(at.partition, records)
                        message = _Message(FetchedBatch([batch]), at.partition, self.consumer_generation_id, at)
                        self._queue.put_nowait(_Event(message, self))
            if not fetched:
                await self._broker.written(topics.USAGE, 1.0)

    async def commit(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            # as Faust: only of partitions that it has, and never less than before
            offsets = {
                TopicPartition(*at): max(acked) + 1
                for at, acked in self.acked.items()
                if acked and at in self._positions and max(acked) >= self._committed.get(at, 0)
            }
            if not offsets:
                continue
            generation = self.consumer_generation_id
            try:
                await self._broker.request(functools.partial(self._group.commit, self, generation, offsets))
                for at, offset in offsets.items():
                    self._committed[TP(*at)] = offset
                    self.acked[TP(*at)] = [o for o in self.acked.get(TP(*at), []) if o >= offsets[at]]
            except CommitFailedError:
                self.rejoin()
            except KafkaError:
                pass

    def rejoin(self) -> None:
        """Learn that the group went on without this member."""
        if self not in self._group.members and self.process not in self._broker.loop.dead:
            self.revoke()
            self.join()


@dataclass(frozen=True)
class Deployment:
    """What all workers share."""

    broker: Broker
    rules: MeterRules
    book: PriceBook
    flush_every_s: float
    rng: random.Random
    errors: list[tuple[str, BaseException]] = field(default_factory=list)


async def work(deployment: Deployment) -> None:
    """Run one worker, in the process of the task, until it is killed. Raises: what ended it."""
    broker = deployment.broker
    client = {"broker": broker}
    producer = AckedProducer(client)
    books: Any = Books(deployment.book)
    recovery = Recovery(client, "meter", _same, deployment.rules, books, producer)
    executor: Any = None  # the loop does the work itself
    flusher = Flusher(producer, _same, executor, deployment.rules.dimensions)
    faust = Faust(broker, "meter", deployment.rng)
    faust.agent = MeterAgent(faust, topics.USAGE, recovery, flusher, executor, METRICS)  # type: ignore[arg-type]
    encoders: dict[str, Any] = {
        topics.PRICED: CallEncoder(1000),
        topics.ROLLUP: RollupEncoder(),
        topics.DEAD_LETTER: DeadLetterEncoder(),
        topics.RATE_CARD: RateCardEncoder(),
    }
    sinks = [
        KafkaSink(
            encoder,
            ClickHouseWriter(ClickHouseSettings(), metrics=METRICS),
            KafkaSinkSettings(topic, SINK_GROUPS[topic], client, linger_s=0.25),
            metrics=METRICS,
            consumer=Consumer,
        )
        for topic, encoder in encoders.items()
    ]

    async def meter() -> None:
        async for _ in faust.agent.run(faust):  # type: ignore[arg-type]
            pass

    async def flush() -> None:
        while True:
            await asyncio.sleep(deployment.flush_every_s)
            await faust.agent.flush_all()

    async def crash() -> None:
        raise await faust.crashed

    faust.join()
    tasks = [asyncio.ensure_future(each) for each in (meter(), flush(), crash(), faust.fetch(), faust.commit())]
    tasks += [asyncio.ensure_future(sink.run()) for sink in sinks]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _same(topic: str) -> str:
    return topic
