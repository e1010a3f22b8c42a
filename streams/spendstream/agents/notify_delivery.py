"""Tells one notification until the receiver took it, refused it, or its time is over; and counts which."""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol
from uuid import UUID

import structlog

from spendstream.notifiers.base import Messenger
from spendstream.notifiers.bundles import Waiting
from spendstream.notifiers.errors import Refused, Unreachable
from spendstream.pause import pause
from spendstream.schemas.watch import Notifier
from spendstream.sinks.clickhouse import Backoff

log = structlog.get_logger(__name__)

Outcome = Literal["expired", "refused", "failed"]

_AT_ONCE: Final = 4
_REMEMBERED: Final = 20_000


class NotifyMetrics(Protocol):
    """What is reported, by the notifier's name."""

    def notified(self, notifier: str, seconds: float) -> None:
        """A transition was told, so long after it was written."""

    def notify_failed(self, notifier: str) -> None:
        """An attempt to tell failed; it is tried again."""

    def notification_dropped(self, notifier: str, outcome: Outcome) -> None:
        """A transition will not be told: too old, refused for good, or a fault of ours."""


class Delivery:
    """Tells one notifier. ``clock``: Unix seconds. ``stopping`` ends the attempts."""

    def __init__(
        self,
        notifier: Notifier,
        messenger: Messenger,
        metrics: NotifyMetrics,
        backoff: Backoff,
        clock: Callable[[], float],
        stopping: asyncio.Event,
    ) -> None:
        self._notifier = notifier
        self._messenger = messenger
        self._metrics = metrics
        self._backoff = backoff
        self._clock = clock
        self._stopping = stopping
        self._told: OrderedDict[UUID, None] = OrderedDict()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._log = log.bind(notifier=notifier.name)

    def was_told(self, one: Waiting) -> bool:
        """Whether this process told a transition already: a rebalance may bring it again."""
        return one.alert.transition_id in self._told

    async def settle(self, bundle: list[Waiting]) -> bool:
        """Return True once each of a bundle is told or dropped, False when stopped before."""
        old: list[Waiting] = []
        fresh: list[Waiting] = []
        for one in bundle:
            if not self.was_told(one):
                (old if self._is_expired(one) else fresh).append(one)
        self._drop(old, "expired", "older than give_up_after")
        return not fresh or await self._tell(fresh)

    async def _tell(self, bundle: list[Waiting]) -> bool:
        alerts = [one.alert for one in bundle]
        # The newest one's: none is dropped before its time, and the notification stays the same at each attempt.
        deadline = max(one.written_s for one in bundle) + self._notifier.give_up_after
        attempt = 0
        while not self._stopping.is_set():
            attempt += 1
            try:
                async with self._slots:
                    await self._messenger.send(alerts, datetime.fromtimestamp(self._clock(), UTC))
            except Unreachable as error:
                self._metrics.notify_failed(self._notifier.name)
                pause_s = max(self._backoff.pause_s(attempt), error.retry_after_s or 0.0)
                if self._clock() + pause_s > deadline:
                    self._drop(bundle, "expired", str(error))
                    return True
                if attempt == 1:
                    self._log.warning("notify.failed", watch=alerts[0].watch, error=str(error))
                await pause(pause_s, self._stopping)
            except Refused as error:
                self._metrics.notify_failed(self._notifier.name)
                self._drop(bundle, "refused", str(error))
                return True
            except Exception as error:
                # A fault of ours in one notifier must neither stop the others nor come again for ever. Its words may
                # hold anything: its kind and place must do.
                self._metrics.notify_failed(self._notifier.name)
                self._drop(bundle, "failed", f"{type(error).__name__} at {_place(error)}")
                return True
            else:
                self._mark_told(bundle)
                return True
        return False

    def _mark_told(self, bundle: list[Waiting]) -> None:
        now = self._clock()
        for one in bundle:
            self._told[one.alert.transition_id] = None
            self._metrics.notified(self._notifier.name, max(0.0, now - one.written_s))
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self._log.info("notify.told", watch=bundle[0].alert.watch, transitions=len(bundle))

    def _drop(self, bundle: Iterable[Waiting], outcome: Outcome, words: str) -> None:
        for one in bundle:
            self._metrics.notification_dropped(self._notifier.name, outcome)
            at = {"watch": one.alert.watch, "transition_id": str(one.alert.transition_id)}
            self._log.error("notify.dropped", outcome=outcome, reason=words, **at)

    def _is_expired(self, one: Waiting) -> bool:
        return self._clock() - one.written_s > self._notifier.give_up_after


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
