"""Nothing lost, nothing doubled: sinks between a real broker and the real engine, with faults between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from structlog.testing import capture_logs

from spendstream.clickhouse.client import ClickHouseSettings, open_client
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import DeadLetterEncoder, RollupEncoder, RowEncoder
from tests.faults.proxy import Fault, FaultProxy
from tests.integration.sink_world import SESSION_S, World, calls_values, count_calls, running
from tests.kafka.server import LocalKafka
from tests.unit.sinks.make import dead_letter_value, ipc, priced_calls, rollup_value

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.timeout(600)]


@pytest.fixture
def proxy(server: EmbeddedClickHouse) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as running:
        yield running


@pytest.fixture
async def world(broker: Any, client: Client, proxy: FaultProxy) -> AsyncIterator[World]:
    world = World(broker, client, proxy.url)
    await world.create()
    yield world
    client.command(f"DROP DATABASE IF EXISTS {world.database} SYNC")


@pytest.fixture
async def kafka_world(real_kafka: LocalKafka, client: Client, proxy: FaultProxy) -> AsyncIterator[World]:
    """As ``world``, on Apache Kafka only: for what the embedded broker can't or need not show."""
    world = World(real_kafka, client, proxy.url)
    await world.create()
    yield world
    client.command(f"DROP DATABASE IF EXISTS {world.database} SYNC")


async def test_priced_calls_arrive_whole_and_exact(world: World) -> None:
    values, count, cost = calls_values(streams=30, rows=20)
    large, large_count, large_cost = calls_values(streams=3, rows=400, seed=2)
    await world.publish([*values, *large])
    async with running(world.sink(CallEncoder(max_rows=100))):
        await world.drained()
    assert world.ledger() == (count + large_count, cost + large_cost)


async def test_rollups_arrive_exact_and_the_last_total_of_each_stays(world: World) -> None:
    draw = random.Random(3)
    latest: dict[str, Decimal] = {}
    values = []
    for through in range(300):
        team = f"team-{through % 30}"
        latest[team] = Decimal(draw.randrange(10**20)).scaleb(-12)
        values.append(rollup_value(through, dimensions={"service": "api", "team": team}, cost_usd=latest[team]))
    draw.shuffle(values)  # a worker that lost its partition may publish an older total after a newer one
    await world.publish([*values, None])
    async with running(world.sink(RollupEncoder())):
        await world.drained()
    assert dict(world.rows("SELECT team, cost_usd FROM {db}.spend_1m")) == latest
    assert world.rows("SELECT sum(cost_usd) FROM {db}.spend_1d") == [(sum(latest.values()),)]


@pytest.mark.parametrize(
    ("encoder", "good"),
    [
        (CallEncoder(), ipc(priced_calls(1))),
        (RollupEncoder(), rollup_value()),
        (DeadLetterEncoder(), dead_letter_value(source_log="good")),
    ],
    ids=["ledger", "rollups", "dead letters"],
)
async def test_an_undecodable_record_is_kept_and_the_others_arrive(
    world: World, encoder: RowEncoder, good: bytes
) -> None:
    noise = [b"", b"\xff\x00\xfe", b'{"a": 1}', b"x" * 100_000]
    await world.publish([*noise, good, *noise])
    async with running(world.sink(encoder)):
        await world.drained()
    letters = world.rows(f"SELECT original FROM {{db}}.dead_letters_v WHERE topic = '{world.topic}'")
    assert len(letters) == world.seen.bad == 8
    assert world.seen.rows == 9
    sizes = world.rows(f"SELECT max(length(original)) FROM {{db}}.dead_letters_v WHERE topic = '{world.topic}'")
    assert sizes == [(100_000,)]


FAULTS = [
    Fault.BUSY,
    Fault.TOO_MANY_PARTS,
    Fault.RESET_BEFORE,
    Fault.RESET_AFTER,
    Fault.CUT,
    Fault.SLOW,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_nothing_is_lost_or_doubled_by(kafka_world: World, proxy: FaultProxy, fault: Fault) -> None:
    world = kafka_world
    proxy.script([fault] * 6)
    values, count, cost = calls_values(streams=12, rows=10)
    await world.publish(values)
    async with running(world.sink(CallEncoder(max_rows=20), max_records=3)):
        await world.drained()
    assert world.ledger() == (count, cost)
    assert proxy.inserts > 6


async def test_faults_of_all_kinds_in_any_order_change_no_sum(world: World, proxy: FaultProxy) -> None:
    draw = random.Random(4)
    proxy.script(draw.choices([*FAULTS, Fault.NONE], k=60))
    values, count, cost = calls_values(streams=60, rows=7)
    await world.publish(values)
    async with running(world.sink(CallEncoder(max_rows=20), max_records=4)):
        await world.drained()
    assert world.ledger() == (count, cost)
    assert world.seen.failures > 10


async def test_an_insert_whose_answer_never_comes_is_repeated(kafka_world: World, proxy: FaultProxy) -> None:
    world = kafka_world
    world.insert_timeout_s = 1.0
    proxy.script([Fault.HANG_AFTER] * 2)
    values, count, cost = calls_values(streams=3, rows=10)
    await world.publish(values)
    async with running(world.sink(CallEncoder())):
        await world.drained()
    assert world.ledger() == (count, cost)
    assert proxy.written >= 3


async def test_while_clickhouse_is_down_nothing_is_committed_the_member_stays_and_other_sinks_continue(
    kafka_world: World, proxy: FaultProxy, server: EmbeddedClickHouse
) -> None:
    away = kafka_world
    values, count, cost = calls_values(streams=30, rows=10)
    await away.publish(values)
    proxy.refuse()
    other = World(type("At", (), {"bootstrap": away.bootstrap}), away.client, server.url)
    other.topic, other.database = away.topic, away.database
    sink = away.sink(CallEncoder(), max_records=5)
    assignments = count_calls(sink, "_assigned")
    async with running(sink, other.sink(CallEncoder())):
        await other.drained()
        assert away.ledger() == (count, cost)  # by the other sink, which is not held up
        await asyncio.sleep(2 * SESSION_S)
        assert set((await away.committed()).values()) == {0}
        away.client.command(f"TRUNCATE TABLE {away.database}.calls")
        proxy.listen()
        await away.drained()
    assert away.ledger() == (count, cost)
    assert away.seen.failures > 0
    assert len(assignments) == 1, "it was thrown out of its group and joined anew"


async def test_a_clickhouse_that_is_killed_repeatedly_ends_with_every_row_once(
    real_kafka: LocalKafka, tmp_path: Path
) -> None:
    values, count, cost = calls_values(streams=90, rows=10)
    with EmbeddedClickHouse(tmp_path / "clickhouse") as server:
        world = World(real_kafka, open_client(ClickHouseSettings(server.url)), server.url)
        await world.create()
        async with running(world.sink(CallEncoder(max_rows=30), max_records=3)):
            for start in range(0, 90, 30):
                await world.publish(values[start : start + 30])
                await asyncio.sleep(0.15)
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(server.start)
            await world.drained()
        assert world.ledger() == (count, cost)


async def test_a_member_that_is_lost_is_replaced_and_every_row_counts_once(
    kafka_world: World, proxy: FaultProxy
) -> None:
    world = kafka_world
    proxy.default = Fault.SLOW
    values, count, cost = calls_values(streams=60, rows=5)
    await world.publish(values[:30])
    lost = asyncio.create_task(world.sink(CallEncoder(), max_records=2).run())
    async with running(world.sink(CallEncoder(), max_records=2)):
        await asyncio.sleep(SESSION_S)
        lost.cancel()  # in the middle of an insert that it will not commit
        await asyncio.wait({lost})
        await world.publish(values[30:])
        proxy.default = Fault.NONE
        await world.drained()
    assert world.ledger() == (count, cost)


async def test_a_restarted_sink_repeats_what_was_not_committed(kafka_world: World, proxy: FaultProxy) -> None:
    world = kafka_world
    world.insert_timeout_s = 30.0
    proxy.script([Fault.HANG_AFTER])
    values, count, cost = calls_values(streams=6, rows=10)
    await world.publish(values)
    async with running(world.sink(CallEncoder())):
        async with asyncio.timeout(90):
            while not proxy.written:  # noqa: ASYNC110 - a thread sets it
                await asyncio.sleep(0.05)
    assert set((await world.committed()).values()) == {0}
    async with running(world.sink(CallEncoder())):
        await world.drained()
    assert world.ledger() == (count, cost)
    assert world.rows("SELECT count() FROM {db}.calls")[0][0] > count, "the insert was repeated, or this shows nothing"


async def refused(world: World, match: str) -> None:
    """Wait until the sink says so; nothing is committed meanwhile."""
    with capture_logs() as logs:
        async with asyncio.timeout(60):
            while not any(match in entry.get("error", "") for entry in logs):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.05)
    assert set((await world.committed()).values()) == {0}


async def test_without_tables_the_sink_says_what_to_run_and_continues_once_that_is_done(
    real_kafka: LocalKafka, client: Client, server: EmbeddedClickHouse
) -> None:
    world = World(real_kafka, client, server.url)
    await world.create(migrate=False)
    values, count, cost = calls_values(streams=3, rows=2)
    await world.publish(values)
    async with running(world.sink(CallEncoder())):
        await refused(world, "spendstream migrate")
        world.migrate()
        await world.drained()
    assert world.ledger() == (count, cost)


async def test_a_table_that_does_not_fit_holds_the_sink_with_the_servers_message(kafka_world: World) -> None:
    values, count, cost = calls_values(streams=3, rows=2)
    await kafka_world.publish(values)
    kafka_world.client.command(f"ALTER TABLE {kafka_world.database}.calls RENAME COLUMN task_id TO task")
    async with running(kafka_world.sink(CallEncoder())):
        await refused(kafka_world, "task_id")
        kafka_world.client.command(f"ALTER TABLE {kafka_world.database}.calls RENAME COLUMN task TO task_id")
        await kafka_world.drained()
    assert kafka_world.ledger() == (count, cost)
