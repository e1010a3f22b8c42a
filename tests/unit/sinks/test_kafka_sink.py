"""The loop commits what was inserted, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaConnectionError
from structlog.testing import capture_logs

from spendstream.schemas.dead_letter import Reason
from spendstream.sinks import kafka_sink
from spendstream.sinks.encoders import ConsumedRecord, Encoded, Insert, Undecodable
from spendstream.sinks.kafka_sink import Gaps, KafkaSink, KafkaSinkSettings
from spendstream.sinks.writer import NoMetrics
from spendstream.waiting import Backoff
from tests.unit.sinks.make import FakeRecord

P0, P1 = TopicPartition("topic", 0), TopicPartition("topic", 1)


class FakeConsumer:
    """A consumer that hands out what is put into it, and remembers what was committed."""

    def __init__(self) -> None:
        self.waiting: list[dict[TopicPartition, list[FakeRecord]]] = []
        self.commits: list[dict[TopicPartition, int]] = []
        self.assigned = {P0, P1}
        self.commit_error: Exception | None = None
        self.starts_to_fail = 0
        self.polled = 0

    def put(self, partition: TopicPartition, *offsets: int, value: bytes = b"v") -> None:
        run = [FakeRecord(value, offset, partition.partition, partition.topic) for offset in offsets]
        self.waiting.append({partition: run})

    def __call__(self, **settings: Any) -> FakeConsumer:
        self.settings = settings
        return self

    async def start(self) -> None:
        if self.starts_to_fail:
            self.starts_to_fail -= 1
            raise KafkaConnectionError

    async def stop(self) -> None:
        pass

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        self.listener = listener

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[FakeRecord]]:
        if not self.waiting:
            await asyncio.sleep(min(timeout_ms / 1000, 0.01))
            return {}
        polled = self.waiting.pop(0)
        self.polled += sum(map(len, polled.values()))
        return polled

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if self.commit_error:
            raise self.commit_error
        self.commits.append(offsets)

    async def committed(self, partition: TopicPartition) -> int | None:
        return 5 if partition == P0 else None

    async def end_offsets(self, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 100)

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def highwater(self, partition: TopicPartition) -> int | None:
        return 100


class FakeWriter:
    """A writer that writes when its gate is open."""

    def __init__(self) -> None:
        self.written: list[Insert] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def insert(self, insert: Insert) -> None:
        await self.gate.wait()
        if self.error:
            raise self.error
        self.written.append(insert)

    async def close(self) -> None:
        pass


class FakeEncoder:
    """A row a record; ``bad`` values are undecodable."""

    table = "calls"
    is_compacted = False

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        good = [record for record in records if record.value != b"bad"]
        bad = [Undecodable(record, Reason.NOT_JSON, "bad") for record in records if record.value == b"bad"]
        return Encoded((Insert("calls", ("a",), len(good), b""),) if good else (), tuple(bad))


class Seen(NoMetrics):
    def __init__(self) -> None:
        self.lost = 0
        self.lags: dict[int, int] = {}
        self.bad: list[tuple[str, str]] = []

    def records_lost(self, topic: str, partition: int, records: int) -> None:
        self.lost += records

    def lag(self, topic: str, partition: int, records: int) -> None:
        self.lags[partition] = records

    def undecodable(self, topic: str, reason: str) -> None:
        self.bad.append((topic, reason))


class World:
    def __init__(self, **settings: Any) -> None:
        self.consumer, self.writer, self.seen = FakeConsumer(), FakeWriter(), Seen()
        writer: Any = self.writer
        chosen: dict[str, Any] = {"topic": "topic", "group": "g", "linger_s": 0.02, "stop_timeout_s": 0.2, **settings}
        self.sink = KafkaSink(
            FakeEncoder(), writer, KafkaSinkSettings(**chosen), metrics=self.seen, consumer=self.consumer
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sink.run())
        try:
            yield
        finally:
            await self.sink.stop()
            await task


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


async def test_inserted_records_are_committed_one_past_their_last_offset() -> None:
    world = World()
    world.consumer.put(P0, 5, 6, 7)
    world.consumer.put(P1, 40)
    async with world.running():
        await until(lambda: world.consumer.commits)
    assert world.consumer.commits == [{P0: 8, P1: 41}]
    assert sum(insert.rows for insert in world.writer.written) == 4
    assert world.seen.lags == {0: 92, 1: 59}


async def test_nothing_is_committed_while_the_insert_is_not_acknowledged() -> None:
    world = World()
    world.writer.gate.clear()
    world.consumer.put(P0, 5)
    async with world.running():
        await until(lambda: world.consumer.polled == 1)
        await asyncio.sleep(0.1)
        assert world.consumer.commits == []
        world.writer.gate.set()
        await until(lambda: world.consumer.commits)


async def test_at_most_two_batches_are_held_while_inserts_wait() -> None:
    world = World(max_records=10)
    world.writer.gate.clear()
    for start in range(0, 1000, 10):
        world.consumer.put(P0, *range(start, start + 10))
    async with world.running():
        await asyncio.sleep(0.2)
        assert world.consumer.polled == 20


async def test_a_batch_is_full_at_its_bytes() -> None:
    world = World(max_bytes=100, linger_s=5.0)
    for offset in range(4):
        world.consumer.put(P0, offset, value=b"x" * 60)
    async with world.running():
        await until(lambda: world.consumer.commits == [{P0: 2}, {P0: 4}])


async def test_an_error_that_nobody_foresaw_is_said_and_the_sink_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_sink, "_AFTER_FAILURE", Backoff(first_s=0.01, max_s=0.01))
    world = World()
    world.writer.error = ZeroDivisionError("a bug")
    world.consumer.put(P0, 5)
    running = asyncio.create_task(world.sink.keep_running())
    with capture_logs() as logs:
        await until(lambda: [entry["event"] for entry in logs].count("sink.failed") == 1)
    world.writer.error = None
    world.consumer.put(P0, 5)  # not committed: read again
    await until(lambda: world.consumer.commits == [{P0: 6}])
    await world.sink.stop()
    await asyncio.wait_for(running, 60)


async def test_an_undecodable_record_is_kept_as_a_dead_letter_before_the_commit() -> None:
    world = World()
    world.consumer.put(P0, 5, value=b"bad")
    world.consumer.put(P0, 6)
    async with world.running():
        await until(lambda: world.consumer.commits)
    assert [insert.table for insert in world.writer.written] == ["calls", "dead_letters"]
    assert world.seen.bad == [("topic", "not_json")]
    assert world.consumer.commits == [{P0: 7}]


async def test_partitions_lost_meanwhile_are_not_committed() -> None:
    world = World()
    world.writer.gate.clear()
    world.consumer.put(P0, 5)
    world.consumer.put(P1, 5)
    async with world.running():
        await until(lambda: world.consumer.polled == 2)
        world.consumer.assigned = {P1}
        world.writer.gate.set()
        await until(lambda: world.consumer.commits)
    assert world.consumer.commits == [{P1: 6}]


async def test_a_rebalance_right_after_a_commit_does_not_stop_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_assigned(_partition: TopicPartition) -> int:
        raise AssertionError("Partition is not assigned")  # as aiokafka's consumer does

    world = World()
    monkeypatch.setattr(world.consumer, "highwater", not_assigned)
    world.consumer.put(P0, 5)
    async with world.running():
        await until(lambda: world.consumer.commits)
        world.consumer.put(P0, 6)
        await until(lambda: len(world.consumer.commits) == 2)


async def test_a_failed_commit_does_not_stop_the_sink() -> None:
    world = World()
    world.consumer.commit_error = CommitFailedError()
    world.consumer.put(P0, 5)
    async with world.running():
        await until(lambda: world.writer.written)
        world.consumer.commit_error = None
        world.consumer.put(P0, 6)
        await until(lambda: world.consumer.commits == [{P0: 7}])


async def test_a_failed_commit_is_repeated_even_if_no_more_records_arrive() -> None:
    world = World()
    world.consumer.commit_error = KafkaConnectionError()
    world.consumer.put(P0, 5, 6)
    async with world.running():
        await until(lambda: world.writer.written)
        await asyncio.sleep(0.05)
        world.consumer.commit_error = None
        await until(lambda: world.consumer.commits)
    assert world.consumer.commits == [{P0: 7}]


async def test_records_read_again_after_a_rebalance_need_no_earlier_commit() -> None:
    world = World()
    world.consumer.commit_error = KafkaConnectionError()
    world.consumer.put(P0, 5, 6)
    async with world.running():
        await until(lambda: world.writer.written)
        await asyncio.sleep(0.05)
        await world.consumer.listener.on_partitions_assigned([P0, P1])
        world.consumer.commit_error = None
        world.consumer.put(P1, 40)
        await until(lambda: world.consumer.commits)
    assert world.consumer.commits == [{P1: 41}]


async def test_the_sink_waits_for_a_broker_that_is_down_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spendstream.sinks.kafka_sink._RETRY_S", 0.01)
    world = World()
    world.consumer.starts_to_fail = 3
    world.consumer.put(P0, 5)
    async with world.running():
        await until(lambda: world.consumer.commits)


async def test_stop_abandons_an_insert_that_does_not_end() -> None:
    world = World()
    world.writer.gate.clear()
    world.consumer.put(P0, 5)
    async with asyncio.timeout(60), world.running():
        await until(lambda: world.consumer.polled == 1)
        await asyncio.sleep(0.05)
    assert world.consumer.commits == []


async def test_records_deleted_before_they_were_inserted_are_reported() -> None:
    world = World()
    async with world.running():
        await until(lambda: hasattr(world.consumer, "listener"))
        await world.consumer.listener.on_partitions_assigned([P0, P1])
        world.consumer.put(P0, 9, 10)  # 5 is committed: 5 to 8 are gone
        world.consumer.put(P1, 70)  # nothing was ever committed here
        await until(lambda: world.consumer.commits)
    assert world.seen.lost == 4


def test_repeated_offsets_and_a_recreated_topic_are_not_gaps() -> None:
    gaps = Gaps()
    gaps.expect(P0, 10)
    assert gaps.skipped(P0, 10, 19) == 0
    assert gaps.skipped(P0, 20, 29) == 0
    assert gaps.skipped(P0, 15, 29) == 0
    assert gaps.skipped(P0, 0, 4) == 0
    assert gaps.skipped(P0, 6, 6) == 1
