"""One notifier's way through the alert topic: a consumer group of its own, so it waits for none and delays none.

At least once: a transition is committed once the receiver took it, or once it was given up. Killed between the two, the
next run tells it again, with the same ids. A new group begins at the topic's end, and its beginning is committed before
anything is read: from then on nothing is passed over, however long nobody runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from pydantic import ValidationError

from spendstream.agents.notify_delivery import Delivery, NotifyMetrics
from spendstream.agents.notify_start import anchor, recalled
from spendstream.notifiers.alertmanager import REFRESH_S, Alertmanager
from spendstream.notifiers.base import Messenger, is_addressed
from spendstream.notifiers.bundles import Bundles, Waiting
from spendstream.notifiers.errors import NotifierError
from spendstream.notifiers.progress import Progress
from spendstream.pause import pause
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier
from spendstream.sinks.clickhouse import Backoff
from spendstream.transport.membership import membership

log = structlog.get_logger(__name__)

_IDLE_POLL_S: Final = 0.5
_RETRY_S: Final = 1.0
_MOST_WAITING: Final = 5000


@dataclass(frozen=True)
class ChannelSettings:
    """How a notifier reads. ``kafka``: aiokafka's connection arguments; ``group_interval_s``: see `bundles`."""

    topic: str
    group: str
    kafka: Mapping[str, Any] = field(default_factory=dict, repr=False)
    group_interval_s: float = 10.0
    session_timeout_s: float = 10.0
    stop_timeout_s: float = 5.0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 60.0))
    refresh_s: float = REFRESH_S


class Channel:
    """Tells one notifier. `run()` returns after `stop()`; what Kafka or the receiver do never ends it."""

    def __init__(
        self,
        notifier: Notifier,
        messenger: Messenger,
        settings: ChannelSettings,
        metrics: NotifyMetrics,
        *,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.notifier = notifier
        self._messenger = messenger
        self._settings = settings
        self._metrics = metrics
        self._new_consumer = consumer
        self._clock = clock
        self._standing = messenger.standing if isinstance(messenger, Alertmanager) else None
        # Alertmanager groups by itself.
        self._bundles = Bundles(0.0 if self._standing is not None else settings.group_interval_s)
        self._progress = Progress()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._committing = asyncio.Lock()
        self._to_recall: set[TopicPartition] = set()
        self._refresh_at = 0.0
        self._stopping = asyncio.Event()
        self._delivery = Delivery(notifier, messenger, metrics, settings.backoff, clock, self._stopping)
        self._stopped = asyncio.Event()
        self._stopped.set()
        self._log = log.bind(notifier=notifier.name)

    async def run(self) -> None:
        """Tell until `stop()`. While Kafka is away it tries until it is back."""
        self._stopped.clear()
        try:
            while not self._stopping.is_set():
                try:
                    await self._run_once()
                except (KafkaError, IllegalStateError, OSError) as error:
                    # A connection's own words hold the broker's address, no secret.
                    self._log.warning("notify.kafka_failed", error=" ".join(str(error).split()))
                    await pause(_RETRY_S, self._stopping)
        finally:
            await self._messenger.close()
            self._stopped.set()

    async def stop(self) -> None:
        """Finish what is under way, or leave it after `stop_timeout_s`, and return when `run()` is done."""
        self._stopping.set()
        await self._stopped.wait()

    async def _run_once(self) -> None:
        settings = self._settings
        if not await anchor(settings.topic, settings.group, settings.kafka, self._stopping):
            return
        consumer = self._consumer()
        try:
            await consumer.start()
            consumer.subscribe([settings.topic], listener=_Listener(self))
            self._log.info("notify.begins", group=settings.group)
            while not self._stopping.is_set():
                await self._round(consumer)
        finally:
            await self._leave(consumer)

    async def _round(self, consumer: Any) -> None:
        await self._recall_standing(consumer)
        for partition, records in (await self._poll(consumer)).items():
            self._take_in(partition.partition, records)
        for bundle in self._bundles.take(self._clock(), self._under_way):
            watch = bundle[0].alert.watch
            task = asyncio.create_task(self._deliver(consumer, bundle), name=f"notify-{self.notifier.name}")
            self._under_way[watch] = task
        for watch in [watch for watch, task in self._under_way.items() if task.done()]:
            self._under_way.pop(watch).result()
        await self._refresh()
        await self._commit(consumer)

    async def _poll(self, consumer: Any) -> Mapping[TopicPartition, Sequence[Any]]:
        """Return what has come, or nothing once something is due or half a second is over."""
        if len(self._bundles) >= _MOST_WAITING:
            await pause(_IDLE_POLL_S, self._stopping)
            return {}
        now = self._clock()
        due = self._bundles.next_due_s(now, self._under_way)
        wait_s = _IDLE_POLL_S if due is None else min(_IDLE_POLL_S, max(0.0, due - now))
        polled: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(timeout_ms=int(wait_s * 1000) + 1)
        return polled

    def _take_in(self, partition: int, records: Sequence[Any]) -> None:
        for record in records:
            alert = self._decoded(record)
            if alert is None or not self._wants(partition, alert):
                self._progress.passed(partition, record.offset)
                continue
            written_s = record.timestamp / 1000 if record.timestamp > 0 else self._clock()
            one = Waiting(alert, partition, record.offset, written_s)
            self._progress.read(partition, record.offset)
            self._bundles.add(one)

    def _wants(self, partition: int, alert: Alert) -> bool:
        return self._standing.takes(partition, alert) if self._standing else is_addressed(alert, self.notifier)

    def _decoded(self, record: Any) -> Alert | None:
        if record.value is None:
            return None
        try:
            return Alert.model_validate_json(record.value)
        except ValidationError:
            # The alert sink keeps it as a dead letter; here there is nobody to tell.
            self._log.error("notify.undecodable", partition=record.partition, offset=record.offset)
            return None

    async def _deliver(self, consumer: Any, bundle: list[Waiting]) -> None:
        if not await self._delivery.settle(bundle):
            return
        if any(map(self._delivery.was_told, bundle)):
            self._bundles.told(bundle[0].alert.watch, self._clock())
        for one in bundle:
            self._progress.done(one.partition, one.offset)
        await self._commit(consumer)

    async def _refresh(self) -> None:
        """Send what stands at Alertmanager again. A failure waits for the next time."""
        now = self._clock()
        if not isinstance(self._messenger, Alertmanager) or now < self._refresh_at:
            return
        self._refresh_at = now + self._settings.refresh_s
        try:
            await self._messenger.refresh(datetime.fromtimestamp(now, UTC))
        except NotifierError as error:
            self._metrics.notify_failed(self.notifier.name)
            self._log.warning("notify.refresh_failed", error=str(error))

    async def _recall_standing(self, consumer: Any) -> None:
        """Learn from the topic what stands at Alertmanager: what was told before this run."""
        if self._standing is None or not self._to_recall:
            return
        partitions, self._to_recall = self._to_recall, set()
        try:
            for record in await recalled(partitions, consumer, self._settings.kafka):
                if (alert := self._decoded(record)) is not None:
                    self._standing.takes(record.partition, alert)
        except BaseException:
            self._to_recall |= partitions
            raise
        self._refresh_at = 0.0

    async def _commit(self, consumer: Any) -> None:
        async with self._committing:
            offsets = self._progress.committable()
            mine = {partition.partition: partition for partition in consumer.assignment()}
            ends = {mine[number]: end for number, end in offsets.items() if number in mine}
            if not ends:
                return
            try:
                await consumer.commit(ends)
            except (KafkaError, IllegalStateError) as error:
                # Whoever reads these again may tell them again, under the same ids.
                self._log.info("notify.commit_failed", error=" ".join(str(error).split()))
                return
            self._progress.committed({partition.partition: end for partition, end in ends.items()})

    async def _leave(self, consumer: Any) -> None:
        """Let what is under way finish for a moment, commit it, and close."""
        if self._under_way:
            tasks = set(self._under_way.values())
            _, late = await asyncio.wait(tasks, timeout=self._settings.stop_timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._under_way.clear()
        self.revoked(consumer.assignment())
        await consumer.stop()

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Leave partitions to others, who begin at what was committed."""
        gone = [partition.partition for partition in partitions]
        self._bundles.forget(gone)
        self._progress.forget(gone)
        for number in gone:
            if self._standing is not None:
                self._standing.forget(number)
        self._to_recall -= set(partitions)

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Take over partitions."""
        self._to_recall |= set(partitions)

    def _consumer(self) -> Any:
        return self._new_consumer(
            **self._settings.kafka,
            **membership(self._settings.group, self._settings.session_timeout_s),
            auto_offset_reset="earliest",
        )


class _Listener(ConsumerRebalanceListener):
    """Tells a channel which partitions are its own."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._channel.revoked(revoked)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._channel.assigned(assigned)
