"""A backlog that compresses a thousandfold: the worker's memory stays bounded, and everything is metered."""

import asyncio
import json
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from spendstream.schemas import topics
from tests.crash.world import World

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

EVENTS_A_BATCH = 60
EVENT_BYTES = 900_000
MAX_RESIDENT_KB = 1_000_000
"""Seen: 700 MB, of which a worker at rest with four partitions has half."""

JUNK: list[bytes] = [
    b" " * 6_000_000,
    b"[" * 3_000_000,
    b'{"service":"' + b"x" * 30_000_000,
]


def event() -> bytes:
    fields = {
        "event_id": str(uuid.uuid4()),
        "occurred_at": datetime.now(UTC).isoformat(),
        "service": "padded",
        "provider": "acme",
        "model_served": "small",
        "input_tokens": 7,
    }
    return json.dumps(fields).encode().ljust(EVENT_BYTES)


async def publish(world: World, codec: str, batches: int, records: list[bytes]) -> int:
    """Publish batches of padded events, and records each in a batch of its own. Returns how many events."""
    producer = AIOKafkaProducer(
        bootstrap_servers=world.kafka.bootstrap, acks="all", compression_type=codec, linger_ms=0,
        max_batch_size=100_000_000, max_request_size=100_000_000,
    )  # fmt: skip
    await producer.start()
    topic, partitions = world.settings.topic(topics.USAGE), world.settings.kafka_partitions
    try:
        for number in range(batches):
            batch = producer.create_batch()
            for _ in range(EVENTS_A_BATCH):
                assert batch.append(key=b"key", value=event(), timestamp=None) is not None
            await (await producer.send_batch(batch, topic, partition=number % partitions))
        for number, value in enumerate(records):
            await producer.send_and_wait(topic, value, key=b"key", partition=number % partitions)
    finally:
        await producer.stop()
    return batches * EVENTS_A_BATCH


def peak_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@pytest.mark.parametrize(("codec", "session_s"), [("gzip", "1"), ("zstd", "10")])
def test_memory_is_bounded_whatever_a_backlog_expands_to(tmp_path: Path, codec: str, session_s: str) -> None:
    with World(tmp_path, KAFKA_SESSION_TIMEOUT_S=session_s) as world:
        expected = asyncio.run(publish(world, codec, batches=40, records=JUNK * 4))
        world.keep_running(1)
        (worker,) = world.workers
        deadline = time.monotonic() + 400
        counts: tuple[int, ...] = ()
        while counts != (expected, expected, len(JUNK) * 4):
            assert time.monotonic() < deadline, f"{counts}\n{world.logs()}"
            assert worker.is_running(), world.logs()
            time.sleep(1)
            counts = world.counts()
        assert peak_kb(worker.pid) < MAX_RESIDENT_KB
