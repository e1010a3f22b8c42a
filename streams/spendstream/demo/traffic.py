"""Publish the demo's traffic to a real Kafka, until stopped: ``python -m spendstream.demo.traffic --rate 200``."""

import argparse
import asyncio
import contextlib
import os
import signal
from datetime import UTC, datetime

import structlog
from aiokafka import AIOKafkaProducer

from spendstream.demo.generator import Traffic
from spendstream.demo.programme import HISTORY_S, Playing, Programme
from spendstream.schemas import topics
from spendstream.settings import Settings

log = structlog.get_logger(__name__)

SLICE_S = 0.1
_REPORT_S = 10.0


PROGRAMME = Programme(first_after_s=HISTORY_S, lasts_s=180, calm_s=300)
"""The first incident once the baselines know the traffic; then one each eight minutes."""


async def publish_traffic(
    settings: Settings,
    rate_per_s: float,
    stopping: asyncio.Event,
    *,
    seed: int = 0,
    programme: Programme | None = None,
) -> Traffic:
    """Publish ``rate_per_s`` records a second until ``stopping`` is set. Returns the traffic: what was to be counted.

    ``programme``: what goes wrong in it; None: nothing.
    Every record is acknowledged before this returns. Raises: aiokafka's KafkaError, where Kafka stays away.
    """
    producer = AIOKafkaProducer(**settings.kafka_client(), acks="all", linger_ms=20)
    await producer.start()
    through = reported_at = datetime.now(UTC)
    traffic = Traffic(seed, rate_per_s, through)
    playing = Playing(programme, through)
    try:
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), SLICE_S)
            now = datetime.now(UTC)
            if now <= through:
                continue  # the host's clock was set back: wait until it has caught up
            for incident in playing.begin(now):
                traffic.befall(incident)
                log.info(
                    "traffic.incident", kind=incident.kind, feature=incident.feature, ends_at=str(incident.ends_at)
                )
            made = traffic.slice(now, (now - through).total_seconds())
            through = now
            sent = [await producer.send(settings.topic(topics.USAGE), p.value, key=p.key) for p in made]
            await asyncio.gather(*sent)
            if (now - reported_at).total_seconds() >= _REPORT_S:
                reported_at = now
                log.info("traffic.published", records=traffic.published)
    finally:
        await producer.stop()
    return traffic


async def _main(rate_per_s: float, programme: Programme | None) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # another seed each time: the same one would publish known event ids, and they would all count as duplicates
    seed = int.from_bytes(os.urandom(4), "big")
    await publish_traffic(Settings(), rate_per_s, stopping, seed=seed, programme=programme)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200, help="records a second")
    parser.add_argument(
        "--incidents", action=argparse.BooleanOptionalAction, default=True, help="let things go wrong in turn"
    )
    options = parser.parse_args()
    asyncio.run(_main(options.rate, PROGRAMME if options.incidents else None))
