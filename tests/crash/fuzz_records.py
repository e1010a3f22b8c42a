"""Hostile records through a real worker, each accounted for: `python -m tests.crash.fuzz_records` (`make fuzz`)."""

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from aiokafka import AIOKafkaProducer

from spendstream.schemas import topics
from tests.crash.hostile import MAX_RECORD_BYTES, Hostile, Sent
from tests.crash.test_memory import peak_kb
from tests.crash.world import World

CHUNK: int = 12_500
"""Fuzzed records of one step, and as many good ones."""

CODECS = (None, "gzip", "zstd", "lz4", "snappy")
MIDDLING = 400_000


async def publish(world: World, hostile: Hostile, records: int, seed: int) -> Counter[str]:
    """Publish so many records. Returns how many of them must become dead letters, by reason."""
    dice = random.Random(seed)
    expected: Counter[str] = Counter()
    sent = 0
    while sent < records:
        step = [*hostile.records(fuzzed=CHUNK, good=CHUNK), *hostile.beyond_the_topic()]
        sizes = [len(record.value or b"") + len(record.key or b"") for record in step]
        await _send(world, [r for r, size in zip(step, sizes, strict=True) if size < MIDDLING], dice.choice(CODECS))
        # noise doesn't compress, and fits the topic just so; what is larger fits because it compresses
        middling = [r for r, size in zip(step, sizes, strict=True) if MIDDLING <= size <= MAX_RECORD_BYTES]
        await _send(world, middling, None)
        await _send(world, [r for r, size in zip(step, sizes, strict=True) if size > MAX_RECORD_BYTES], "gzip")
        expected.update(str(r.reason) for r in step if r.reason is not None)
        sent += len(step)
        _say(f"{sent:,} published")
    return expected


async def _send(world: World, records: list[Sent], codec: str | None) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=world.kafka.bootstrap, acks="all", linger_ms=20, compression_type=codec,
        max_batch_size=500_000, max_request_size=200_000_000,
    )  # fmt: skip
    await producer.start()
    try:
        topic = world.settings.topic(topics.USAGE)
        sent = [await producer.send(topic, r.value, key=r.key, timestamp_ms=r.timestamp_ms) for r in records]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def run(records: int, seed: int, folder: Path) -> str:
    """Return what happened. Raises: AssertionError, where a record is not accounted for or the worker has died."""
    hostile = Hostile(seed)
    with World(folder) as world:
        world.keep_running(1)
        (worker,) = world.workers
        started = time.monotonic()
        expected = asyncio.run(publish(world, hostile, records, seed))
        bad = sum(expected.values())
        goal = (hostile.calls, hostile.calls, bad)
        deadline, before, counts = time.monotonic() + 120, (), ()
        while counts != goal:
            assert worker.is_running(), world.logs()
            assert time.monotonic() < deadline, f"{counts}, expected {goal}\n{world.logs()}"
            time.sleep(1)
            counts = world.counts()
            if counts != before:
                deadline, before = time.monotonic() + 120, counts
        found = dict(world.query("SELECT reason, count() FROM spendstream.dead_letters FINAL GROUP BY reason"))
        assert found == dict(expected), f"{found}, expected {dict(expected)}"
        ((tokens,),) = world.query("SELECT toInt64(sum(total_tokens)) FROM spendstream.calls_v")
        assert tokens == hostile.tokens
        assert world.workers == [worker]
        assert worker.is_running()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.items()))
        return (
            f"{hostile.calls + bad:,} published = {hostile.calls:,} metered + {bad:,} dead letters ({reasons}); "
            f"{time.monotonic() - started:.0f} s, the worker's peak {peak_kb(worker.pid) // 1000} MB"
        )


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the options and fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.fuzz_records", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    parser.add_argument("--seed", type=int, help="of the records (default: a new one)")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    _say(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{seed}-"))
    _say(run(options.records, seed, folder))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
