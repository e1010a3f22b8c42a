"""What a leading detector holds: its place in the topics, and the detection clock that follows from it."""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from spendstream.agents.detect_seed import Stand
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.timestamps import US
from spendstream.schemas import topics
from spendstream.schemas.alert import Alert, Silence
from spendstream.schemas.watch import Watches
from spendstream.settings import Settings
from spendstream.state.snapshots import PARTITION

log = structlog.get_logger(__name__)

SNAPSHOT_BYTES_PER_S: Final = 250_000
"""A great state is written less often, so that it costs no more than this on average."""

SLICE_US: Final = 60 * US
"""What is read in arrears is judged in slices so long."""


@dataclass
class Progress:
    """Where a leader stands: the next offset by rollup partition, and the end of the alerts it wrote or read."""

    rollups: dict[int, int]
    alerts: dict[int, int]
    clock_us: int
    snapshot_number: int
    snapshot_at: float
    snapshot_bytes: int = 0


class Leader:
    """What the leading agent holds: the detector, its place in the topics, and the detection clock."""

    def __init__(
        self,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        detector: Detector,
        progress: Progress,
        watches: Watches,
    ) -> None:
        self.detector = detector
        self.progress = progress
        self.watches = watches
        self.between_steps = asyncio.Lock()
        """Held while what was read is taken in: otherwise the detector stands at the progress's offsets."""
        self._settings = settings
        self._consumer = consumer
        self._rollup = settings.topic(topics.ROLLUP)
        self._alert = settings.topic(topics.ALERT)
        self._silence = TopicPartition(settings.topic(topics.SILENCE), PARTITION)
        self._read_until_ms: dict[int, int] = {}
        self._begins: dict[int, int] = {}

    async def assign(self, partitions: Sequence[int]) -> None:
        """Read the rollups from where the snapshot stands, and the alerts and silences that are yet to come."""
        tps = [TopicPartition(self._rollup, partition) for partition in partitions]
        alerts = {TopicPartition(self._alert, partition): at for partition, at in self.progress.alerts.items()}
        silences_from = await self._consumer.position(self._silence)
        self._consumer.assign([*tps, *alerts, self._silence])
        self._consumer.seek(self._silence, silences_from)
        for tp, at in alerts.items():
            self._consumer.seek(tp, at)
        begin = await self._consumer.beginning_offsets(tps)
        self._begins = {tp.partition: begin[tp] for tp in tps}
        for tp in tps:
            stored = self.progress.rollups.get(tp.partition)
            if stored is not None and stored < begin[tp]:
                log.error("detect.rollups_expired", partition=tp.partition, offset=stored, begin=begin[tp])
                self.detector.doubt_budgets()
            self.progress.rollups[tp.partition] = begin[tp] if stored is None else max(stored, begin[tp])
            self._consumer.seek(tp, self.progress.rollups[tp.partition])

    def take(self, fetched: Mapping[TopicPartition, Sequence[Any]]) -> list[RollupRecord]:
        """Return the rollups that were fetched; take note of silences, of alerts, and of how far each topic was read.

        The alerts are this leader's own, or of one that doesn't know yet that it no longer leads.
        """
        records: list[RollupRecord] = []
        for tp, batch in fetched.items():
            if tp == self._silence:
                for silence in filter(None, map(read_silence, batch)):
                    self.detector.silences.put(silence)
                continue
            if tp.topic == self._alert:
                self.detector.published(list(filter(None, map(read_alert, batch))))
                self.progress.alerts[tp.partition] = batch[-1].offset + 1
                continue
            self.progress.rollups[tp.partition] = batch[-1].offset + 1
            self._read_until_ms[tp.partition] = max(record.timestamp for record in batch)
            records += [
                RollupRecord(tp.partition, record.timestamp, record.key, record.value)
                for record in batch
                if record.value is not None and record.key is not None
            ]
        return records

    def clock(self) -> int:
        """Return the detection clock in µs.

        A partition that was read to its end stands at the wall clock, another at its last record's time.
        """
        wall_us = time.time_ns() // 1000
        at_us = min((self._stands_at_us(tp, wall_us) for tp in self._rollups()), default=wall_us)
        self.progress.clock_us = max(self.progress.clock_us, min(at_us, wall_us))
        return self.progress.clock_us

    def behind_s(self) -> float:
        """Return how far the detection clock is behind the wall clock, in s."""
        return max(0.0, time.time() - self.progress.clock_us / US)

    def stand(self) -> Stand:
        """Return how far the detector is. Holds between two steps."""
        return Stand(dict(self.progress.rollups), self._begins, self.progress.clock_us, self.behind_s())

    def wants_snapshot(self) -> bool:
        """Whether it is time for the next snapshot."""
        interval_s = max(self._settings.detect_snapshot_interval_s, self.progress.snapshot_bytes / SNAPSHOT_BYTES_PER_S)
        return time.monotonic() - self.progress.snapshot_at >= interval_s

    def _rollups(self) -> list[TopicPartition]:
        return [tp for tp in self._consumer.assignment() if tp.topic == self._rollup]

    def _stands_at_us(self, tp: TopicPartition, wall_us: int) -> int:
        highwater = self._consumer.highwater(tp)
        if highwater is None:
            return 0  # nothing heard of it yet
        if self.progress.rollups.get(tp.partition, 0) >= highwater:
            return wall_us
        return self._read_until_ms.get(tp.partition, 0) * 1000


def slices(
    records: Sequence[RollupRecord], former_us: int, clock_us: int
) -> Iterator[tuple[Sequence[RollupRecord], int]]:
    """Cut what was read into slices of a minute of the detection clock, each with the clock at its end.

    In arrears one fetch may span hours. Judged minute by minute, it comes to what it would have come to in its time.
    """
    left = sorted(records, key=lambda record: record.timestamp_ms)
    at_us = former_us or (left[0].timestamp_ms * 1000 if left else clock_us)
    while at_us + SLICE_US < clock_us:
        at_us += SLICE_US
        count = bisect_right(left, at_us // 1000, key=lambda record: record.timestamp_ms)
        yield left[:count], at_us
        left = left[count:]
    yield left, clock_us


def read_alert(record: Any) -> Alert | None:
    """Return a record's alert; None, and a word in the log, where it is none."""
    try:
        return None if record.value is None else Alert.model_validate_json(record.value)
    except ValidationError as error:
        log.error("detect.not_an_alert", partition=record.partition, offset=record.offset, error=str(error))
        return None


def read_silence(record: Any) -> Silence | None:
    """Return a record's silence; None, and a word in the log, where it is none."""
    try:
        return None if record.value is None else Silence.model_validate_json(record.value)
    except ValidationError as error:
        log.error("detect.not_a_silence", partition=record.partition, offset=record.offset, error=str(error))
        return None
