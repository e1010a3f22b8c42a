"""(c) From the acknowledgement of a published event until its rollup answers a query."""

import asyncio
import tempfile
import threading
import time
from pathlib import Path

from aiokafka import AIOKafkaProducer

from spendstream.schemas import topics
from tests.bench.load import events
from tests.crash.world import World

_MARK_EVERY_S = 0.1


def measure_latency(per_second: int, seconds: float) -> str:
    """Publish at a steady rate; every 100 ms one event has a feature of its own, and is looked for in ``spend_1m``.

    The first ten seconds are warm-up. Returns a sentence with the percentiles, in seconds.
    """
    settings = {"METER_DIMENSIONS": "service,team,feature,environment,provider,model", "RATE_CARDS": ""}
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), LOG_LEVEL="warning", **settings) as world:
        world.start_worker()
        sent: dict[str, float] = {}
        seen: dict[str, float] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(world, seen, stop), daemon=True)
        watcher.start()
        asyncio.run(_publish(world.kafka.bootstrap, per_second, seconds, sent))
        deadline = time.monotonic() + 20
        while len(seen) < len(sent) and time.monotonic() < deadline:
            time.sleep(0.1)
        stop.set()
        watcher.join(timeout=10)
    first = min(sent.values()) + 10
    lags = sorted(seen[mark] - at for mark, at in sent.items() if at >= first and mark in seen)
    missing = sum(1 for mark, at in sent.items() if at >= first and mark not in seen)
    at = lambda share: lags[min(len(lags) - 1, int(share * len(lags)))]  # noqa: E731
    return (
        f"At {per_second:,} events/s, from an event's acknowledgement until its rollup answers a query, over "
        f"{len(lags)} marked events ({missing} not seen): p50 {at(0.5):.2f} s, p90 {at(0.9):.2f} s, "
        f"p99 {at(0.99):.2f} s, worst {lags[-1]:.2f} s. The query itself polls every 50 ms and is included."
    )


def _watch(world: World, seen: dict[str, float], stop: threading.Event) -> None:
    client = world.client()
    while not stop.is_set():
        rows = client.query("SELECT DISTINCT feature FROM spendstream.rollups_1m WHERE startsWith(feature, 'mark-')")
        now = time.monotonic()
        for (mark,) in rows.result_rows:
            seen.setdefault(mark, now)
        time.sleep(0.05)


async def _publish(bootstrap: str, per_second: int, seconds: float, sent: dict[str, float]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, max_batch_size=131_072)
    await producer.start()
    try:
        for step in range(int(seconds / _MARK_EVERY_S)):
            started = time.monotonic()
            records = list(events(int(per_second * _MARK_EVERY_S), seed=step, spread_s=1.0))
            mark = f"mark-{step}"
            key, value = records[-1]
            at = value.index(b'"feature":"')
            end = value.index(b'"', at + 11)
            records[-1] = (key, value[: at + 11] + mark.encode() + value[end:])
            futures = [await producer.send(topics.USAGE, value, key=key) for key, value in records]
            await futures[-1]
            sent[mark] = time.monotonic()
            await asyncio.sleep(max(0.0, _MARK_EVERY_S - (time.monotonic() - started)))
    finally:
        await producer.stop()
