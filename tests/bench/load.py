"""The load of the benchmarks: realistic usage events of about 414 bytes, put into Kafka before the clock starts."""

import json
import random
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaProducer

SERVICES = [f"service-{i}" for i in range(8)]
FEATURES = [f"feature-{i}" for i in range(12)]
TEAMS = ["search", "support", "growth", "core", "labs"]
MODELS = [
    ("openai", "gpt-4o-2024-08-06"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-sonnet-4-5"),
    ("google", "gemini-2.5-flash"),
]
_TEMPLATES = 4096


def events(count: int, seed: int = 7, spread_s: float = 120.0) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of so many distinct events, in order over the last ``spread_s`` seconds."""
    choose = random.Random(seed)
    start = datetime.now(UTC) - timedelta(seconds=spread_s)
    templates = [_template(choose) for _ in range(_TEMPLATES)]
    step = spread_s / max(count, 1)
    for i in range(count):
        at = (start + timedelta(seconds=i * step)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        event_id = str(uuid.UUID(int=choose.getrandbits(128), version=4))
        yield (
            event_id.encode(),
            b'{"event_id":"%s","occurred_at":"%sZ",%s'
            % (
                event_id.encode(),
                at.encode(),
                templates[choose.randrange(_TEMPLATES)],
            ),
        )


def _template(choose: random.Random) -> bytes:
    """A value's text behind its id and time. Attribution follows the service, as it does in a company."""
    service = choose.randrange(len(SERVICES))
    provider, model = choose.choice(MODELS)
    rest = {
        "service": SERVICES[service],
        "team": TEAMS[service % len(TEAMS)],
        "feature": FEATURES[(service + choose.randrange(3)) % len(FEATURES)],
        "customer": f"customer-{int(choose.paretovariate(1.1)) % 300}",
        "environment": "production",
        "provider": provider,
        "model_requested": model,
        "model_served": model,
        "region": "us-east-1",
        "latency_ms": choose.randrange(200, 9000),
        "input_tokens": choose.randrange(50, 6000),
        "cache_read_tokens": choose.randrange(0, 3000),
        "output_tokens": choose.randrange(1, 900),
        "reasoning_tokens": choose.choice([0, 0, choose.randrange(2000)]),
        "task_id": f"task-{choose.randrange(10**6)}",
    }
    return json.dumps(rest, separators=(",", ":")).encode()[1:]


async def preload(bootstrap: str, topic: str, partitions: int, records: Iterator[tuple[bytes, bytes]]) -> float:
    """Publish records round robin over the partitions, packed. Returns the seconds it took."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=512_000)
    await producer.start()
    started = time.perf_counter()
    try:
        batches = [producer.create_batch() for _ in range(partitions)]
        futures = []
        for i, (key, value) in enumerate(records):
            at = i % partitions
            if batches[at].append(key=key, value=value, timestamp=None) is None:
                futures.append(await producer.send_batch(batches[at], topic, partition=at))
                batches[at] = producer.create_batch()
                batches[at].append(key=key, value=value, timestamp=None)
        for at, batch in enumerate(batches):
            if batch.record_count():
                futures.append(await producer.send_batch(batch, topic, partition=at))
        for future in futures:
            await future
    finally:
        await producer.stop()
    return time.perf_counter() - started
