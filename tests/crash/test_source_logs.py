"""What happens to the usage topic behind the meter's back: recreated, cut, expired. On a real Kafka and ClickHouse."""

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from spendstream.agents import meter_state
from spendstream.cli.resume import state_start
from spendstream.core.meter import MeterRules
from spendstream.drain import drain
from spendstream.embedded.process import ManagedProcess
from spendstream.reconcile.compare import Range
from spendstream.reconcile.run import Report, reconcile
from spendstream.schemas import topics
from tests.crash.world import World
from tests.kafka.damage import cut_log, delete_records

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

WAIT_S = 120
HOUR_MS = 3_600_000


class Life(World):
    """A world with one partition of usage, and each event in a batch of its own."""

    def __init__(self, folder: Path, **overrides: str) -> None:
        super().__init__(folder, KAFKA_PARTITIONS="1", **overrides)

    @property
    def usage(self) -> TopicPartition:
        return TopicPartition(self.settings.topic(topics.USAGE), 0)

    def at(self, topic: str) -> TopicPartition:
        return TopicPartition(self.settings.topic(topic), 0)

    def publish_events(self, count: int, hours_ago: int = 0) -> list[str]:
        """Publish calls of $2.50 each; return their ids."""
        return asyncio.run(self._publish_events(count, int(time.time() * 1000) - hours_ago * HOUR_MS))

    async def _publish_events(self, count: int, timestamp_ms: int) -> list[str]:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap, acks="all")
        await producer.start()
        ids = [str(uuid.uuid4()) for _ in range(count)]
        try:
            for event_id in ids:
                value = call(event_id, timestamp_ms)
                await producer.send_and_wait(self.usage.topic, value, key=b"k", timestamp_ms=timestamp_ms)
        finally:
            await producer.stop()
        return ids

    def drained(self) -> None:
        """Wait until everything published is in ClickHouse."""
        report = asyncio.run(drain(self.settings, WAIT_S))
        assert report.is_drained, report

    @contextmanager
    def worker(self) -> Iterator[ManagedProcess]:
        running = self.start_worker()
        try:
            yield running
        finally:
            running.stop(timeout_s=30)

    def totals(self) -> tuple[int, Decimal, int]:
        """Return the calls and dollars of the rollups, and the calls of the ledger."""
        ((calls, cost),) = self.query("SELECT sum(calls), sum(cost_usd) FROM spendstream.rollups_1m FINAL")
        ((ledger,),) = self.query("SELECT count() FROM spendstream.calls FINAL")
        return int(calls), Decimal(cost), int(ledger)

    def reconciled(self) -> Report:
        return asyncio.run(reconcile(self.settings, Range(None, None)))

    def cut(self, end_offset: int) -> None:
        """Lose the tail of the usage log, as in a power loss at replication 1."""
        self.kafka.stop()
        cut_log(self.folder / "kafka" / "data" / f"{self.usage.topic}-0", end_offset)
        self.kafka.start()

    def take_producers_times(self) -> None:
        """Let the usage topic keep the timestamps that producers send, so that hours pass in seconds."""
        asyncio.run(self._take_producers_times())

    async def _take_producers_times(self) -> None:
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            config = {"message.timestamp.type": "CreateTime"}
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, self.usage.topic, config)])
        finally:
            await admin.close()

    def delete(self, before: dict[TopicPartition, int]) -> None:
        asyncio.run(delete_records(self.kafka.bootstrap, before))

    def recreate_usage(self) -> None:
        asyncio.run(self._delete_usage())
        self.make_topics()

    async def _delete_usage(self) -> None:
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([self.usage.topic])
            for _ in range(200):
                if self.usage.topic not in await admin.list_topics():
                    break
                await asyncio.sleep(0.1)
        finally:
            await admin.close()

    def log(self, worker: int) -> str:
        return (self.folder / f"worker-{worker}.log").read_text()


def call(event_id: str, timestamp_ms: int = 0) -> bytes:
    return json.dumps(
        {
            "event_id": event_id,
            "occurred_at": datetime.fromtimestamp(timestamp_ms / 1000 or time.time(), UTC).isoformat(),
            "service": "shop",
            "provider": "acme",
            "model_served": "small",
            "input_tokens": 10_000_000,
        }
    ).encode()


def test_a_topic_recreated_while_nobody_looks_loses_nothing(tmp_path: Path) -> None:
    """Each life was seen empty first, and both were named 0-0: the second's offsets counted as metered."""
    with Life(tmp_path) as world:
        for expected in (5, 15, 25):
            with world.worker():
                world.drained()
                world.publish_events(expected - (expected - 10 if expected > 5 else 0))
                world.drained()
            assert world.totals()[::2] == (expected, expected)
            world.recreate_usage()
        names = world.query("SELECT DISTINCT source_log FROM spendstream.calls FINAL")
        assert len(names) == 3


def test_a_topic_recreated_under_a_running_worker_loses_nothing(tmp_path: Path) -> None:
    with Life(tmp_path) as world, world.worker():
        world.publish_events(9)
        world.drained()
        world.recreate_usage()
        world.publish_events(4)
        world.drained()
        world.publish_events(8)
        world.drained()
        assert world.totals()[::2] == (21, 21)


def test_a_log_that_lost_its_tail_is_metered_from_the_fork_on(tmp_path: Path) -> None:
    with Life(tmp_path) as world:
        with world.worker():
            world.publish_events(8)
            world.drained()
        world.cut(4)
        world.publish_events(8)
        with world.worker():
            world.drained()
        assert world.totals()[::2] == (16, 16)
        report = world.reconciled()
        assert report.state.markers[0].counters.rewritten == 4
        assert any("4 offsets" in note for note in report.notes), report.notes
        assert report.ok, report.problems


def test_a_log_cut_under_a_running_worker_is_metered_from_the_fork_on(tmp_path: Path) -> None:
    """The log has grown past the worker's position before it fetches again: no fetch fails."""
    with Life(tmp_path) as world, world.worker():
        world.publish_events(8)
        world.drained()
        world.cut(4)
        world.publish_events(8)
        world.drained()
        deadline = time.monotonic() + WAIT_S
        while world.totals()[0] < 16 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert world.totals()[::2] == (16, 16)


def test_records_that_were_metered_and_are_still_there_do_not_count_again(tmp_path: Path) -> None:
    """The log is cut below the marker, retention has moved its start, and dedupe has forgotten every id."""
    with Life(tmp_path, METER_DEDUPE_HORIZON_S="60") as world:
        world.take_producers_times()
        for hours_ago in (9, 7, 5):
            with world.worker():
                world.publish_events(4, hours_ago)
                world.drained()
        world.delete({world.usage: 2})
        world.cut(4)
        world.publish_events(5)
        with world.worker():
            world.drained()
        assert world.totals()[::2] == (17, 17)


def test_records_deleted_before_they_were_metered_are_counted(tmp_path: Path) -> None:
    with Life(tmp_path) as world:
        with world.worker():
            world.publish_events(10)
            world.drained()
        world.publish_events(110)
        world.delete({world.usage: 110})
        report = world.reconciled()
        assert any("100 records" in problem for problem in report.problems), report.problems
        with world.worker():
            world.drained()
        assert world.totals()[::2] == (20, 20)
        report = world.reconciled()
        assert report.state.markers[0].counters.lost == 100
        assert not report.ok
        assert any("100 records" in problem for problem in report.problems), report.problems
        assert "meter.records_lost" in world.log(2)


def test_a_meter_without_its_markers_refuses_to_guess(tmp_path: Path) -> None:
    with Life(tmp_path) as world:
        with world.worker():
            world.publish_events(10)
            world.drained()
        world.delete({world.at(topics.PROGRESS): -1})
        running = world.start_worker()
        deadline = time.monotonic() + WAIT_S
        while running.is_running() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not running.is_running()
        assert "spendstream resume --partition 0 --from-offset" in world.log(2)
        assert world.totals()[::2] == (10, 10)


def test_open_aggregates_that_expired_are_not_overwritten(tmp_path: Path) -> None:
    with Life(tmp_path) as world:
        with world.worker():
            world.publish_events(10)
            world.drained()
        world.delete({world.at(topics.ROLLUP): -1})
        world.publish_events(5)
        with world.worker():
            world.drained()
        assert world.totals() == (15, Decimal("37.5"), 15)


def test_a_stated_offset_continues_where_the_markers_are_gone(tmp_path: Path) -> None:
    with Life(tmp_path) as world:
        with world.worker():
            world.publish_events(10)
            world.drained()
        world.delete({world.at(topics.PROGRESS): -1})
        world.publish_events(5)
        asyncio.run(state_start(world.settings, 0, 10))
        with world.worker():
            world.drained()
        assert world.totals() == (15, Decimal("37.5"), 15)
        assert world.reconciled().is_drained


def test_aborted_transactions_are_never_billed_and_leave_nothing_behind(tmp_path: Path) -> None:
    with Life(tmp_path) as world, world.worker():
        asyncio.run(transactions(world, ["commit", "abort", "abort"]))
        world.drained()
        assert world.totals() == (3, Decimal("7.5"), 3)
        world.publish_events(2)
        asyncio.run(transactions(world, ["abort", "commit"]))
        world.drained()
        assert world.totals() == (8, Decimal("20"), 8)
        report = world.reconciled()
        assert report.ok, report.problems
        assert report.state.markers[0].counters.lost == 0
        (end,) = [each.end for each in report.state.partitions]
        assert report.state.markers[0].through_offset == end - 1


async def transactions(world: Life, endings: list[str]) -> None:
    """Publish transactions of three calls each."""
    producer = AIOKafkaProducer(
        bootstrap_servers=world.kafka.bootstrap, acks="all", transactional_id=f"billing-{uuid.uuid4()}"
    )
    await producer.start()
    try:
        for ending in endings:
            await producer.begin_transaction()
            for _ in range(3):
                await producer.send_and_wait(world.usage.topic, call(str(uuid.uuid4())), key=b"k")
            await (producer.commit_transaction() if ending == "commit" else producer.abort_transaction())
    finally:
        await producer.stop()


def test_an_open_transaction_holds_nothing_up_and_is_metered_once_committed(tmp_path: Path) -> None:
    with Life(tmp_path) as world, world.worker():
        asyncio.run(open_transaction(world))
        world.drained()
        assert world.totals()[::2] == (4, 4)


async def open_transaction(world: Life) -> None:
    """Drain beside an open transaction, then commit it."""
    producer = AIOKafkaProducer(
        bootstrap_servers=world.kafka.bootstrap, acks="all", transactional_id="slow", transaction_timeout_ms=300_000
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        for _ in range(4):
            await producer.send_and_wait(world.usage.topic, call(str(uuid.uuid4())), key=b"k")
        report = await drain(world.settings, WAIT_S)
        assert report.is_drained, report
        assert (await asyncio.to_thread(world.totals))[2] == 0
        await producer.commit_transaction()
    finally:
        await producer.stop()


def test_markers_that_nothing_needs_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before the usage log's start and the dedupe horizon; a meter recovers from what is left."""
    monkeypatch.setattr(meter_state, "_PRUNE_RECORDS", 2)
    with Life(tmp_path, METER_DEDUPE_HORIZON_S="60") as world:
        world.take_producers_times()
        for hours_ago in (6, 5, 4, 3, 2):
            with world.worker():
                world.publish_events(2, hours_ago)
                world.drained()
        world.delete({world.usage: 6})
        before = asyncio.run(begin_of(world))
        asyncio.run(prune(world))
        after = asyncio.run(begin_of(world))
        assert after > before
        world.publish_events(3)
        with world.worker():
            world.drained()
        assert world.totals()[::2] == (13, 13)


async def prune(world: Life) -> None:
    recovery = meter_state.Recovery(
        world.settings.kafka_client(), world.settings.group("meter"), world.settings.topic, MeterRules(), None, None
    )  # type: ignore[arg-type]
    await recovery.prune(0)


async def begin_of(world: Life) -> int:
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=world.kafka.bootstrap)
    await consumer.start()
    try:
        at = world.at(topics.PROGRESS)
        return int((await consumer.beginning_offsets([at]))[at])
    finally:
        await consumer.stop()
