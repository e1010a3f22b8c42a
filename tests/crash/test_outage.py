"""ClickHouse fails in every way that a server behind a network can: the meter goes on, nothing is lost or doubled.

The worker reaches ClickHouse through a proxy that breaks it on demand; what came of it is read past the proxy.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from spendstream.schemas import topics
from tests.crash.workload import Workload
from tests.crash.world import World
from tests.faults.proxy import Fault, FaultProxy

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

OUTAGE_S = 60.0 if os.environ.get("SPENDSTREAM_LONG") == "1" else 15.0
FAULTS_S = 25.0
INSERTS_OF_A_FAULT = 5
PER_SECOND = 500


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as running:
        yield running


@pytest.fixture
def proxy(world: World) -> Iterator[FaultProxy]:
    with FaultProxy(world.clickhouse.url) as between:
        world.environment["CLICKHOUSE_URL"] = between.url
        world.keep_running(1)
        yield between


async def _committed(world: World, group: str, topic: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=world.kafka.bootstrap)
    await admin.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(world.settings.kafka_partitions)]
        offsets = await admin.list_consumer_group_offsets(group, partitions=partitions)
        return sum(max(0, found.offset) for found in offsets.values())
    finally:
        await admin.close()


def metered(world: World) -> int:
    """Usage records that the meter has committed."""
    return asyncio.run(_committed(world, world.settings.group("meter"), world.settings.topic(topics.USAGE)))


def landed(world: World) -> int:
    """Records of priced calls that the ledger's sink has committed."""
    return asyncio.run(_committed(world, world.settings.group("sink-calls"), world.settings.topic(topics.PRICED)))


def publishing(world: World, workload: Workload, seconds: float) -> threading.Thread:
    thread = threading.Thread(target=world.publish, args=(workload, seconds, PER_SECOND), daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def assert_one_worker_lived(world: World) -> None:
    (worker,) = world.workers
    assert worker.is_running(), worker.log_tail()


def test_the_meter_goes_on_while_clickhouse_refuses_connections(world: World, proxy: FaultProxy) -> None:
    workload = Workload(seed=31)
    publisher = publishing(world, workload, OUTAGE_S + 10)
    until(lambda: all(world.counts()), "nothing lands")

    proxy.refuse()
    time.sleep(1.0)  # what was on its way has landed or failed
    rows, begun, sunk = world.counts(), metered(world), landed(world)
    time.sleep(OUTAGE_S / 2)
    halfway = metered(world)
    time.sleep(OUTAGE_S / 2)
    ended = metered(world)
    assert world.counts() == rows, "ClickHouse was reached while it was away"
    assert landed(world) == sunk, "committed, though ClickHouse had not got it"
    assert halfway - begun > PER_SECOND * OUTAGE_S / 4
    assert ended - halfway > PER_SECOND * OUTAGE_S / 4

    proxy.listen()
    publisher.join(timeout=60)
    world.drained(workload)
    world.assert_exact(workload)
    assert_one_worker_lived(world)


def meet(proxy: FaultProxy, fault: Fault) -> None:
    """Let some inserts fail, then one through: what waits between repeats begins small again."""
    arrived = proxy.inserts
    proxy.default = fault
    until(lambda: proxy.inserts >= arrived + INSERTS_OF_A_FAULT, f"no insert met: {fault}")
    proxy.default = Fault.NONE
    written = proxy.written
    until(lambda: proxy.written > written, f"nothing was written after: {fault}")


def test_503_resets_slowness_and_refusals_lose_and_double_nothing_and_the_worker_lives(
    world: World, proxy: FaultProxy
) -> None:
    workload = Workload(seed=32)
    publisher = publishing(world, workload, FAULTS_S)
    until(lambda: all(world.counts()), "nothing lands")
    faults = [
        Fault.BUSY, Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.TOO_MANY_PARTS, Fault.CUT, Fault.SLOW,
        Fault.WRONG_PASSWORD, Fault.READONLY, Fault.UNKNOWN_CODE,
    ]  # fmt: skip
    before = metered(world)
    for fault in faults:
        meet(proxy, fault)
    assert metered(world) > before
    publisher.join(timeout=60)
    world.drained(workload)
    world.assert_exact(workload)
    assert_one_worker_lived(world)
    assert proxy.written > len(faults)
