"""The demo's services: publish realistic usage, first some minutes of history at once, then in real time.

    python -m spendstream.demo.publisher --rate 300 --history 1020 --incidents all --status FILE
    python -m spendstream.demo.publisher --rate 200 --seed random --incidents all --first-after 1020

The environment says where Kafka is. FILE holds one JSON object, replaced twice a second: the counts that Kafka has
acknowledged, and the incidents that have begun. Its ``is_done`` is true after SIGTERM, once every record is
acknowledged.
"""

import argparse
import asyncio
import os
import signal
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from pydantic import TypeAdapter

from spendstream.demo.generator import Publication, Traffic
from spendstream.demo.scenario import STAGES, Incident, Player, Timeline
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.waiting import sleep_unless_stopped

log = structlog.get_logger(__name__)

_TICK_S: Final = 0.1
_STATUS_INTERVAL_S: Final = 0.5
_LOG_INTERVAL_S: Final = 10.0
_MAX_SLICE_S: Final = 1.0
_HISTORY_SLICE_S: Final = 10.0
"""Each slice waits for Kafka's acknowledgement: long slices load the past sooner."""

_MAX_HISTORY_TAKES_S: Final = 120.0
"""A machine that has not caught up with the clock by then may never do so at this rate: a gap is left."""


@dataclass(frozen=True)
class PublisherStatus:
    """What Kafka has acknowledged: each event once, its repetitions, and the malformed records.

    ``history_s``: seconds of the past that are still to be published; None once the traffic is live. ``loaded_s``:
    those that are. ``history_events``: the events of the past. ``incidents``: those that have begun.
    """

    events: int = 0
    duplicates: int = 0
    malformed: int = 0
    is_done: bool = False
    history_s: float | None = 0.0
    loaded_s: float = 0.0
    history_events: int = 0
    incidents: tuple[Incident, ...] = ()

    @property
    def published(self) -> int:
        """Records in all."""
        return self.events + self.duplicates + self.malformed


_STATUS: Final = TypeAdapter(PublisherStatus)


def read_status(path: Path) -> PublisherStatus:
    """Return the publisher's latest status; all zero before it has written one."""
    try:
        return _STATUS.validate_json(path.read_text())
    except FileNotFoundError:
        return PublisherStatus()


@dataclass
class Publisher:
    """Publishes slices of traffic and reports progress. Setting ``stop`` ends it in order.

    ``status_path``: None writes no status file; a log line every 10 seconds says how much was published.
    """

    settings: Settings
    traffic: Traffic
    status_path: Path | None
    stop: asyncio.Event
    producer: AIOKafkaProducer
    reported: float = 0.0
    loaded_s: float = 0.0
    history_events: int = 0

    async def history(self, start: datetime) -> datetime:
        """Publish the traffic since ``start`` as fast as Kafka takes it.

        Returns the time up to which traffic is published: now, less a slice, or earlier on a machine that is too slow.
        """
        at, until = start, time.monotonic() + _MAX_HISTORY_TAKES_S
        while not self.stop.is_set() and time.monotonic() < until:
            left_s = (datetime.now(UTC) - at).total_seconds()
            if left_s < _MAX_SLICE_S:
                break
            slice_s = min(_HISTORY_SLICE_S, left_s)
            at += timedelta(seconds=slice_s)
            await self._send(self.traffic.slice(at, slice_s))
            self.loaded_s = (at - start).total_seconds()
            self.report(PublisherStatus(history_s=left_s))
        self.history_events = self.traffic.expected.events
        return at

    async def live(self, last: datetime, player: Player) -> None:
        """Publish in real time.

        A slice that took too long to make shortens the traffic (a gap); it never causes a burst. While the clock
        stands behind ``last`` because it was set back, nothing is published.
        """
        while not self.stop.is_set():
            await sleep_unless_stopped(_TICK_S, self.stop)
            now = datetime.now(UTC)
            for incident in player.begin(now):
                self.traffic.add_incident(incident)
                log.info(
                    "traffic.incident", kind=incident.kind, feature=incident.feature, ends_at=str(incident.ends_at)
                )
            seconds = min(_MAX_SLICE_S, (now - last) / timedelta(seconds=1))
            if seconds > 0:
                last = now
                await self._send(self.traffic.slice(now, seconds))
            self.report(PublisherStatus(history_s=None, incidents=tuple(player.begun)))

    def report(self, status: PublisherStatus) -> None:
        """Write the status with the current counts, unless it was written just now and is not the last."""
        interval_s = _LOG_INTERVAL_S if self.status_path is None else _STATUS_INTERVAL_S
        if not status.is_done and time.monotonic() - self.reported < interval_s:
            return
        self.reported = time.monotonic()
        if self.status_path is None:
            log.info("traffic.published", records=self.traffic.published)
            return
        counts = self.traffic.expected
        full = replace(
            status,
            events=counts.events,
            duplicates=counts.duplicates,
            malformed=counts.malformed,
            loaded_s=self.loaded_s,
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
    stop: asyncio.Event,
    *,
    seed: int = 1,
    status_path: Path | None = None,
    history_s: float = 0.0,
    timeline: Timeline | None = None,
) -> None:
    """Publish until ``stop`` is set and everything is acknowledged.

    The events of the first ``history_s`` seconds occurred before this began. The timeline's times count from when the
    traffic is live; without one nothing goes wrong. Raises: aiokafka's KafkaError, where Kafka stays away.
    """
    start = datetime.now(UTC) - timedelta(seconds=history_s)
    traffic = Traffic(seed, rate_per_s, start)
    producer = AIOKafkaProducer(**settings.kafka_client(), acks="all", linger_ms=5, compression_type="lz4")
    await producer.start()
    publisher = Publisher(settings, traffic, status_path, stop, producer)
    publisher.report(PublisherStatus(history_s=history_s))
    try:
        last = await publisher.history(start)
        player = Player(timeline, datetime.now(UTC))
        await publisher.live(last, player)
    finally:
        await producer.stop()
    publisher.report(PublisherStatus(history_s=None, incidents=tuple(player.begun), is_done=True))


def _seed(text: str) -> int:
    return int.from_bytes(os.urandom(4), "big") if text == "random" else int(text)


def main() -> None:
    """Parse the arguments and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m spendstream.demo.publisher", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rate", type=float, default=300.0, help="records a second")
    parser.add_argument(
        "--seed",
        type=_seed,
        default=1,
        help="a number: the same one makes the same traffic; random: event ids that no meter has seen",
    )
    parser.add_argument("--status", type=Path, help="file that receives the counts")
    parser.add_argument("--history", type=float, default=0.0, help="seconds of the past to publish first, at once")
    parser.add_argument("--incidents", choices=("all", "none", *STAGES), default="none", help="what goes wrong")
    defaults = Timeline()
    parser.add_argument("--first-after", type=float, default=defaults.first_after_s, help="seconds before the first")
    parser.add_argument("--lasts", type=float, default=defaults.lasts_s, help="seconds that an incident lasts")
    parser.add_argument("--calm", type=float, default=defaults.calm_s, help="seconds between two incidents")
    asyncio.run(_main(parser.parse_args()))


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    only = None if options.incidents == "all" else options.incidents
    timeline = Timeline(options.first_after, options.lasts, options.calm, only)
    await publish(
        Settings(),
        options.rate,
        stop,
        seed=options.seed,
        status_path=options.status,
        history_s=options.history,
        timeline=None if options.incidents == "none" else timeline,
    )


if __name__ == "__main__":
    main()
