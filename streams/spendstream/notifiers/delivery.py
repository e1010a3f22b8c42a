"""From a transition that was read to one that is delivered or dropped: queue, attempts, and offsets to commit."""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol
from uuid import UUID

import structlog

from spendstream.notifiers.base import Messenger, Refused, Unreachable
from spendstream.schemas.alert import Alert
from spendstream.waiting import Backoff, sleep_unless_stopped

log = structlog.get_logger(__name__)

MAX_BATCH: Final = 100
"""Transitions in one notification."""

Outcome = Literal["expired", "refused", "failed"]

_MAX_CONCURRENT: Final = 4
_MAX_REMEMBERED: Final = 20_000


@dataclass(frozen=True)
class QueuedAlert:
    """A transition to send, and where it was read. ``written_s``: Unix seconds of its record."""

    alert: Alert
    partition: int
    offset: int
    written_s: float


class NotificationQueue:
    """Transitions that wait to be sent, by watch, in the order they were read. Times are seconds of the caller's clock.

    The first transition of a watch is due at once. After a notification the watch waits for the group interval;
    whatever arrives meanwhile is sent together at its end. So the first notification has no added latency, and a
    hundred groups that fire one after the other make two notifications, not a hundred.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._queued: dict[str, list[QueuedAlert]] = {}
        self._waits_until: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queued.values()))

    def add(self, queued: QueuedAlert) -> None:
        """Queue a transition."""
        self._queued.setdefault(queued.alert.watch, []).append(queued)

    def take_due(self, now_s: float, busy: Collection[str] = ()) -> list[list[QueuedAlert]]:
        """Remove and return the batches that are due, one for each watch. ``busy``: watches with one under way."""
        due = [watch for watch in self._queued if watch not in busy and self._waits_until.get(watch, now_s) <= now_s]
        batches = []
        for watch in due:
            queued = self._queued.pop(watch)
            batches.append(queued[:MAX_BATCH])
            if rest := queued[MAX_BATCH:]:
                self._queued[watch] = rest
        return batches

    def mark_sent(self, watch: str, now_s: float) -> None:
        """Begin the group interval of a watch: a notification of it was sent."""
        self._waits_until = {name: until for name, until in self._waits_until.items() if until > now_s}
        self._waits_until[watch] = now_s + self._interval_s

    def next_due_s(self, now_s: float, busy: Collection[str] = ()) -> float | None:
        """Return when the next batch is due; None where nothing is queued."""
        return min((self._waits_until.get(name, now_s) for name in self._queued if name not in busy), default=None)

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop what was read from partitions that others read now."""
        gone = set(partitions)
        kept = {name: [one for one in some if one.partition not in gone] for name, some in self._queued.items()}
        self._queued = {name: some for name, some in kept.items() if some}


class OffsetTracker:
    """Offsets of one consumer group. A partition may be committed up to its first record that is still open."""

    def __init__(self) -> None:
        self._open: dict[int, set[int]] = {}
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}

    def open(self, partition: int, offset: int) -> None:
        """Take note of a record that has to be delivered; it is open until ``close``."""
        self._next[partition] = offset + 1
        self._open.setdefault(partition, set()).add(offset)

    def skip(self, partition: int, offset: int) -> None:
        """Take note of a record that needs nothing."""
        self._next[partition] = offset + 1

    def close(self, partition: int, offset: int) -> None:
        """Take note that a record was delivered or dropped. Does nothing for a forgotten partition."""
        self._open.get(partition, set()).discard(offset)

    def committable(self) -> dict[int, int]:
        """Return, for each partition that has moved since its last commit, the offset to resume at."""
        ends = {partition: min(self._open.get(partition) or {end}) for partition, end in self._next.items()}
        return {partition: end for partition, end in ends.items() if end != self._committed.get(partition)}

    def mark_committed(self, offsets: dict[int, int]) -> None:
        """Take note that these offsets were committed."""
        self._committed.update(offsets)

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop partitions that others read now."""
        for partition in partitions:
            for known in (self._open, self._next, self._committed):
                known.pop(partition, None)


class NotifyMetrics(Protocol):
    """What is reported, by the notifier's name."""

    def notified(self, notifier: str, seconds: float) -> None:
        """A transition was delivered, ``seconds`` after it was written."""

    def notify_failed(self, notifier: str) -> None:
        """An attempt failed."""

    def notification_dropped(self, notifier: str, outcome: Outcome) -> None:
        """A transition will not be delivered: expired, refused by the receiver, or failed through a bug."""


class Delivery:
    """Delivers to one notifier. ``clock``: Unix seconds. ``stopping`` ends the attempts."""

    def __init__(
        self,
        messenger: Messenger,
        metrics: NotifyMetrics,
        backoff: Backoff,
        clock: Callable[[], float],
        stopping: asyncio.Event,
    ) -> None:
        self._messenger = messenger
        self._name = messenger.notifier.name
        self._give_up_after_s = messenger.notifier.give_up_after
        self._metrics = metrics
        self._backoff = backoff
        self._clock = clock
        self._stopping = stopping
        self._sent: OrderedDict[UUID, None] = OrderedDict()
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self._log = log.bind(notifier=self._name)

    def was_sent(self, queued: QueuedAlert) -> bool:
        """Whether this process has sent a transition already: a rebalance may bring it again."""
        return queued.alert.transition_id in self._sent

    async def deliver(self, batch: list[QueuedAlert]) -> bool:
        """Return True once each transition is sent or dropped, False when stopped before."""
        expired: list[QueuedAlert] = []
        fresh: list[QueuedAlert] = []
        for queued in batch:
            if not self.was_sent(queued):
                is_expired = self._clock() - queued.written_s > self._give_up_after_s
                (expired if is_expired else fresh).append(queued)
        self._drop(expired, "expired", "older than give_up_after")
        return not fresh or await self._send(fresh)

    async def _send(self, batch: list[QueuedAlert]) -> bool:
        alerts = [queued.alert for queued in batch]
        # Of the newest: none is dropped before its time, and the notification stays the same at each attempt.
        deadline = max(queued.written_s for queued in batch) + self._give_up_after_s
        attempt = 0
        while not self._stopping.is_set():
            attempt += 1
            try:
                async with self._slots:
                    await self._messenger.send(alerts, datetime.fromtimestamp(self._clock(), UTC))
            except Unreachable as error:
                self._metrics.notify_failed(self._name)
                pause_s = max(self._backoff.pause_s(attempt), error.retry_after_s or 0.0)
                if self._clock() + pause_s > deadline:
                    self._drop(batch, "expired", str(error))
                    return True
                if attempt == 1:
                    self._log.warning("notify.failed", watch=alerts[0].watch, error=str(error))
                await sleep_unless_stopped(pause_s, self._stopping)
            except Refused as error:
                self._metrics.notify_failed(self._name)
                self._drop(batch, "refused", str(error))
                return True
            except Exception as error:
                # A bug in one notifier must neither stop the others nor be retried for ever. Its message may hold
                # anything, so only its type and place are logged.
                self._metrics.notify_failed(self._name)
                last = traceback.extract_tb(error.__traceback__)[-1]
                self._drop(batch, "failed", f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}")
                return True
            else:
                self._mark_sent(batch)
                return True
        return False

    def _mark_sent(self, batch: list[QueuedAlert]) -> None:
        now = self._clock()
        for queued in batch:
            self._sent[queued.alert.transition_id] = None
            self._metrics.notified(self._name, max(0.0, now - queued.written_s))
        while len(self._sent) > _MAX_REMEMBERED:
            self._sent.popitem(last=False)
        self._log.info("notify.sent", watch=batch[0].alert.watch, transitions=len(batch))

    def _drop(self, batch: Iterable[QueuedAlert], outcome: Outcome, reason: str) -> None:
        for queued in batch:
            self._metrics.notification_dropped(self._name, outcome)
            ids = {"watch": queued.alert.watch, "transition_id": str(queued.alert.transition_id)}
            self._log.error("notify.dropped", outcome=outcome, reason=reason, **ids)
