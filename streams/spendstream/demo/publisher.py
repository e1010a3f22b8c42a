"""The demo's services: publish realistic traffic, first some minutes of history at once, then in real time.

    python -m spendstream.demo.publisher --rate 2000 --history 1020 --incidents all --status FILE

Where Kafka is comes from the environment. FILE has one JSON object, replaced each second, that counts what Kafka has
acknowledged, and the incidents that have begun; its `is_done` is true once everything is, after SIGTERM.
"""

import argparse
import asyncio
import signal
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaProducer
from pydantic import TypeAdapter

from spendstream.demo.generator import Publication, Traffic
from spendstream.demo.incidents import Incident
from spendstream.demo.programme import STAGES, Playing, Programme
from spendstream.schemas import topics
from spendstream.settings import Settings

_TICK_S: Final = 0.1
_STATUS_INTERVAL_S: Final = 0.5
_LONGEST_SLICE_S: Final = 1.0
_HISTORY_TAKES_S: Final = 480.0
"""A machine that has not caught up with the clock by then never may at this rate: a gap is left."""


@dataclass(frozen=True)
class PublisherStatus:
    """What was published and acknowledged: each event once, its repetitions, and the records that are broken.

    ``history_s``: of the past, what is still to be published; None once the traffic is live. ``history_events``: the
    events before that. ``incidents``: those that have begun.
    """

    events: int = 0
    duplicates: int = 0
    malformed: int = 0
    is_done: bool = False
    history_s: float | None = 0.0
    history_events: int = 0
    incidents: tuple[Incident, ...] = ()

    @property
    def published(self) -> int:
        """Records in all."""
        return self.events + self.duplicates + self.malformed


_STATUS: Final = TypeAdapter(PublisherStatus)


def read_status(path: Path) -> PublisherStatus:
    """Return what the publisher told last; all zero where it told nothing yet."""
    try:
        return _STATUS.validate_json(path.read_text())
    except FileNotFoundError:
        return PublisherStatus()


@dataclass
class Publisher:
    """Publishes a traffic's slices, and tells how far it is. ``stop``: set from outside, ends it in order."""

    settings: Settings
    traffic: Traffic
    status_path: Path
    stop: asyncio.Event
    producer: AIOKafkaProducer
    told: float = 0.0
    history_events: int = 0

    async def history(self, start: datetime) -> datetime:
        """Publish the traffic since ``start`` as fast as Kafka takes it.

        Returns the time that it has come to: now, but for a slice, or earlier on a machine that is too slow.
        """
        at, until = start, time.monotonic() + _HISTORY_TAKES_S
        while not self.stop.is_set() and time.monotonic() < until:
            left = datetime.now(UTC) - at
            if left < timedelta(seconds=_LONGEST_SLICE_S):
                break
            at += timedelta(seconds=_LONGEST_SLICE_S)
            await self._send(self.traffic.slice(at, _LONGEST_SLICE_S))
            self.tell(PublisherStatus(history_s=left.total_seconds()))
        self.history_events = self.traffic.expected.events
        return at

    async def live(self, last: datetime, playing: Playing) -> None:
        """Publish in real time.

        A slice that took too long to make shortens the traffic (a gap), it never makes a burst.
        """
        while not self.stop.is_set():
            await _pause(self.stop, _TICK_S)
            now = datetime.now(UTC)
            for incident in playing.begin(now):
                self.traffic.befall(incident)
            seconds = min(_LONGEST_SLICE_S, (now - last) / timedelta(seconds=1))
            if seconds > 0:
                last = now
                await self._send(self.traffic.slice(now, seconds))
            self.tell(PublisherStatus(history_s=None, incidents=tuple(playing.begun)))

    def tell(self, status: PublisherStatus) -> None:
        """Write the status, with the counts as they are, unless it was written just now or all is done."""
        if not status.is_done and time.monotonic() - self.told < _STATUS_INTERVAL_S:
            return
        self.told = time.monotonic()
        counts = self.traffic.expected
        full = replace(
            status,
            events=counts.events,
            duplicates=counts.duplicates,
            malformed=counts.malformed,
            history_events=self.history_events,
        )
        draft = self.status_path.with_name(f"{self.status_path.name}.new")
        draft.write_bytes(_STATUS.dump_json(full))
        draft.replace(self.status_path)

    async def _send(self, publications: list[Publication]) -> None:
        topic = self.settings.topic(topics.USAGE)
        sent = [await self.producer.send(topic, value=each.value, key=each.key) for each in publications]
        await asyncio.gather(*sent)


async def publish(
    settings: Settings,
    rate_per_s: float,
    seed: int,
    status_path: Path,
    stop: asyncio.Event,
    *,
    history_s: float = 0.0,
    programme: Programme | None = None,
) -> None:
    """Publish until ``stop`` is set and everything is acknowledged.

    The events of the first ``history_s`` occurred before this began. The programme's times count from when the
    traffic is live.
    """
    start = datetime.now(UTC) - timedelta(seconds=history_s)
    traffic = Traffic(seed, rate_per_s, start)
    producer = AIOKafkaProducer(**settings.kafka_client(), acks="all", linger_ms=5, compression_type="lz4")
    await producer.start()
    publisher = Publisher(settings, traffic, status_path, stop, producer)
    publisher.tell(PublisherStatus(history_s=history_s))
    try:
        last = await publisher.history(start)
        playing = Playing(programme, datetime.now(UTC))
        await publisher.live(last, playing)
    finally:
        await producer.stop()
    publisher.tell(PublisherStatus(history_s=None, incidents=tuple(playing.begun), is_done=True))


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    kinds = options.incidents
    programme = None if kinds == "none" else Programme(only=None if kinds == "all" else kinds)
    await publish(
        Settings(),
        options.rate,
        options.seed,
        options.status,
        stop,
        history_s=options.history,
        programme=programme,
    )


def main() -> None:
    """Parse the arguments and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m spendstream.demo.publisher", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rate", type=float, default=2000.0, help="records a second")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same traffic")
    parser.add_argument("--status", type=Path, required=True, help="file that receives the counts")
    parser.add_argument("--history", type=float, default=0.0, help="seconds of the past to publish first, at once")
    parser.add_argument("--incidents", choices=("all", "none", *STAGES), default="none", help="what goes wrong")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
