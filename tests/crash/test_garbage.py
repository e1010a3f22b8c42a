"""Records in the internal topics that spendstream can't read: skipped, counted, and nothing counts wrong."""

import asyncio
import re
import time
import urllib.request
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from spendstream.schemas import topics
from tests.crash.workload import Workload
from tests.crash.world import World

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(400)]

GARBAGE: list[bytes] = [
    b"garbage",
    b"",
    b"{}",
    b"[" * 50_000,
    b"\xff\xfe\x00",
    b'{"partition": 0}\n' + b"x" * 15,
    b'{"through_offset":' + b"9" * 5_000 + b",}",
    b'{"source_log":"0-0","source_partition":0,"minute":"2026-03-04T12:00:00Z","dimensions":{},"first_offset":0,'
    b'"through_offset":0,"calls":1,"first_event_at":"2026-03-04T12:00:00Z","last_event_at":"2026-03-04T12:00:00Z",'
    b'"cost_usd":"0E-999999999"}',
    b'{"format":3,"number":9999,"chunks":1,"unpacked_bytes":1,"digest":"0","clock_us":0,"rollup_offsets":{},'
    b'"alert_offsets":{}}',
]
INTERNAL = (topics.PROGRESS, topics.ROLLUP, topics.RATE_BOOK, topics.RATE_CARD, topics.ALERT, topics.DETECT_STATE,
            topics.SILENCE, topics.PRICED, topics.DEAD_LETTER)  # fmt: skip


async def spoil(world: World) -> None:
    """Write garbage behind what is there, with several keys, to every partition of every internal topic."""
    producer = AIOKafkaProducer(bootstrap_servers=world.kafka.bootstrap, acks="all")
    await producer.start()
    try:
        for topic in map(world.settings.topic, INTERNAL):
            for partition in sorted(await producer.partitions_for(topic)):
                for number, value in enumerate(GARBAGE):
                    for key in (b"key", b"a/manifest", b"%d" % number):
                        await producer.send_and_wait(topic, value, key=key, partition=partition)
    finally:
        await producer.stop()


def unreadable(world: World) -> dict[str, float]:
    """Return what the worker counts, by topic."""
    log = world.workers[0].log_path.read_text()
    (address, *_) = re.findall(r"http://127\.0\.0\.1:\d+", log)
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'spendstream_unreadable_records_total\{topic="([^"]+)"\} (\S+)', text)
    return {topic: float(count) for topic, count in found}


@pytest.mark.parametrize("dies", ["stopped", "killed"])
def test_garbage_in_the_internal_topics_changes_no_number(tmp_path: Path, dies: str) -> None:
    workload = Workload(seed=70)
    with World(tmp_path) as world:
        world.keep_running(1)
        world.publish(workload, seconds=2, per_second=500)
        world.drained(workload)
        if dies == "killed":
            world.publish(workload, seconds=1, per_second=500)
            world.workers[0].kill()
        else:
            world.workers[0].stop(timeout_s=20)
        asyncio.run(spoil(world))
        world.keep_running(1)
        world.publish(workload, seconds=2, per_second=500)
        asyncio.run(spoil(world))  # while it runs, too
        world.publish(workload, seconds=2, per_second=500)
        # what the sinks can't read is in the table of dead letters too, under its own topic
        deadline = time.monotonic() + 120
        usage = world.settings.topic(topics.USAGE)
        expected = (len(workload.truth.cost_by_id), workload.truth.dead_letters)
        counts: tuple[int, ...] = ()
        while counts != expected:
            assert time.monotonic() < deadline, f"{counts}, expected {expected}\n{world.logs()}"
            time.sleep(1)
            ledger, rollups, _ = world.counts()
            ((letters,),) = world.query(f"SELECT count() FROM spendstream.dead_letters FINAL WHERE topic = '{usage}'")
            counts = (ledger, letters) if ledger == rollups else ()
        world.assert_exact(workload)
        assert [worker.is_running() for worker in world.workers] == [True]
        log = world.workers[0].log_path.read_text()
        assert "agent.failed" not in log
        assert unreadable(world).keys() >= {world.settings.topic(topics.PROGRESS), world.settings.topic(topics.ROLLUP)}
