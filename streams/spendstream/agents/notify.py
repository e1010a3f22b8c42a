"""Sends notifications of alerts: one channel for each notifier, so that a dead receiver delays only itself.

Each channel reads the alert topic in a consumer group of its own, so that it waits for none and delays none. At least
once: a transition is committed once the receiver has accepted it, or once it was dropped. After a kill between the two,
the next run sends it again, with the same ids. A new group begins at the end of the topic, and commits that start
before it reads anything: from then on no alert is passed over, however long nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, UnknownMemberIdError
from pydantic import ValidationError

from spendstream.kafka.consumer import high_watermarks, membership, partitions_of, read_to_end
from spendstream.notifiers import messenger_of
from spendstream.notifiers.base import Messenger, NotConfigured, NotifierError
from spendstream.notifiers.delivery import Delivery, NotificationQueue, NotifyMetrics, OffsetTracker, QueuedAlert
from spendstream.schemas import topics
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier
from spendstream.settings import Settings
from spendstream.waiting import Backoff, sleep_unless_stopped

log = structlog.get_logger(__name__)

_STOP_TIMEOUT_S: Final = 10.0
_RESTART_S: Final = 1.0
_IDLE_POLL_S: Final = 0.5
_RETRY_S: Final = 1.0
_FETCH_WAIT_MS: Final = 50
_MAX_QUEUED: Final = 5000


class NotifyAgent:
    """Reads alerts and sends them to the notifiers they are addressed to. ``run()`` returns after ``stop()``.

    Each notifier reads ``llm.alert.v1`` in the consumer group ``<group>-notify-<its name>``. A notifier that lacks a
    variable is left out, with an error in the log; its group keeps its offset, so nothing is lost meanwhile.

    ``environ``: the variables that notifiers name; by default, the process's own.
    """

    def __init__(
        self,
        settings: Settings,
        notifiers: Iterable[Notifier],
        metrics: NotifyMetrics,
        *,
        environ: Mapping[str, str] | None = None,
        backoff: Backoff | None = None,
        make: Callable[[Notifier, Mapping[str, str]], Messenger] = messenger_of,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._environ = os.environ if environ is None else environ
        self._backoff = backoff or Backoff(0.5, 60.0)
        self._make = make
        self._consumer = consumer
        self._clock = clock
        self._wanted = _by_name(notifiers)
        self._running: dict[str, tuple[Channel, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self._stopping = False
        self._stopped = asyncio.Event()
        self._stopped.set()

    async def run(self) -> None:
        """Deliver until ``stop()``. Raises only on a bug: no receiver and no broker can end it."""
        self._stopped.clear()
        try:
            while not self._stopping:
                self._changed.clear()
                wanted = dict(self._wanted)
                running = self._running.items()
                await self._end([name for name, (channel, _) in running if wanted.get(name) != channel.notifier])
                for name, notifier in wanted.items():
                    if name not in self._running and (started := self._channel(notifier)) is not None:
                        self._running[name] = started, asyncio.create_task(started.run(), name=f"notify-{name}")
                await self._until_changed()
        finally:
            await self._end(list(self._running))
            self._stopped.set()

    async def stop(self) -> None:
        """Finish the requests under way, or cancel them after a few seconds, and return when ``run()`` has."""
        self._stopping = True
        self._changed.set()
        await self._stopped.wait()

    def reconfigure(self, notifiers: Iterable[Notifier]) -> None:
        """Use another set of notifiers: new ones start, removed ones stop, changed ones restart. Returns at once.

        A changed or returning notifier resumes at its group's offset; a new one starts with the next alert.
        """
        self._wanted = _by_name(notifiers)
        self._changed.set()

    def _channel(self, notifier: Notifier) -> Channel | None:
        try:
            messenger = self._make(notifier, self._environ)
        except NotConfigured as error:
            log.error("notify.not_configured", notifier=notifier.name, error=str(error))
            return None
        settings = ChannelSettings(
            topic=self._settings.topic(topics.ALERT),
            group=self._settings.group(f"notify-{notifier.name}"),
            kafka=self._settings.kafka_client(),
            group_interval_s=float(notifier.group_interval),
            session_timeout_s=self._settings.kafka_session_timeout_s,
            backoff=self._backoff,
        )
        return Channel(messenger, settings, self._metrics, consumer=self._consumer, clock=self._clock)

    async def _until_changed(self) -> None:
        """Return when the set of notifiers has changed, or ``stop()`` was called. Raises what ended a channel."""
        changed = asyncio.create_task(self._changed.wait())
        try:
            tasks = {task for _, task in self._running.values()}
            done, _ = await asyncio.wait({changed, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        for name, (_, task) in list(self._running.items()):
            if task not in done:
                continue
            if not task.cancelled():
                task.result()
            # aiokafka sometimes lets the cancellation of one of its own tasks escape: restart the channel.
            log.warning("notify.restarted", notifier=name)
            del self._running[name]
            await asyncio.sleep(_RESTART_S)

    async def _end(self, names: Iterable[str]) -> None:
        ending = {name: self._running.pop(name) for name in names}
        stops = [asyncio.create_task(channel.stop()) for channel, task in ending.values() if not task.done()]
        if stops:
            await asyncio.wait(
                stops, timeout=_STOP_TIMEOUT_S
            )  # a broker that does not answer must not delay the shutdown
        for task in (*stops, *(task for _, task in ending.values())):
            task.cancel()
        await asyncio.gather(*(task for _, task in ending.values()), return_exceptions=True)


def _by_name(notifiers: Iterable[Notifier]) -> dict[str, Notifier]:
    return {notifier.name: notifier for notifier in notifiers}


@dataclass(frozen=True)
class ChannelSettings:
    """How a notifier reads. ``kafka``: aiokafka's connection arguments. ``group_interval_s``: of the queue."""

    topic: str
    group: str
    kafka: Mapping[str, Any] = field(default_factory=dict, repr=False)
    group_interval_s: float = 10.0
    session_timeout_s: float = 10.0
    stop_timeout_s: float = 5.0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 60.0))


class Channel(ConsumerRebalanceListener):
    """Delivers to one notifier. ``run()`` returns after ``stop()``; neither Kafka nor the receiver can end it."""

    def __init__(
        self,
        messenger: Messenger,
        settings: ChannelSettings,
        metrics: NotifyMetrics,
        *,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.notifier = messenger.notifier
        self._messenger = messenger
        self._settings = settings
        self._metrics = metrics
        self._new_consumer = consumer
        self._clock = clock
        self._queue = NotificationQueue(0.0 if messenger.refresh_s is not None else settings.group_interval_s)
        self._offsets = OffsetTracker()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._committing = asyncio.Lock()
        self._to_recall: set[TopicPartition] = set()
        self._refresh_at = 0.0
        self._stopping = asyncio.Event()
        self._delivery = Delivery(messenger, metrics, settings.backoff, clock, self._stopping)
        self._stopped = asyncio.Event()
        self._stopped.set()
        self._log = log.bind(notifier=self.notifier.name)

    async def run(self) -> None:
        """Deliver until ``stop()``. While Kafka is unavailable, try until it is back."""
        self._stopped.clear()
        try:
            while not self._stopping.is_set():
                try:
                    await self._run_once()
                except (KafkaError, IllegalStateError, OSError) as error:
                    # A connection's own message holds the broker's address, but no secret.
                    self._log.warning("notify.kafka_failed", error=" ".join(str(error).split()))
                    await sleep_unless_stopped(_RETRY_S, self._stopping)
        finally:
            await self._messenger.close()
            self._stopped.set()

    async def stop(self) -> None:
        """Finish the requests under way, or cancel them after ``stop_timeout_s``, and return when ``run()`` has."""
        self._stopping.set()
        await self._stopped.wait()

    async def _run_once(self) -> None:
        settings = self._settings
        if not await commit_start_offset(settings.topic, settings.group, settings.kafka, self._stopping):
            return
        consumer = self._new_consumer(
            **settings.kafka,
            **membership(settings.group, settings.session_timeout_s),
            auto_offset_reset="earliest",
        )
        try:
            await consumer.start()
            consumer.subscribe([settings.topic], listener=self)
            self._log.info("notify.started", group=settings.group)
            while not self._stopping.is_set():
                await self._round(consumer)
        finally:
            await self._leave(consumer)

    async def _round(self, consumer: Any) -> None:
        polled = await self._poll(consumer)
        # Partitions are assigned within the poll, and what is recalled of them is older than the polled records.
        await self._recall(consumer)
        for partition, records in polled.items():
            for record in records:
                self._take_in(partition.partition, record)
        for batch in self._queue.take_due(self._clock(), self._under_way):
            task = asyncio.create_task(self._deliver(consumer, batch), name=f"notify-{self.notifier.name}")
            self._under_way[batch[0].alert.watch] = task
        for watch in [watch for watch, task in self._under_way.items() if task.done()]:
            self._under_way.pop(watch).result()
        await self._refresh()
        await self._commit(consumer)

    async def _poll(self, consumer: Any) -> Mapping[TopicPartition, Sequence[Any]]:
        """Return new records, or nothing once a batch is due or half a second has passed."""
        if len(self._queue) >= _MAX_QUEUED:
            await sleep_unless_stopped(_IDLE_POLL_S, self._stopping)
            return {}
        now = self._clock()
        due = self._queue.next_due_s(now, self._under_way)
        wait_s = _IDLE_POLL_S if due is None else min(_IDLE_POLL_S, max(0.0, due - now))
        polled: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(timeout_ms=int(wait_s * 1000) + 1)
        return polled

    def _take_in(self, partition: int, record: Any) -> None:
        alert = self._decoded(record)
        if alert is None or not self._messenger.accepts(partition, alert):
            self._offsets.skip(partition, record.offset)
            return
        written_s = record.timestamp / 1000 if record.timestamp > 0 else self._clock()
        self._offsets.open(partition, record.offset)
        self._queue.add(QueuedAlert(alert, partition, record.offset, written_s))

    def _decoded(self, record: Any) -> Alert | None:
        if record.value is None:
            return None
        try:
            return Alert.model_validate_json(record.value)
        except ValidationError:
            # The alert sink keeps it as a dead letter; a receiver could do nothing with it.
            self._log.error("notify.undecodable", partition=record.partition, offset=record.offset)
            return None

    async def _deliver(self, consumer: Any, batch: list[QueuedAlert]) -> None:
        if not await self._delivery.deliver(batch):
            return
        if any(map(self._delivery.was_sent, batch)):
            self._queue.mark_sent(batch[0].alert.watch, self._clock())
        for queued in batch:
            self._offsets.close(queued.partition, queued.offset)
        await self._commit(consumer)

    async def _refresh(self) -> None:
        """Send the receiver its present state again, when it is time. After a failure, wait for the next time."""
        now = self._clock()
        if self._messenger.refresh_s is None or now < self._refresh_at:
            return
        self._refresh_at = now + self._messenger.refresh_s
        try:
            await self._messenger.refresh(datetime.fromtimestamp(now, UTC))
        except NotifierError as error:
            self._metrics.notify_failed(self.notifier.name)
            self._log.warning("notify.refresh_failed", error=str(error))

    async def _recall(self, consumer: Any) -> None:
        """Give the messenger the alerts of its newly assigned partitions that were delivered before this run."""
        if self._messenger.refresh_s is None or not self._to_recall:
            return
        partitions, self._to_recall = self._to_recall, set()
        since_s = self._clock() - self._messenger.recall_s
        try:
            for record in await read_committed_alerts(partitions, consumer, self._settings.kafka, since_s):
                if (alert := self._decoded(record)) is not None:
                    self._messenger.accepts(record.partition, alert)
        except BaseException:
            self._to_recall |= partitions
            raise
        self._refresh_at = 0.0

    async def _commit(self, consumer: Any) -> None:
        async with self._committing:
            offsets = self._offsets.committable()
            mine = {partition.partition: partition for partition in consumer.assignment()}
            ends = {mine[number]: end for number, end in offsets.items() if number in mine}
            if not ends:
                return
            try:
                await consumer.commit(ends)
            except (KafkaError, IllegalStateError) as error:
                # Whoever reads these records again may send them again, under the same ids.
                self._log.info("notify.commit_failed", error=" ".join(str(error).split()))
                return
            self._offsets.mark_committed({partition.partition: end for partition, end in ends.items()})

    async def _leave(self, consumer: Any) -> None:
        """Let the requests under way finish for a moment, commit, and close."""
        if self._under_way:
            tasks = set(self._under_way.values())
            _, late = await asyncio.wait(tasks, timeout=self._settings.stop_timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._under_way.clear()
        await self.on_partitions_revoked(consumer.assignment())
        await consumer.stop()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Leave partitions to others, who resume at the committed offset."""
        gone = [partition.partition for partition in revoked]
        self._queue.forget(gone)
        self._offsets.forget(gone)
        for number in gone:
            self._messenger.forget(number)
        self._to_recall -= set(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Take over partitions."""
        self._to_recall |= set(assigned)


async def commit_start_offset(topic: str, group: str, kafka: Mapping[str, Any], stopping: asyncio.Event) -> bool:
    """Make sure that a group has committed where it starts; return False when ``stopping`` came first.

    A group that has never committed starts at the end, so it sends no old alerts. That start is committed at once, so a
    restart passes over nothing written later. A partition that is added to the topic afterwards is read whole.
    Waits for a topic that does not exist yet. Raises: aiokafka's KafkaError.
    """
    consumer = AIOKafkaConsumer(
        **kafka, group_id=group, enable_auto_commit=False, fetch_max_wait_ms=_FETCH_WAIT_MS, auto_offset_reset="latest"
    )
    try:
        await consumer.start()
        partitions = await _partitions(kafka, topic, stopping)
        if not partitions:
            return False
        consumer.assign(partitions)
        if any([await consumer.committed(partition) is not None for partition in partitions]):
            return True
        ends = await high_watermarks(consumer, partitions)
        try:
            await consumer.commit(ends)
        except (UnknownMemberIdError, CommitFailedError):
            log.debug("notify.start_committed_elsewhere", group=group)  # by another worker of the same group
        return True
    finally:
        await consumer.stop()


async def read_committed_alerts(
    partitions: Collection[TopicPartition], group: Any, kafka: Mapping[str, Any], since_s: float
) -> list[Any]:
    """Return the records of ``partitions`` before the offset that a group's consumer has committed, in order.

    ``since_s``: Unix seconds; older records are left out. Raises: aiokafka's KafkaError.
    """
    committed = {partition: await group.committed(partition) or 0 for partition in partitions}
    records: list[Any] = []
    reader = AIOKafkaConsumer(**kafka, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        await reader.start()
        reader.assign(list(partitions))
        found = await reader.offsets_for_times(dict.fromkeys(partitions, int(since_s * 1000)))
        starts = {partition: at.offset for partition, at in found.items() if at is not None}
        starts = {partition: at for partition, at in starts.items() if at < committed[partition]}
        async for _, some in read_to_end(reader, starts, until=committed):
            # The embedded broker answers every time with the topic's beginning.
            records.extend(record for record in some if record.timestamp >= since_s * 1000)
        return records
    finally:
        await reader.stop()


async def _partitions(kafka: Mapping[str, Any], topic: str, stopping: asyncio.Event) -> list[TopicPartition]:
    is_logged = False
    while not stopping.is_set():
        with contextlib.suppress(LookupError):
            return [TopicPartition(topic, number) for number in (await partitions_of(kafka, [topic]))[topic]]
        if not is_logged:
            log.warning("notify.topic_missing", topic=topic, fix="spendstream topics")
        is_logged = True
        await sleep_unless_stopped(_RETRY_S, stopping)
    return []
