"""Reconcile finds what differs between Kafka, ledger and rollups, and repairs the rollups: on the real engine."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.client import INSERT_SETTINGS, ClickHouseSettings, open_client
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.core.batch import RecordBatch
from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import MeterOutput, MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook, card_record
from spendstream.core.progress import write_progress
from spendstream.core.rollup_record import rollup_record
from spendstream.core.timestamps import epoch_us
from spendstream.embedded.broker import EmbeddedBroker
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.kafka.topics import TopicSpec, ensure_topics
from spendstream.reconcile import Report, reconcile
from spendstream.reconcile.compare import Range
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import RateCardEncoder, RollupEncoder, RowEncoder
from tests.unit.sinks.make import records

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.timeout(600)]

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
LOG = "19cb-0"
MODELS = (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("nobody", "no-such-model"))
TWICE = 7
"""Which event comes again, in the traffic that repeats one beyond the dedupe horizon."""


def traffic(events: int = 240) -> list[dict[str, Any]]:
    """Four minutes of calls, some late and some too late, then one event an hour on that makes them final."""
    made = [event(i, NOON + timedelta(seconds=i)) for i in range(events)]
    made.append(event(events, NOON + timedelta(minutes=5)))
    made.append(event(events + 1, NOON + timedelta(seconds=30)))  # late
    made.append(event(events + 2, NOON + timedelta(hours=1)))
    made.append(event(events + 3, NOON + timedelta(seconds=40)))  # too late: a correction
    return made


def event(number: int, at: datetime) -> dict[str, Any]:
    provider, model = MODELS[number % 3]
    return {
        "event_id": str(uuid.UUID(int=number + 1)),
        "occurred_at": at.isoformat(),
        "service": f"service-{number % 4}",
        "team": "search" if number % 2 else None,
        "customer": f"customer-{number}",
        "provider": provider,
        "model_requested": model,
        "status": "error" if number % 11 == 0 else "ok",
        "attempt": 1 + (number % 13 == 0),
        "latency_ms": None if number % 5 == 0 else number,
        "input_tokens": 1000 + number,
        "cache_read_tokens": number % 7 * 100,
        "output_tokens": number,
        "web_searches": number % 2 if model == "claude-sonnet-4-5" else 0,
    }


def meter(events: Sequence[dict[str, Any]], *, cap: int = 1000) -> MeterOutput:
    """What the meter makes of the events, each recorded an hour after the latest."""
    rules = MeterRules(cardinality_cap=cap, dedupe_horizon_s=1)
    metering = PartitionMeter(new_marker(0, LOG, -1), rules, PriceBook())
    recorded_ms = epoch_us(NOON + timedelta(hours=2)) // 1000
    n = len(events)
    batch = RecordBatch(
        partition=0,
        offsets=np.arange(n),
        timestamps_ms=recorded_ms + np.arange(n) * 1000 * 60,  # each beyond the dedupe horizon of the one before
        keys=[b"k"] * n,
        values=[json.dumps(one).encode() for one in events],
    )
    for at in range(n):
        one = RecordBatch(0, batch.offsets[at : at + 1], batch.timestamps_ms[at : at + 1], [b"k"], [batch.values[at]])
        metering.absorb(one, NOON + timedelta(hours=3, seconds=at))
    return metering.take()


class World:
    """A topic prefix and a database of their own; rows come into the tables as the sinks write them."""

    def __init__(self, broker: EmbeddedBroker, url: str, client: Client) -> None:
        name = uuid.uuid4().hex[:12]
        self.client = client
        self.settings = Settings(
            kafka_bootstrap_servers=broker.bootstrap,
            kafka_topic_prefix=f"t{name}.",
            kafka_group=f"g{name}",
            clickhouse_url=url,
            clickhouse_database=f"db_{name}",
        )

    async def create(self) -> None:
        Migrator(self.client, MigrationSettings(Target(self.settings.clickhouse_database))).up()
        specs = [TopicSpec(self.settings.topic(name), 1) for name in topics.ALL]
        await ensure_topics(self.settings.kafka_client(), specs, replication=1)

    def insert(self, encoder: RowEncoder, values: Sequence[bytes]) -> None:
        for insert in encoder.encode(records(values)).inserts:
            table = f"{self.settings.clickhouse_database}.{insert.table}"
            self.client.raw_insert(table, insert.columns, insert.body, fmt="ArrowStream", settings=INSERT_SETTINGS)

    def insert_ledger(self, taken: MeterOutput) -> None:
        assert taken.calls is not None
        table = ledger_table(taken.calls, partition=0, source_log=LOG)
        self.insert(CallEncoder(), list(ledger_records(table, 20_000, 900_000)))
        self.insert(RateCardEncoder(), [card_record(each).model_dump_json().encode() for each in taken.cards.values()])

    def insert_rollups(self, taken: MeterOutput, *, but: Sequence[int] = ()) -> None:
        values = rollup_values(taken)
        self.insert(RollupEncoder(), [value for number, value in enumerate(values) if number not in but])

    async def write_kafka(self, taken: MeterOutput, events: int) -> None:
        """The log's records, the meter's marker and the meter's commit."""
        await self.publish(events)
        producer = AIOKafkaProducer(**self.settings.kafka_client())
        await producer.start()
        await producer.send_and_wait(self.settings.topic(topics.PROGRESS), write_progress(taken.progress), partition=0)
        await producer.stop()
        usage = TopicPartition(self.settings.topic(topics.USAGE), 0)
        consumer = AIOKafkaConsumer(
            **self.settings.kafka_client(), group_id=self.settings.group("meter"), enable_auto_commit=False
        )
        await consumer.start()
        consumer.assign([usage])
        await consumer.commit({usage: events})
        await consumer.stop()

    async def publish(self, events: int) -> None:
        producer = AIOKafkaProducer(**self.settings.kafka_client())
        await producer.start()
        for _ in range(events):
            await producer.send(self.settings.topic(topics.USAGE), b"{}", partition=0)
        await producer.flush()
        await producer.stop()

    async def reconcile(self, **how: bool) -> Report:
        return await reconcile(self.settings, Range(), **how)

    def repairs(self) -> list[tuple[Any, ...]]:
        """The calls before and after, of each total that a repair replaced."""
        found = self.client.query(
            f"SELECT JSONExtractInt(total_before, 'calls'), JSONExtractInt(total_after, 'calls') "
            f"FROM {self.settings.clickhouse_database}.repairs ORDER BY repaired_at, minute, dimensions"
        )
        return [tuple(row) for row in found.result_rows]

    def rollups(self) -> list[dict[str, Any]]:
        """The rollups that hold calls, without what only says when they were written."""
        database = self.settings.clickhouse_database
        sql = f"SELECT * EXCEPT (ver, inserted_at) FROM {database}.rollups_1m FINAL WHERE calls > 0 ORDER BY ALL"
        return list(self.client.query(sql).named_results())


def rollup_values(taken: MeterOutput) -> list[bytes]:
    return [rollup_record(LOG, 0, MeterRules().dimensions, key, totals)[1] for key, totals in taken.rollups]


@pytest.fixture
def broker(embedded_broker: EmbeddedBroker) -> EmbeddedBroker:
    return embedded_broker


@pytest.fixture
async def world(broker: EmbeddedBroker, server: EmbeddedClickHouse) -> AsyncIterator[World]:
    with open_client(ClickHouseSettings(server.url)) as client:
        made = World(broker, server.url, client)
        await made.create()
        yield made
        client.command(f"DROP DATABASE {made.settings.clickhouse_database} SYNC")


@pytest.fixture
async def metered(world: World) -> MeterOutput:
    """Everything metered, everything published accounted for; the rollups are up to the test."""
    events = traffic()
    taken = meter(events)
    world.insert_ledger(taken)
    await world.write_kafka(taken, len(events))
    return taken


async def test_the_meters_own_output_reconciles(world: World, metered: MeterOutput) -> None:
    world.insert_rollups(metered)
    report = await world.reconcile()
    assert report.ok, report.summary()
    assert [hour.ledger.calls for hour in report.hours] == [243, 1]
    counters = report.summary()["partitions"][0]
    assert counters["records"] == counters["metered"] == counters["ledger_calls"] == counters["rollup_calls"] == 244
    assert counters["late"] == counters["corrections"] == 1


async def test_a_rate_card_that_the_ledger_names_and_clickhouse_lacks_is_a_problem(
    world: World, metered: MeterOutput
) -> None:
    world.insert_rollups(metered)
    lost = min(metered.cards)
    table = f"{world.settings.clickhouse_database}.rate_cards"
    world.client.command(f"DELETE FROM {table} WHERE rate_card_id = '{lost}'")
    report = await world.reconcile()
    assert not report.ok
    (problem,) = report.problems
    assert problem.startswith(f"rate_cards lacks 1 cards that the ledger names, {lost} among them")


async def test_a_missing_rollup_is_found_and_repaired_as_the_meter_had_written_it(
    world: World, metered: MeterOutput
) -> None:
    world.insert_rollups(metered)
    as_metered = world.rollups()
    world.client.command(f"TRUNCATE TABLE {world.settings.clickhouse_database}.rollups_1m")
    corrected = next(i for i, (key, _) in enumerate(metered.rollups) if key.block >= 0)
    world.insert_rollups(metered, but=(0, 5, corrected))

    found = await world.reconcile()
    assert not found.ok
    assert found.is_drained
    assert [hour.status for hour in found.hours] == ["differs", "ok"]
    assert found.cells[0].rollups_minus_ledger["calls"] < 0

    # the correction's block of offsets is still being filled: that key is the meter's
    repaired = await world.reconcile(repair=True)
    assert repaired.repaired_rows == 2
    assert not repaired.ok
    assert "not final" in repaired.notes[-1]

    world.insert(RollupEncoder(), [rollup_values(metered)[corrected]])
    assert (await world.reconcile()).ok
    assert world.rollups() == as_metered


async def test_expensive_calls_are_repaired_into_the_rows_where_the_meter_keeps_them(world: World) -> None:
    """A minute of dear calls has rows of its own, so that no sum passes 64 bits: ledger and meter choose alike."""
    dear = {"provider": "openai", "model_requested": "o1-pro"}
    events = traffic()
    for number, tokens in ((3, 30_000), (4, 1_000_000), (5, 100_000_000), (-1, 100_000_000)):
        events[number] = {**events[number], **dear, "input_tokens": tokens, "cache_read_tokens": 0}
    taken = meter(events)
    world.insert_ledger(taken)
    world.insert_rollups(taken)
    await world.write_kafka(taken, len(events))
    as_metered = world.rollups()
    assert {key.block for key, _ in taken.rollups} == {-1, -2, -1 - (3 * 5 + 2), -1 - (3 * (len(events) - 1) + 2)}

    world.client.command(f"TRUNCATE TABLE {world.settings.clickhouse_database}.rollups_1m")
    assert (await world.reconcile(repair=True)).ok is False  # the last hour's minute is still open
    final = [row for row in as_metered if row["minute"].hour == NOON.hour]
    assert final == world.rollups()


async def test_an_event_counted_twice_is_found_and_repaired_and_stays_repaired(world: World) -> None:
    events = traffic()
    events.insert(-2, events[TWICE])  # again, beyond the dedupe horizon
    taken = meter(events)
    world.insert_ledger(taken)
    world.insert_rollups(taken)
    await world.write_kafka(taken, len(events))

    found = await world.reconcile()
    assert not found.ok
    assert found.cells[0].rollups_minus_ledger["calls"] == 1
    assert any("beyond the dedupe horizon" in problem for problem in found.problems)

    # the meter counted two calls, so a row of the ledger may be what is missing: it is for an operator to say
    refused = await world.reconcile(repair=True)
    assert (refused.ok, refused.repaired_rows, world.repairs()) == (False, 0, [])
    assert any("Nothing was lowered" in problem for problem in refused.problems)

    repaired = await world.reconcile(repair=True, trust_ledger=True)
    assert repaired.ok, repaired.summary()
    assert (repaired.repaired_rows, repaired.repaired_minutes) == (1, 1)
    assert [hour.status for hour in repaired.hours] == ["repaired", "ok"]
    ((before, after),) = world.repairs()
    assert before == after + 1

    world.insert_rollups(taken)  # a sink inserts the same totals once more
    assert (await world.reconcile()).ok


async def test_rollups_are_not_cut_down_to_a_ledger_that_lacks_calls(world: World, metered: MeterOutput) -> None:
    world.insert_rollups(metered)
    before = world.rollups()
    table = f"{world.settings.clickhouse_database}.calls"
    world.client.command(f"ALTER TABLE {table} DELETE WHERE source_offset % 3 = 0 SETTINGS mutations_sync = 1")
    report = await world.reconcile(repair=True)
    assert not report.ok
    assert report.repaired_rows == 0
    assert any("the ledger lacks calls that the meter counted" in problem for problem in report.problems)
    assert world.rollups() == before
    assert world.repairs() == []


async def test_what_a_repair_would_change_can_be_seen_first_and_is_kept_afterwards(
    world: World, metered: MeterOutput
) -> None:
    world.insert_rollups(metered)
    as_metered = world.rollups()
    wrong = json.loads(rollup_values(metered)[0])
    wrong["calls"] += 3
    wrong["through_offset"] += 1
    world.insert(RollupEncoder(), [json.dumps(wrong).encode()])
    damaged = world.rollups()

    shown = await world.reconcile(repair=True, dry_run=True)
    assert (shown.ok, shown.repaired_rows, world.repairs()) == (False, 0, [])
    assert world.rollups() == damaged
    (change,) = shown.changes
    assert change.before is not None
    assert change.before["calls"] == change.after["calls"] + 3

    assert (await world.reconcile(repair=True)).ok
    assert [(row["calls"], row["minute"]) for row in world.rollups()] == [(r["calls"], r["minute"]) for r in as_metered]
    assert world.repairs() == [(change.before["calls"], change.after["calls"])]


async def test_a_total_without_calls_in_the_ledger_becomes_zero(world: World, metered: MeterOutput) -> None:
    world.insert_rollups(metered)
    stray = json.loads(rollup_values(metered)[0])
    stray["dimensions"]["service"] = "nobody's"
    world.insert(RollupEncoder(), [json.dumps(stray).encode()])
    assert not (await world.reconcile()).ok
    assert (await world.reconcile(repair=True)).ok
    assert not [row for row in world.rollups() if row["service"] == "nobody's"]


async def test_beyond_the_cardinality_cap_the_shared_row_takes_what_is_missing(world: World) -> None:
    events = traffic()
    taken = meter(events, cap=2)
    world.insert_ledger(taken)
    shared = next(i for i, (key, _) in enumerate(taken.rollups) if key.dimensions[0] == "__other__")
    world.insert_rollups(taken)
    short = json.loads(rollup_values(taken)[shared])
    short["calls"] -= 1
    short["through_offset"] += 1
    world.insert(RollupEncoder(), [json.dumps(short).encode()])
    await world.write_kafka(taken, len(events))
    assert not (await world.reconcile()).ok
    repaired = await world.reconcile(repair=True)
    assert repaired.ok, repaired.summary()
    assert repaired.repaired_rows == 1


async def test_an_open_minute_is_left_to_the_meter(world: World, metered: MeterOutput) -> None:
    last = next(i for i, (key, _) in enumerate(metered.rollups) if key.minute_us == epoch_us(NOON + timedelta(hours=1)))
    world.insert_rollups(metered, but=(last,))
    report = await world.reconcile(repair=True)
    assert not report.ok
    assert report.repaired_rows == 0
    assert [hour.status for hour in report.hours] == ["ok", "open"]


async def test_an_hour_whose_calls_are_gone_keeps_its_rollups(world: World, metered: MeterOutput) -> None:
    world.insert_rollups(metered)
    before = world.rollups()
    world.client.command(f"TRUNCATE TABLE {world.settings.clickhouse_database}.calls")
    report = await world.reconcile(repair=True)
    assert not report.ok
    assert "no call in the ledger: they are kept" in report.notes[-1]
    assert world.rollups() == before


async def test_records_published_and_not_metered_are_not_drained(world: World, metered: MeterOutput) -> None:
    world.insert_rollups(metered)
    await world.publish(3)
    report = await world.reconcile()
    assert (report.ok, report.is_drained) == (False, False)
    assert report.summary()["records_behind"] == 3
    assert not report.differing_hours
