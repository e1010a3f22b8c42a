"""The detecting agent: rollups in, alert transitions out. One of all workers leads; the others stand by.

Every partition feeds a watch's group, so one detector reads them all. The state topic has one partition: whichever
worker the consumer group assigns it to leads. The leader restores the last snapshot, reads the alerts published since,
and goes on at the snapshot's offsets. A transition counts only once the alert topic has acknowledged it.
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from pydantic import ValidationError

from spendstream.agents.detect_seed import ReadPosition, Seeder
from spendstream.agents.detect_snapshots import PARTITION, SnapshotStore, copied
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.timestamps import US
from spendstream.kafka.consumer import membership, partitions_of, read_to_end, seen_end
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.schemas.alert import Alert, Silence
from spendstream.schemas.watch import Watches
from spendstream.settings import Settings

log = structlog.get_logger(__name__)

MAX_RECORDS: Final = 10_000
LIVE_WITHIN_S: Final = 900
"""The detection clock is live when it is at most this far behind the wall clock: older alerts notify nobody."""

_MAX_POLL_MS: Final = 600_000
_POLL_S: Final = 0.1
_ROLE: Final = "detect"

SNAPSHOT_BYTES_PER_S: Final = 250_000
"""A large state is written less often, so that snapshots cost no more than this on average."""

SLICE_US: Final = 60 * US
"""A backlog is judged in slices this long."""


@dataclass
class LeaderProgress:
    """How far a leader is: the next offset by rollup partition, and the end of the alerts that it wrote or read."""

    rollups: dict[int, int]
    alerts: dict[int, int]
    clock_us: int
    snapshot_number: int
    snapshot_at: float
    snapshot_bytes: int = 0


class Leader:
    """What the leading agent holds: the detector, its position in the topics, and the detection clock."""

    def __init__(
        self,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        detector: Detector,
        progress: LeaderProgress,
        watches: Watches,
    ) -> None:
        self.detector = detector
        self.progress = progress
        self.watches = watches
        self.between_steps = asyncio.Lock()
        """Held while records are absorbed: while it is free, the detector is at the offsets of ``progress``."""
        self._settings = settings
        self._consumer = consumer
        self._rollup = settings.topic(topics.ROLLUP)
        self._alert = settings.topic(topics.ALERT)
        self._silence = TopicPartition(settings.topic(topics.SILENCE), PARTITION)
        self._read_until_ms: dict[int, int] = {}
        self._begins: dict[int, int] = {}

    async def assign(self, partitions: Sequence[int]) -> None:
        """Read rollups from the snapshot's offsets on, and the alerts and silences that are yet to come."""
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
        """Return the rollups that were fetched; record silences, alerts, and how far each topic was read.

        The alerts are this leader's own, or those of a former leader that doesn't know yet that it no longer leads.
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

        A partition that was read to its end is at the wall clock, another one at the time of its last record.
        """
        wall_us = time.time_ns() // 1000
        at_us = min(
            (self._partition_clock_us(tp, wall_us) for tp in self._consumer.assignment() if tp.topic == self._rollup),
            default=wall_us,
        )
        self.progress.clock_us = max(self.progress.clock_us, min(at_us, wall_us))
        return self.progress.clock_us

    def behind_s(self) -> float:
        """Return how far the detection clock is behind the wall clock, in s."""
        return max(0.0, time.time() - self.progress.clock_us / US)

    def read_position(self) -> ReadPosition:
        """Return how far the detector is. Valid between two steps."""
        return ReadPosition(dict(self.progress.rollups), self._begins, self.progress.clock_us, self.behind_s())

    def wants_snapshot(self) -> bool:
        """Return whether it is time for the next snapshot."""
        interval_s = max(self._settings.detect_snapshot_interval_s, self.progress.snapshot_bytes / SNAPSHOT_BYTES_PER_S)
        return time.monotonic() - self.progress.snapshot_at >= interval_s

    def _partition_clock_us(self, tp: TopicPartition, wall_us: int) -> int:
        end = seen_end(self._consumer, tp)
        if end is None:
            return 0  # nothing was fetched from it yet
        if self.progress.rollups.get(tp.partition, 0) >= end:
            return wall_us
        return self._read_until_ms.get(tp.partition, 0) * 1000


def slices(
    records: Sequence[RollupRecord], former_us: int, clock_us: int
) -> Iterator[tuple[Sequence[RollupRecord], int]]:
    """Split what was read into slices of a minute of the detection clock, each with the clock at its end.

    In a backlog one fetch may span hours. Judged minute by minute, it raises the same alerts as it would have live.
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
    """Return a record's alert. Logs and returns None where it isn't one."""
    try:
        return None if record.value is None else Alert.model_validate_json(record.value)
    except ValidationError as error:
        log.error("detect.not_an_alert", partition=record.partition, offset=record.offset, error=str(error))
        return None


def read_silence(record: Any) -> Silence | None:
    """Return a record's silence. Logs and returns None where it isn't one."""
    try:
        return None if record.value is None else Silence.model_validate_json(record.value)
    except ValidationError as error:
        log.error("detect.not_a_silence", partition=record.partition, offset=record.offset, error=str(error))
        return None


class _Lease(ConsumerRebalanceListener):
    """Whether this worker leads."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost.set()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        if revoked:
            self.held.clear()
            self.lost.set()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        if assigned:
            self.lost.clear()
            self.held.set()


class DetectAgent:
    """Leads, or stands by."""

    def __init__(self, settings: Settings, watches: Watches, metrics: Metrics) -> None:
        self._settings = settings
        self._watches = watches
        self._metrics = metrics
        self._producer = AckedProducer(settings.kafka_client())
        self._store = SnapshotStore(self._producer, settings.topic(topics.DETECT_STATE))
        # one thread: the detector has one writer, and the event loop stays free for Kafka
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="detect")
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run until stopped. Raises what the detector can't recover from; a restart resumes from the last snapshot."""
        lease = _Lease()
        member = AIOKafkaConsumer(
            **self._settings.kafka_client(),
            **membership(self._settings.group(_ROLE), self._settings.kafka_session_timeout_s, _MAX_POLL_MS),
            auto_offset_reset="latest",
        )
        member.subscribe([self._settings.topic(topics.DETECT_STATE)], listener=lease)
        try:
            await member.start()
            await self._take_turns(member, lease)
        finally:
            await member.stop()
            await self._producer.stop()
            self._thread.shutdown()

    async def stop(self) -> None:
        """Ask ``run`` to end with a snapshot."""
        self._stopping.set()

    def reconfigure(self, watches: Watches) -> None:
        """Switch to other watches within moments. Watches that stay the same keep what they know."""
        self._watches = watches

    async def _take_turns(self, member: AIOKafkaConsumer, lease: _Lease) -> None:
        leading: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                member.pause(*member.assignment())  # it is here for its membership alone
                await member.getmany(timeout_ms=200)
                if leading is not None and leading.done():
                    await leading
                    leading = None
                if leading is None and lease.held.is_set():
                    leading = asyncio.create_task(self._lead(lease), name="detect")
            if leading is not None:
                await leading
        finally:
            if leading is not None and not leading.done():
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)

    async def _lead(self, lease: _Lease) -> None:
        """Detect, until the lease is lost or the agent stops."""
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_client(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4_000_000,
        )
        try:
            await consumer.start()
            leader = await self._recovered(consumer)
            log.info("detect.leads", snapshot=leader.progress.snapshot_number, watches=leader.detector.group_count())
            seeder = Seeder(
                self._settings, leader.detector, leader.between_steps, self._in_thread, leader.read_position
            )
            async with _beside(seeder.run()):
                await self._detect(consumer, leader, lease)
        finally:
            await consumer.stop()
            log.info("detect.stands_by")

    async def _recovered(self, consumer: AIOKafkaConsumer) -> Leader:
        """Return a leader that knows what the last one knew, and the alerts that were published since."""
        detector = Detector(self._settings.meter_dimensions, self._settings.meter_allowed_lateness_s)
        found = await self._store.read(consumer)
        progress = LeaderProgress({}, {}, 0, 0, time.monotonic())
        if found is not None:
            manifest, sections = found
            await self._in_thread(detector.restore, sections, manifest.clock_us)
            progress.rollups, progress.alerts = dict(manifest.rollup_offsets), dict(manifest.alert_offsets)
            progress.clock_us, progress.snapshot_number = manifest.clock_us, manifest.number
        watches = self._watches
        await self._in_thread(detector.configure, watches)
        partitions = await partitions_of(
            self._settings.kafka_client(), [self._settings.topic(name) for name in (topics.ALERT, topics.ROLLUP)]
        )
        for partition in partitions[self._settings.topic(topics.ALERT)]:
            at = TopicPartition(self._settings.topic(topics.ALERT), partition)
            detector.published(
                [
                    alert
                    async for _, records in read_to_end(consumer, {at: progress.alerts.get(partition)})
                    for record in records
                    if (alert := read_alert(record)) is not None
                ]
            )
            progress.alerts[partition] = await consumer.position(at)
        leader = Leader(self._settings, consumer, detector, progress, watches)
        silences = TopicPartition(self._settings.topic(topics.SILENCE), PARTITION)
        async for _, records in read_to_end(consumer, {silences: None}):
            for silence in filter(None, map(read_silence, records)):
                detector.silences.put(silence)
        await leader.assign(partitions[self._settings.topic(topics.ROLLUP)])
        return leader

    async def _detect(self, consumer: AIOKafkaConsumer, leader: Leader, lease: _Lease) -> None:
        while not lease.lost.is_set() and not self._stopping.is_set():
            fetched = await consumer.getmany(timeout_ms=round(_POLL_S * 1000), max_records=MAX_RECORDS)
            async with leader.between_steps:
                records = leader.take(fetched)
                former_us, clock_us = leader.progress.clock_us, leader.clock()
                for some, until_us in slices(records, former_us, clock_us):
                    started = time.perf_counter()
                    changed, alerts = await self._in_thread(_step, leader.detector, some, until_us)
                    if alerts:
                        await self._publish(leader, alerts)
                    self._metrics.detected(changed, time.perf_counter() - started, leader.behind_s())
            if leader.watches is not self._watches:
                leader.watches = self._watches
                await self._in_thread(leader.detector.configure, leader.watches)
                log.info("detect.watches", watches=[watch.name for watch in leader.watches.watches])
            if leader.wants_snapshot():
                await self._snapshot(leader)
        if self._stopping.is_set() and not lease.lost.is_set():
            await self._snapshot(leader)

    async def _publish(self, leader: Leader, alerts: Sequence[Alert]) -> None:
        """Write transitions. They count once they are acknowledged."""
        await self._producer.write(
            self._settings.topic(topics.ALERT),
            [Record(str(alert.alert_id).encode(), alert.model_dump_json().encode()) for alert in alerts],
        )
        leader.detector.published(alerts)
        for alert in alerts:
            self._metrics.alert(alert.watch, alert.transition)
            log.info(
                "alert." + alert.transition, alert_id=str(alert.alert_id), watch=alert.watch, title=alert.title,
                notify=alert.notify, silenced_by=alert.silenced_by,
            )  # fmt: skip

    async def _snapshot(self, leader: Leader) -> None:
        progress = leader.progress
        sections = await self._in_thread(_tidied_snapshot, leader.detector, progress.clock_us)
        progress.snapshot_number += 1
        progress.snapshot_bytes = await self._store.write(
            sections,
            {
                "number": progress.snapshot_number,
                "clock_us": progress.clock_us,
                "rollup_offsets": progress.rollups,
                "alert_offsets": progress.alerts,
            },
        )
        progress.snapshot_at = time.monotonic()
        self._metrics.detect_state(progress.snapshot_bytes, leader.detector.group_count())

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run work in a task of its own, which ends with the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _step(detector: Detector, records: Sequence[RollupRecord], clock_us: int) -> tuple[int, list[Alert]]:
    changed = detector.absorb(records, clock_us) if records else 0
    for error in detector.book.unreadable:
        log.error("detect.not_a_rollup", error=str(error))
    detector.book.unreadable.clear()
    is_live = time.time() - clock_us / US <= LIVE_WITHIN_S
    return changed, detector.decide(clock_us, is_live=is_live) if clock_us else []


def _tidied_snapshot(detector: Detector, clock_us: int) -> Any:
    detector.tidy(clock_us)
    return copied(detector.snapshot())
