"""The demo's services: publish realistic traffic in real time, until SIGTERM.

    python -m infra.demo.publisher --rate 2000 --status FILE

Where Kafka is comes from the environment. FILE has one JSON object, replaced each second, that counts what Kafka has
acknowledged; its `is_done` is true once everything is.
"""

import argparse
import asyncio
import json
import signal
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaProducer

from infra.demo.generator import Publication, Traffic
from schemas import topics
from streams.settings import Settings

_TICK_S: Final = 0.1
_STATUS_INTERVAL_S: Final = 0.5
_LONGEST_SLICE_S: Final = 1.0


@dataclass(frozen=True)
class PublisherStatus:
    """What was published and acknowledged: each event once, its repetitions, and the records that are broken."""

    events: int = 0
    duplicates: int = 0
    malformed: int = 0
    is_done: bool = False

    @property
    def published(self) -> int:
        """Records in all."""
        return self.events + self.duplicates + self.malformed


def read_status(path: Path) -> PublisherStatus:
    """Return what the publisher told last; all zero where it told nothing yet."""
    try:
        return PublisherStatus(**json.loads(path.read_text()))
    except FileNotFoundError:
        return PublisherStatus()


async def publish(settings: Settings, rate_per_s: float, seed: int, status_path: Path, stop: asyncio.Event) -> None:
    """Publish until ``stop`` is set and everything is acknowledged.

    A slice that took too long to make shortens the traffic (a gap), it never makes a burst.
    """
    last = datetime.now(UTC)
    traffic = Traffic(seed, rate_per_s, last)
    topic = settings.topic(topics.USAGE)
    producer = AIOKafkaProducer(**settings.kafka_client(), acks="all", linger_ms=5, compression_type="lz4")
    await producer.start()
    told = 0.0
    try:
        while not stop.is_set():
            await _pause(stop, _TICK_S)
            now = datetime.now(UTC)
            seconds = min(_LONGEST_SLICE_S, (now - last) / timedelta(seconds=1))
            last = now
            if seconds > 0:
                await _send(producer, topic, traffic.slice(now, seconds))
            if time.monotonic() - told > _STATUS_INTERVAL_S:
                told = time.monotonic()
                _tell(status_path, traffic, is_done=False)
    finally:
        await producer.stop()
    _tell(status_path, traffic, is_done=True)


async def _send(producer: AIOKafkaProducer, topic: str, publications: list[Publication]) -> None:
    sent = [await producer.send(topic, value=each.value, key=each.key) for each in publications]
    await asyncio.gather(*sent)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


def _tell(path: Path, traffic: Traffic, *, is_done: bool) -> None:
    expected = traffic.expected
    status = PublisherStatus(expected.events, expected.duplicates, expected.malformed, is_done)
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps(asdict(status)))
    draft.replace(path)


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await publish(Settings(), options.rate, options.seed, options.status, stop)


def main() -> None:
    """Parse the arguments and publish."""
    parser = argparse.ArgumentParser(prog="python -m infra.demo.publisher", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rate", type=float, default=2000.0, help="records a second")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same traffic")
    parser.add_argument("--status", type=Path, required=True, help="file that receives the counts")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
