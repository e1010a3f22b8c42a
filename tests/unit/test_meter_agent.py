"""When the metering agent acknowledges what Faust delivered: Faust commits no further than that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from faust.types import TP

from spendstream.agents.meter import MeterAgent
from spendstream.core.meter import MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.kafka.batched import FetchedBatch
from spendstream.metrics import Metrics
from tests.unit.log import Log, as_batch, make_usage_event

TOPIC = "llm.usage.v1"


@dataclass
class Message:
    value: FetchedBatch
    partition: int = 0
    generation_id: int = 1
    tp: TP = field(default_factory=lambda: TP(TOPIC, 0))


@dataclass
class Event:
    message: Message
    is_acked: bool = False

    def ack(self) -> None:
        self.is_acked = True


class App:
    """Faust's app, as far as the agent asks it."""

    consumer_generation_id = 1

    def __init__(self) -> None:
        self.crashes: list[BaseException] = []
        self.consumer = self

    def highwater(self, _tp: TP) -> int | None:
        raise AssertionError("Partition is not assigned")  # aiokafka, while a rebalance takes it away

    async def crash(self, error: BaseException) -> None:
        self.crashes.append(error)


@dataclass
class Recovered:
    """A recovery that finds a marker at an offset."""

    through_offset: int
    book: PriceBook

    async def recover(self, partition: int) -> PartitionMeter:
        return PartitionMeter(new_marker(partition, "life-1", self.through_offset), MeterRules(), self.book)


class Flusher:
    """Makes durable at once. ``written``: the calls of each flush."""

    def __init__(self) -> None:
        self.written: list[int] = []

    async def flush(self, meter: PartitionMeter, taken: Any, at_rest: Any, commit: Any) -> None:
        self.written.append(0 if taken.calls is None else taken.calls.height)
        async with at_rest:
            meter.mark_durable(meter.rollups_written(taken, 0), 0)
        await commit()


class Stream:
    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Event]:
        for event in self._events:
            yield event


def fetched(log: Log, first: int, last: int) -> Event:
    return Event(Message(FetchedBatch([as_batch([r for r in log.records if first <= r.offset <= last])])))


def log_of(records: int) -> Log:
    log = Log()
    for number in range(records):
        log.append(make_usage_event(number))
    return log


async def run(through_offset: int, events: Sequence[Event], book: PriceBook) -> tuple[Flusher, App]:
    """Deliver the events to an agent whose partition is durable through an offset, and flush once."""
    app, flusher = App(), Flusher()
    with ThreadPoolExecutor(max_workers=1) as executor:
        agent = MeterAgent(app, TOPIC, Recovered(through_offset, book), flusher, executor, Metrics())  # type: ignore[arg-type]
        async for _ in agent.run(Stream(events)):
            pass
        for lease in agent._leases.values():
            if lease.absorber is not None:
                await lease.absorber
        await agent.flush_all()
    assert app.crashes == []
    return flusher, app


async def test_records_durable_before_the_crash_are_acked_again_without_a_write(
    acme_book: PriceBook,
) -> None:
    """Killed between marker and commit: an idle partition would stay uncommitted, and never seem drained."""
    replayed = fetched(log_of(10), 4, 9)
    flusher, _ = await run(9, [replayed], acme_book)
    assert replayed.is_acked
    assert flusher.written == []


async def test_a_replay_that_runs_on_into_new_records_is_acked_by_their_flush(acme_book: PriceBook) -> None:
    log = log_of(10)
    replayed, fresh = fetched(log, 2, 5), fetched(log, 6, 9)
    flusher, _ = await run(6, [replayed, fresh], acme_book)
    assert (replayed.is_acked, fresh.is_acked) == (True, True)
    assert flusher.written == [3]
