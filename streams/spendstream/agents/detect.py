"""The detecting agent: rollups in, alert transitions out. One of all workers leads; the others stand by.

A group of the watch is fed by every partition, so one detector reads them all. The state topic has one partition: who
is assigned it, in the consumer group, leads. It restores the last snapshot, reads the alerts published since, and goes
on at the snapshot's offsets. In order: transitions are acknowledged on the alert topic, and only then do they count.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from spendstream.agents.detect_leader import Leader, Progress, read_alert, read_silence, slices
from spendstream.agents.detect_seed import Seeder
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.timestamps import US
from spendstream.kafka.consumer import membership, partitions_of
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.schemas.alert import Alert, Silence
from spendstream.schemas.watch import Watches
from spendstream.settings import Settings
from spendstream.state.snapshots import PARTITION, SnapshotStore, copied, read_all

log = structlog.get_logger(__name__)

MAX_RECORDS: Final = 10_000
LIVE_WITHIN_S: Final = 900
"""The detection clock counts as live when it is no further behind the wall clock: older alerts are not told."""

_LONGEST_POLL_MS: Final = 600_000
_POLL_S: Final = 0.1
_ROLE: Final = "detect"


class _Lease(ConsumerRebalanceListener):
    """Says whether this worker leads."""

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
    """Leads, or stands by to."""

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
        """Run until stopped. Raises what a detector can't go on after; a restart resumes from the last snapshot."""
        lease = _Lease()
        member = AIOKafkaConsumer(
            **self._settings.kafka_client(),
            **membership(self._settings.group(_ROLE), self._settings.kafka_session_timeout_s, _LONGEST_POLL_MS),
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
        """Ask ``run`` to end, with a snapshot."""
        self._stopping.set()

    def reconfigure(self, watches: Watches) -> None:
        """Take over other watches, within the next moments. Those that stay as they are keep what they know."""
        self._watches = watches

    async def _take_turns(self, member: AIOKafkaConsumer, lease: _Lease) -> None:
        leading: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                member.pause(*member.assignment())  # membership is all that is wanted of it
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
            seeder = Seeder(self._settings, leader.detector, leader.between_steps, self._in_thread, leader.stand)
            async with _beside(seeder.run()):
                await self._detect(consumer, leader, lease)
        finally:
            await consumer.stop()
            log.info("detect.stands_by")

    async def _recovered(self, consumer: AIOKafkaConsumer) -> Leader:
        """Return a leader that knows what the last one knew, and all that was published since."""
        detector = Detector(self._settings.meter_dimensions, self._settings.meter_allowed_lateness_s)
        found = await self._store.read(consumer)
        progress = Progress({}, {}, 0, 0, time.monotonic())
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
            records = await read_all(consumer, at, progress.alerts.get(partition))
            detector.published([alert for record in records if (alert := read_alert(record)) is not None])
            progress.alerts[partition] = await consumer.position(at)
        leader = Leader(self._settings, consumer, detector, progress, watches)
        for silence in await self._silences(consumer):
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
                    changed, alerts = await self._in_thread(_step, leader.detector, some, until_us, _is_live(until_us))
                    if alerts:
                        await self._publish(leader, alerts)
                    self._metrics.detected(changed, time.perf_counter() - started, leader.behind_s())
            if leader.watches is not self._watches:
                await self._take_up(leader, self._watches)
            if leader.wants_snapshot():
                await self._snapshot(leader)
        if self._stopping.is_set() and not lease.lost.is_set():
            await self._snapshot(leader)

    async def _publish(self, leader: Leader, alerts: Sequence[Alert]) -> None:
        """Write transitions; once acknowledged, they count."""
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

    async def _take_up(self, leader: Leader, watches: Watches) -> None:
        await self._in_thread(leader.detector.configure, watches)
        leader.watches = watches
        log.info("detect.watches", watches=[watch.name for watch in watches.watches])

    async def _silences(self, consumer: AIOKafkaConsumer) -> list[Silence]:
        at = TopicPartition(self._settings.topic(topics.SILENCE), PARTITION)
        return [silence for record in await read_all(consumer, at) if (silence := read_silence(record)) is not None]

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run something in a task of its own, no longer than the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _step(detector: Detector, records: Sequence[RollupRecord], clock_us: int, is_live: bool) -> tuple[int, list[Alert]]:
    changed = detector.absorb(records, clock_us) if records else 0
    for error in detector.book.unreadable:
        log.error("detect.not_a_rollup", error=str(error))
    detector.book.unreadable.clear()
    return changed, detector.decide(clock_us, is_live=is_live) if clock_us else []


def _tidied_snapshot(detector: Detector, clock_us: int) -> Any:
    detector.tidy(clock_us)
    return copied(detector.snapshot())


def _is_live(clock_us: int) -> bool:
    return time.time() - clock_us / US <= LIVE_WITHIN_S
