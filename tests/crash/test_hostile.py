"""Hostile records among good ones: each bad one a dead letter with its reason and its bytes, the worker unharmed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from spendstream.kafka.consumer import end_offsets
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import DeadLetter
from tests.crash.cli import json_lines, run_cli
from tests.crash.hostile import Hostile, Sent
from tests.crash.world import World

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

At = tuple[int, int]
"""Partition and offset."""
Verdict = tuple[str, bytes, bytes | None]
"""Reason, original bytes, key."""


async def send(world: World, records: list[Sent]) -> dict[At, Sent]:
    """Publish records; return where each of them stands."""
    producer = AIOKafkaProducer(
        bootstrap_servers=world.kafka.bootstrap, acks="all", linger_ms=5, max_request_size=2_000_000
    )
    await producer.start()
    try:
        topic = world.settings.topic(topics.USAGE)
        futures = [await producer.send(topic, r.value, key=r.key, timestamp_ms=r.timestamp_ms) for r in records]
        stored = await asyncio.gather(*futures)
    finally:
        await producer.stop()
    return {(at.partition, at.offset): record for at, record in zip(stored, records, strict=True)}


async def dead_letters_in_kafka(world: World) -> list[DeadLetter]:
    topic = world.settings.topic(topics.DEAD_LETTER)
    partitions = [TopicPartition(topic, number) for number in range(world.settings.kafka_partitions)]
    expected = sum((await end_offsets({"bootstrap_servers": world.kafka.bootstrap}, partitions)).values())
    consumer = AIOKafkaConsumer(bootstrap_servers=world.kafka.bootstrap, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    try:
        consumer.assign(partitions)
        letters: list[DeadLetter] = []
        async with asyncio.timeout(90):
            while len(letters) < expected:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    letters += [DeadLetter.model_validate_json(record.value) for record in batch]
        return letters
    finally:
        await consumer.stop()


def dead_letters_in_clickhouse(world: World) -> dict[At, Verdict]:
    rows = world.query("SELECT partition, offset, reason, hex(original), hex(key) FROM spendstream.dead_letters_v")
    return {
        (partition, offset): (reason, bytes.fromhex(original), None if key is None else bytes.fromhex(key))
        for partition, offset, reason, original, key in rows
    }


def assert_same(found: dict[At, Verdict], expected: dict[At, Verdict]) -> None:
    """Compare without printing megabytes."""
    assert found.keys() == expected.keys()
    differing = [(found[at][0], expected[at][0], expected[at][1][:120]) for at in expected if found[at] != expected[at]]
    assert not differing, differing[:5]


def test_every_hostile_record_becomes_its_dead_letter_and_every_good_one_is_counted(tmp_path: Path) -> None:
    hostile = Hostile(seed=21)
    with World(tmp_path) as world:
        world.keep_running(1)
        (worker,) = world.workers
        sent: dict[At, Sent] = {}
        for _ in range(2):  # small batches, and with the worker busy larger ones: every reader gets its share
            sent |= asyncio.run(send(world, hostile.records(fuzzed=60, good=20)))
            sent |= asyncio.run(send(world, hostile.records(fuzzed=600, good=1500)))
        (drained,) = json_lines(run_cli("drain", "--timeout", "60", "--json", env=world.environment))
        assert drained["ok"] is True, world.logs()

        assert worker.is_running()
        assert world.workers == [worker]
        assert "Traceback" not in worker.log_path.read_text()
        bad = {at: record for at, record in sent.items() if record.reason is not None}
        expected: dict[At, Verdict] = {
            at: (str(record.reason), record.value or b"", record.key) for at, record in bad.items()
        }
        letters = asyncio.run(dead_letters_in_kafka(world))
        assert len(letters) == len(expected), "one dead letter each"
        assert_same({(x.partition, x.offset): (x.reason.value, x.original, x.key) for x in letters}, expected)
        assert_same(dead_letters_in_clickhouse(world), expected)
        assert counted(world, "spend_1m", "sum(calls)") == (hostile.calls, hostile.tokens)
        assert counted(world, "calls_v", "count()") == (hostile.calls, hostile.tokens)
        *_, verdict = json_lines(run_cli("reconcile", "--json", env=world.environment))
        assert verdict["ok"] is True


def counted(world: World, view: str, calls: str) -> tuple[Any, ...]:
    return world.query(f"SELECT toInt64({calls}), toInt64(sum(total_tokens)) FROM spendstream.{view}")[0]
