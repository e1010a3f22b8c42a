"""An unknown bug costs the one record that it fails on: the records around it are metered, and it is a dead letter.

The agent, the meter and the flusher are the real ones; topics are lists, and the consumer delivers a log again from
wherever the agent seeks to.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog.testing
from aiokafka.errors import MessageSizeTooLargeError
from faust.types import TP

from spendstream.agents import meter_state
from spendstream.agents.meter import MeterAgent
from spendstream.agents.meter_state import Flusher
from spendstream.core import meter as core_meter
from spendstream.core.aggregates import Aggregates
from spendstream.core.meter import MeterRules, PartitionMeter
from spendstream.core.pricing import PriceBook
from spendstream.kafka.batched import FetchedBatch
from spendstream.kafka.producer import Record
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import DeadLetter
from spendstream.sinks.calls import read_priced
from tests.reference_meter import LogRecord
from tests.unit.log import Log, as_batch, event_id, make_usage_event
from tests.unit.test_meter_agent import App, Event, Message
from tests.unit.world import World, surviving_rollups

RECORDS = 120
POISON = 37
POISON_LO = int(event_id(POISON).replace("-", ""), 16) & (2**64 - 1)


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    """A traceback with the values of all names takes longer than the test."""
    with structlog.testing.capture_logs():
        yield


class Seekable(App):
    """Delivers a log in batches, again from wherever the agent seeks to."""

    def __init__(self, log: Sequence[LogRecord], size: int) -> None:
        super().__init__()
        self.is_done: Callable[[], bool] = lambda: False
        self._log, self._size, self._position = log, size, 0
        self.seeks = 0

    async def seek(self, _tp: TP, offset: int) -> None:
        self._position = offset
        self.seeks += 1

    def noack(self) -> Seekable:
        return self

    async def events(self) -> AsyncIterator[Event]:
        deadline = time.monotonic() + 60
        while not self.is_done() and not self.crashes and time.monotonic() < deadline:
            records = [r for r in self._log if r.offset >= self._position][: self._size]
            if records:
                self._position = records[-1].offset + 1
                yield Event(Message(FetchedBatch([as_batch(records)])))
            await asyncio.sleep(0.002)


class Topics:
    """The topics of a ``World`` as a producer. ``dies_before``: the topic at whose write the worker dies, once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.letters: dict[int, DeadLetter] = {}
        self.dies_before = ""
        self.refuses: Callable[[str, Record], bool] = lambda _topic, _record: False

    async def write(self, topic: str, records: Sequence[Record]) -> None:
        if topic == self.dies_before and records:
            raise ConnectionAbortedError
        if any(self.refuses(topic, record) for record in records):
            raise MessageSizeTooLargeError
        if topic == topics.DEAD_LETTER:
            for record in records:
                letter = DeadLetter.model_validate_json(record.value)
                self.letters[letter.offset] = letter
        if topic == topics.PRICED:
            for record in records:
                for row in read_priced(record.value).to_pylist():
                    self.world.ledger[row["source_offset"]] = row

    async def write_packed(self, topic: str, _partition: int, records: Sequence[Record]) -> int | None:
        await self.write(topic, records)
        kept = self.world.rollups if topic == topics.ROLLUP else self.world.progress
        kept.extend(record.value for record in records)
        return len(kept) - len(records) if records else None


class Recovery:
    def __init__(self, world: World) -> None:
        self._world = world
        self.recovered = 0

    async def recover(self, _partition: int) -> PartitionMeter:
        self.recovered += 1
        meter = self._world.recover()
        meter._marker = meter.marker.model_copy(update={"book": meter.marker.book.model_copy(update={"id": "book"})})
        return meter


async def live(world: World, written: Topics, size: int = 50) -> tuple[Seekable, Recovery, Metrics]:
    """Run one worker until the log is durable, or it crashes."""
    app, recovery, metrics = Seekable(world.log, size), Recovery(world), Metrics()
    with ThreadPoolExecutor(max_workers=2) as executor:
        flusher = Flusher(written, str, executor, world.rules.dimensions)  # type: ignore[arg-type]
        agent = MeterAgent(app, topics.USAGE, recovery, flusher, executor, metrics)  # type: ignore[arg-type]

        async def flush() -> None:
            while True:
                await asyncio.sleep(0.01)
                await agent.flush_all()

        def is_durable() -> bool:
            lease = agent._leases.get(0)
            return lease is not None and lease.meter.marker.through_offset == world.log[-1].offset

        app.is_done = is_durable
        flushing = asyncio.create_task(flush())
        async for _ in agent.run(app):  # type: ignore[arg-type]
            pass
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    return app, recovery, metrics


def make_world(book: PriceBook) -> World:
    log = Log()
    for number in range(RECORDS):
        log.append(make_usage_event(number, team="poison" if number == POISON else f"team-{number % 3}"))
    return World(log.records, MeterRules(), book)


def assert_conserved(world: World, written: Topics, poison: Sequence[int]) -> None:
    """Published = metered + dead letters, in ledger, rollups and the marker's counters."""
    assert sorted(written.letters) == sorted(poison)
    good = sorted(set(range(len(world.log))) - set(poison))
    assert sorted(world.ledger) == good
    rollups = surviving_rollups(world)
    assert sum(rollup["calls"] for rollup in rollups.values()) == len(good)
    assert sum(rollup["cost_usd"] for rollup in rollups.values()) == sum(r["cost_usd"] for r in world.ledger.values())
    counters = world.recover().counters
    assert (counters.records, counters.metered, counters.dead_letters) == (len(world.log), len(good), len(poison))


def has_poison(calls: Any) -> bool:
    return "id_lo" in calls.columns and POISON_LO in calls["id_lo"].to_list()


def in_decode(patch: pytest.MonkeyPatch) -> None:
    genuine = core_meter.decode

    def decode(values: Any, most: int) -> Any:
        if any(value and event_id(POISON).encode() in value for value in values):
            raise ZeroDivisionError("a bug")
        return genuine(values, most)

    patch.setattr(core_meter, "decode", decode)


def in_method(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def install(patch: pytest.MonkeyPatch) -> None:
        genuine = getattr(owner, name)

        def method(self: Any, calls: Any, *rest: Any) -> Any:
            if has_poison(calls):
                genuine(self, calls, *rest)  # half-way: the state has changed
                raise ZeroDivisionError("a bug")
            return genuine(self, calls, *rest)

        patch.setattr(owner, name, method)

    return install


def in_ledger(patch: pytest.MonkeyPatch) -> None:
    genuine = meter_state.ledger_table

    def table(calls: Any, **at: Any) -> Any:
        if has_poison(calls):
            raise ZeroDivisionError("a bug")
        return genuine(calls, **at)

    patch.setattr(meter_state, "ledger_table", table)


def in_rollup(patch: pytest.MonkeyPatch) -> None:
    genuine = meter_state.rollup_record

    def record(log: str, partition: int, names: Any, key: Any, totals: Any) -> Any:
        if "poison" in key.dimensions:
            raise ZeroDivisionError("a bug")
        return genuine(log, partition, names, key, totals)

    patch.setattr(meter_state, "rollup_record", record)


STAGES = {
    "decode": in_decode,
    "check": in_method(PartitionMeter, "_in_time"),
    "dedupe": in_method(PartitionMeter, "_deduplicated"),
    "price": in_method(PartitionMeter, "_priced"),
    "fold": in_method(Aggregates, "absorb"),
    "encode_calls": in_ledger,
    "encode_rollups": in_rollup,
}


@pytest.mark.parametrize("where", STAGES)
async def test_a_bug_costs_the_one_record_that_it_fails_on(
    where: str, acme_book: PriceBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(acme_book)
    written = Topics(world)
    STAGES[where](monkeypatch)
    app, _, metrics = await live(world, written)
    assert app.crashes == []
    assert_conserved(world, written, [POISON])
    letter = written.letters[POISON]
    assert (letter.reason, letter.stage) == ("internal_error", "check" if where == "dedupe" else where)
    assert "a bug" in letter.message
    assert letter.original == world.log[POISON].value
    quarantined = metrics.registry.get_sample_value("spendstream_quarantined_records_total", {"stage": letter.stage})
    assert quarantined == 1


async def test_many_records_that_fail_cost_one_recovery(acme_book: PriceBook, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(acme_book)
    written = Topics(world)
    genuine = core_meter.decode

    def decode(values: Any, most: int) -> Any:
        if any(value and json.loads(value)["team"] == "team-1" for value in values):
            raise ZeroDivisionError("a bug")
        return genuine(values, most)

    monkeypatch.setattr(core_meter, "decode", decode)
    _, recovery, _ = await live(world, written, size=RECORDS)
    assert_conserved(world, written, [n for n in range(RECORDS) if n % 3 == 1 and n != POISON])
    assert recovery.recovered == 2


async def test_a_record_that_fails_only_with_what_came_before_is_found_by_halving(
    acme_book: PriceBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(acme_book)
    written = Topics(world)
    genuine = Aggregates.absorb

    def absorb(self: Aggregates, calls: Any) -> Any:
        if has_poison(calls) and len(self):
            raise ZeroDivisionError("a bug")
        return genuine(self, calls)

    monkeypatch.setattr(Aggregates, "absorb", absorb)
    app, _, _ = await live(world, written, size=10)
    assert app.crashes == []
    assert_conserved(world, written, [POISON])


async def test_a_record_that_the_broker_refuses_costs_no_other(acme_book: PriceBook) -> None:
    world = make_world(acme_book)
    written = Topics(world)
    written.refuses = lambda topic, record: topic == topics.PRICED and b"poison" in record.value
    app, _, _ = await live(world, written)
    assert app.crashes == []
    assert_conserved(world, written, [POISON])
    assert written.letters[POISON].stage == "produce"


async def test_a_dead_letter_that_the_broker_refuses_is_cut(acme_book: PriceBook) -> None:
    world = make_world(acme_book)
    large = b'{"event_id": 1' + b" " * 200_000
    world.log.append(LogRecord(RECORDS, world.log[-1].timestamp_ms, b"k", large))
    written = Topics(world)
    written.refuses = lambda topic, record: topic == topics.DEAD_LETTER and len(record.value) > 100_000
    app, recovery, _ = await live(world, written)
    assert app.crashes == []
    assert recovery.recovered == 1
    letter = written.letters[RECORDS]
    assert (letter.reason, letter.original, letter.original_bytes) == ("not_json", large[:10_000], len(large))


async def test_an_error_that_no_record_is_the_cause_of_stops_the_worker(
    acme_book: PriceBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything fails: to call all usage a dead letter, one by one, would help nobody."""
    world = make_world(acme_book)
    written = Topics(world)

    def decode(_values: Any, _most: int) -> Any:
        raise MemoryError

    monkeypatch.setattr(core_meter, "decode", decode)
    app, _, _ = await live(world, written)
    assert app.crashes
    assert world.ledger == {}


@pytest.mark.parametrize("dies_before", [topics.ROLLUP, topics.PROGRESS])
async def test_a_verdict_is_the_same_after_a_crash_even_if_the_bug_is_fixed_meanwhile(
    dies_before: str, acme_book: PriceBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead letter is written, the worker dies before its marker, and a release with the fix replays the record."""
    world = make_world(acme_book)
    written = Topics(world)
    with monkeypatch.context() as buggy:
        in_decode(buggy)
        genuine = Topics.write

        async def dies_with_the_letter(self: Topics, topic: str, records: Sequence[Record]) -> None:
            if self.letters:
                self.dies_before = dies_before
            await genuine(self, topic, records)

        buggy.setattr(Topics, "write", dies_with_the_letter)
        app, _, _ = await live(world, written)
        assert app.crashes
        assert list(written.letters) == [POISON]
    written.dies_before = ""
    app, _, _ = await live(world, written)
    assert app.crashes == []
    assert_conserved(world, written, [POISON])
