"""One history: events, workers and faults from a seed; then all heals, drains, and is held against the reference.

Every choice comes from ``random.Random(seed)``, so a seed is a history, on every machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from spendstream.agents import meter as agent_module
from spendstream.agents import meter_state
from spendstream.core.meter import MeterRules
from spendstream.core.pricing import PriceBook
from spendstream.core.progress import read_progress
from spendstream.kafka import consumer as consumer_module
from spendstream.kafka import producer as producer_module
from spendstream.kafka.topics import SINK_GROUPS, topic_specs
from spendstream.schemas import topics
from spendstream.schemas.progress import Progress
from spendstream.settings import Settings
from spendstream.sinks import kafka_sink, writer
from tests import reference_meter
from tests.reference_meter import Outcome, Prices, Rules
from tests.simulation.broker import Broker, Consumer, PartitionLog, Producer, Trap, Weather
from tests.simulation.clickhouse import LEDGER, ROLLUPS, ClickHouse
from tests.simulation.clock import PROCESS, Stopwatch, VirtualLoop
from tests.simulation.worker import Deployment, work
from tests.unit.conftest import CARDS
from tests.unit.log import encode, event_id, make_usage_event

MINE: Final = (topics.PRICED, topics.ROLLUP, topics.DEAD_LETTER, topics.RATE_CARD)
COMPACTION_WAITS: bool = any(
    "min.compaction.lag.ms" in s.config for s in topic_specs(Settings()) if s.name == topics.ROLLUP
)
"""Whether the topic of rollups, as it is specified, keeps what an open minute needs from compaction."""

HEALED_AFTER_S: Final = 7.0
DRAINED_WITHIN_S: Final = 300.0
SHAPES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"cached": 400, "latency_ms": 900},
    {"model_served": "acme-mini"},
    {"model_served": "nobody-knows"},
)
MALFORMED: Final = (b"", b"{", b'{"event_id":"x"}', None)


@dataclass(frozen=True)
class Plan:
    """What a seed means. ``is_narrow``: most events go into one total. ``faults``: when, in seconds, and what."""

    partitions: int
    workers: int
    events: int
    is_narrow: bool
    flush_every_s: float
    faults: tuple[tuple[float, str], ...]

    @classmethod
    def of(cls, rng: random.Random, kinds: tuple[str, ...]) -> Plan:
        faults = sorted(
            (round(rng.uniform(0.2, 6.5), 3), rng.choice(kinds)) for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 6)))
        )
        return cls(
            partitions=rng.choice((1, 1, 2)),
            workers=rng.choice((1, 1, 2, 2, 3)),
            events=rng.choice((1, 2, 3, 4, 6, 8, 12, 24)),
            is_narrow=rng.random() < 0.5,
            flush_every_s=rng.choice((0.4, 1.0, 2.0)),
            faults=tuple(faults),
        )


@functools.cache
def prices() -> tuple[PriceBook, Prices]:
    """Return the price book of all histories, and the reference's reading of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "acme.yaml"
        file.write_text(CARDS)
        book = PriceBook.load([file])
    return book, Prices(book)


@dataclass
class History:
    """A seed's world. ``run`` raises AssertionError with the faults in it, where a number is wrong.

    ``kinds``: draw only these faults. ``given``: a plan in place of the seed's, which then draws all else.
    """

    seed: int
    kinds: tuple[str, ...] = ()
    given: Plan | None = None
    trace: list[str] = field(default_factory=list)

    def run(self) -> History:
        """Live the history from its first event to its last check."""
        self.book, self.prices = prices()
        rng = self.rng = random.Random(self.seed)
        random.seed(self.seed)  # the pauses between attempts
        self.plan = self.given or Plan.of(rng, self.kinds or tuple(FAULTS))
        self.loop = VirtualLoop(think=lambda: rng.choice((0, 0, 0.01, 0.2)))
        self.broker = Broker(self.loop, rng, self._kill)
        self.clickhouse = ClickHouse(rng.random)
        common = asdict(Rules(allowed_lateness_s=60, max_record_bytes=4000))
        self.rules = Rules(**common)
        self.deployment = Deployment(self.broker, MeterRules(**common), self.book, self.plan.flush_every_s, rng)
        self.broker.create(topics.USAGE, self.plan.partitions, by_append_time=True)
        for topic in (topics.PRICED, topics.ROLLUP, topics.DEAD_LETTER, topics.PROGRESS):
            self.broker.create(topic, self.plan.partitions)
        self.broker.create(topics.RATE_CARD, 1)
        self.numbers: dict[str, int] = {}
        self.is_over = False
        try:
            with virtual(self), structlog.testing.capture_logs() as self.logged:
                try:
                    self.loop.run_until_complete(self._live())
                    self.check()
                finally:
                    self.is_over = True
                    self.loop.finish()
        except Exception as error:
            raise AssertionError(self.story(error)) from error
        return self

    def story(self, error: Exception) -> str:
        """Return the seed, its faults and how it ended, to be read by people."""
        said = [
            f"{e['event']} { ({k: v for k, v in e.items() if k not in ('event', 'exc_info', 'log_level')}) }"
            for e in self.logged
        ]
        return "\n".join(
            [
                f"seed {self.seed}: {self.plan}",
                *self.trace,
                "the worker said:",
                *said[-40:],
                f"{type(error).__name__}: {error}",
            ]
        )

    def say(self, what: str) -> None:
        self.trace.append(f"  {self.loop.time():7.3f} s  {what}")

    async def _live(self) -> None:
        for number in range(self.plan.workers):
            self._start(f"worker-{number}")
        publishing = asyncio.ensure_future(self._publish())
        for at_s, kind in self.plan.faults:
            await asyncio.sleep(max(0, at_s - self.loop.time()))
            FAULTS[kind](self)
        await publishing
        await asyncio.sleep(max(0, HEALED_AFTER_S - self.loop.time()))
        self._heal()
        if self.is_forgotten:  # who has read to the end does not read again because of it
            for process in list(self.loop.tasks):
                if process:
                    self._kill(process)
        deadline = self.loop.time() + DRAINED_WITHIN_S
        while (behind := self.behind()) or await self._moves_on():
            assert self.loop.time() < deadline, f"not drained: {behind}"
            await asyncio.sleep(0.5)

    async def _moves_on(self) -> bool:
        """Whether anything is still on its way: a write that was given up may arrive."""
        before = self.ends()
        await asyncio.sleep(3.2)
        return self.ends() != before

    def ends(self) -> dict[TopicPartition, int]:
        return {log.at: log.end for topic in (topics.USAGE, topics.PROGRESS, *MINE) for log in self.broker.logs(topic)}

    def behind(self) -> list[str]:
        """Return what each group has yet to read."""
        groups = {topics.USAGE: "meter", **{topic: SINK_GROUPS[topic] for topic in MINE}}
        return [
            f"{group} in {log.at}: {self.broker.group(group).committed.get(log.at)} of {log.end}"
            for topic, group in groups.items()
            for log in self.broker.logs(topic)
            if log.end and (self.broker.group(group).committed.get(log.at) or 0) < log.end
        ]

    # workers

    def _start(self, name: str) -> None:
        if self.is_over:
            return
        self.numbers[name] = number = self.numbers.get(name, 0) + 1
        process = f"{name}.{number}"
        token = PROCESS.set(process)
        task = asyncio.ensure_future(work(self.deployment))
        PROCESS.reset(token)
        task.add_done_callback(lambda ended: self._ended(process, ended))

    def _ended(self, process: str, ended: asyncio.Task[None]) -> None:
        if process in self.loop.dead or self.is_over:
            return
        error = ended.exception()
        self.say(f"{process} ended: {error!r}")
        self.deployment.errors.append((process, error or RuntimeError("it ended")))
        self._kill(process)

    def _kill(self, process: str) -> None:
        if process in self.loop.dead or self.is_over:
            return
        self.say(f"{process} dies")
        self.loop.kill(process)
        for group, member in self.broker.members_of(process):
            self.loop.call_later(self.rng.uniform(0.1, 2), group.leave, member)
        self.loop.call_later(self.rng.uniform(0.1, 1.5), self._start, process.partition(".")[0])

    def any_process(self) -> str | None:
        living = [process for process in self.loop.tasks if process and process not in self.loop.dead]
        return self.rng.choice(living) if living else None

    # events

    async def _publish(self) -> None:
        rng, sent = self.rng, []
        for number in range(self.plan.events):
            await asyncio.sleep(rng.choice((0, 0, 0, 0, 0.1, 0.5, 1.0)))
            kind = rng.random()
            key: bytes | None
            if kind < 0.05:
                key, value = b"broken", rng.choice(MALFORMED)
            elif kind < 0.25 and sent:
                key, value = rng.choice(sent)
            else:
                is_narrow = self.plan.is_narrow and rng.random() < 0.8
                behind_s = 0 if is_narrow else rng.choice((0, 0, 0, 30, 61, 130, 400))
                fields = {
                    "requested_at": "2026-03-04T11:00:00Z"
                }  # one price for each shape: the reference remembers it
                if not is_narrow:
                    fields |= {"team": rng.choice(("search", "ads")), **rng.choice(SHAPES)}
                event = make_usage_event(number, at_s=round(self.loop.time() - behind_s, 3), **fields)
                key, value = event_id(number).encode(), encode(event)
                sent.append((key, value))
            partition = self.broker.partition_of(topics.USAGE, key)
            if kind > 0.95:
                key, partition = None, rng.randrange(self.plan.partitions)
            for _ in range(rng.choice((1, 1, 1, 1, 2))):  # an answer was lost: the producer sends again
                self.broker.append(TopicPartition(topics.USAGE, partition), [(key, value, None)])

    def _heal(self) -> None:
        self.say("all is well again")
        self.broker.weather = Weather()
        self.broker.traps.clear()
        self.broker.cut_off.clear()
        self.clickhouse.refuses = self.clickhouse.forgets_answers = 0
        self.slowest_s = 0.02

    slowest_s: float = 0.02
    is_forgotten: bool = False

    def thread(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Stand for ``in_thread``: what a killed process has begun goes on."""
        if PROCESS.get() in self.loop.dead:
            return self.loop.nothing()
        return self.loop.resolve(work, self.rng.uniform(0, self.slowest_s), self.rng.uniform(0, self.slowest_s))

    # what must hold

    def check(self) -> None:
        """Hold what is stored against the reference, to the pico-dollar."""
        unexpected = [error for _, error in self.deployment.errors if not isinstance(error, EXPECTED)]
        assert not unexpected, f"a worker ended: {unexpected}"
        ledger: dict[bytes, dict[str, Any]] = {}
        rollups: dict[tuple[Any, ...], dict[str, Any]] = {}
        letters: dict[tuple[int, int], str] = {}
        for log in self.broker.logs(topics.USAGE):
            number = log.at.partition
            outcome = reference_meter.meter(log.plain(), self.rules, self.prices)
            self._check_counters(number, outcome)
            for row in outcome.ledger.values():
                ledger[row["event_id"]] = row
            for (minute, block, dimensions), rollup in outcome.rollups.items():
                rollups[number, minute, block, dimensions] = rollup
            letters |= {(number, offset): reason for offset, reason in outcome.dead_letters.items()}
        stored = {row["event_id"]: row for row in self.clickhouse.tables["calls"].values()}
        same("ledger", stored, ledger, LEDGER)
        mine = self.rules.dimensions
        kept = {}
        for row in self.clickhouse.tables["rollups_1m"].values():
            minute = reference_meter.micros(row["minute"])
            at = row["source_partition"], minute, row["correction_block"], tuple(row[name] for name in mine)
            assert at not in kept, f"two totals of {at}: {kept[at]['source_log']} and {row['source_log']}"
            kept[at] = row
        same("rollups", kept, rollups, ROLLUPS)
        found = {(row["partition"], row["offset"]) for row in self.clickhouse.tables["dead_letters"].values()}
        assert found == set(letters), f"dead letters: {sorted(found ^ set(letters))}"

    def _check_counters(self, partition: int, outcome: Outcome) -> None:
        marker = newest_marker(self.broker.logs(topics.PROGRESS)[partition])
        if marker is None:
            assert not outcome.counters["records"], f"partition {partition}: no marker"
            return
        counters = marker.counters.model_dump()
        expected = {name: outcome.counters[name] for name in counters}
        assert counters == expected, f"partition {partition}: counters {counters}, not {expected}"


EXPECTED: Final[tuple[type[BaseException], ...]] = (TimeoutError, KafkaError)


def newest_marker(log: PartitionLog) -> Progress | None:
    """Return the marker of most records; None before the first."""
    markers = (read_progress(record.value or b"").marker for record in log.records)
    return max(markers, key=lambda marker: marker.through_offset, default=None)


def same(what: str, stored: dict[Any, Any], expected: dict[Any, Any], columns: tuple[str, ...]) -> None:
    """Compare rows by key, in these columns."""
    missing, surplus = expected.keys() - stored.keys(), stored.keys() - expected.keys()
    assert not missing | surplus, f"{what}: missing {sorted(missing)}, too many {sorted(surplus)}"
    for key, row in expected.items():
        differs = {name: (stored[key][name], row[name]) for name in columns if stored[key][name] != row[name]}
        assert not differs, f"{what}: {key}: stored and expected: {differs}"


@contextlib.contextmanager
def virtual(history: History) -> Iterator[None]:
    """Put the virtual third parties in the places of the real ones."""
    watch = Stopwatch(history.loop)

    async def in_thread(work: Callable[[], Any], _name: str) -> Any:
        return await history.thread(work)

    places: list[tuple[Any, str, Any]] = [
        (meter_state, "AIOKafkaConsumer", Consumer),
        (producer_module, "AIOKafkaProducer", Producer),
        (writer, "open_client", lambda _settings: history.clickhouse),
        (writer, "in_thread", in_thread),
        (kafka_sink, "in_thread", in_thread),
        (agent_module, "datetime", watch),
        (agent_module, "time", watch),
        (consumer_module, "time", watch),
        (writer, "time", watch),
        (kafka_sink, "_IDLE_POLL_S", 2.0),
    ]
    with contextlib.ExitStack() as stack:
        for module, name, stand_in in places:
            stack.enter_context(patch.object(module, name, stand_in))
        yield


# faults: each is an act of the world at one moment


def kill(history: History) -> None:
    process = history.any_process()
    if process:
        history._kill(process)


def kill_in_flush(history: History) -> None:
    topic = history.rng.choice((topics.PRICED, topics.ROLLUP, topics.PROGRESS, topics.DEAD_LETTER))
    is_done = history.rng.random() < 0.5
    history.say(f"the next write to {topic} kills its worker, {'done' if is_done else 'not done'}")
    history.broker.traps.append(Trap(topic, is_done))


def expel(history: History) -> None:
    """A worker stood still for longer than its session: others have its partitions, and it does not know."""
    process = history.any_process()
    if process is None:
        return
    unaware_s = round(history.rng.uniform(0.2, 4), 3)
    history.say(f"{process} is expelled from its groups, and learns it after {unaware_s} s")
    for group, member in history.broker.members_of(process):
        group.leave(member)
        history.loop.call_later(unaware_s, member.rejoin)


def cut_off(history: History) -> None:
    process = history.any_process()
    if process is None:
        return
    seconds = round(history.rng.uniform(0.2, 5), 3)
    history.say(f"{process} reaches no broker for {seconds} s")
    history.broker.cut_off[process] = history.loop.time() + seconds


def weather(history: History) -> None:
    rng = history.rng
    for name in ("lost", "unanswered", "doubled", "late"):
        setattr(history.broker.weather, name, rng.choice((0, 0, 0.1, 0.3)))
    history.broker.weather.longest_s = rng.choice((0.02, 0.2, 1.0))
    history.say(f"the broker: {history.broker.weather}")


def clickhouse(history: History) -> None:
    rng, server = history.rng, history.clickhouse
    server.refuses, server.forgets_answers = rng.choice((0, 0.5, 1)), rng.choice((0, 0.3))
    history.slowest_s = rng.choice((0.02, 1.5))
    history.say(
        f"ClickHouse refuses {server.refuses}, forgets answers {server.forgets_answers}, takes {history.slowest_s} s"
    )


def forget_commits(history: History) -> None:
    """The group's coordinator acknowledged commits, and lost them."""
    group = history.broker.group(history.rng.choice(("meter", *(SINK_GROUPS[topic] for topic in MINE))))
    group.committed = dict(history.rng.choice(group.former)) if group.former and history.rng.random() < 0.5 else {}
    history.is_forgotten = True
    history.say(f"the group {group.name} falls back to {group.committed or 'nothing'}")


def compact(history: History) -> None:
    """Of each key only the last record stays, below an offset that no lag protects: it outlives every open minute."""
    for log in history.broker.logs(topics.ROLLUP):
        before = history.rng.randint(0, log.end)
        if COMPACTION_WAITS:
            marker = newest_marker(history.broker.logs(topics.PROGRESS)[log.at.partition])
            before = min(before, 0 if marker is None else marker.rollups_from)
        history.say(f"{log.at} is compacted before {before}: {log.compact(before)} records go")


FAULTS: Final[dict[str, Callable[[History], None]]] = {
    each.__name__: each for each in (kill, kill_in_flush, expel, cut_off, weather, clickhouse, forget_commits, compact)
}
