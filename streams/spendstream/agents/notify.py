"""Sends notifications of alerts: one channel for each notifier, so that a dead receiver delays only itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer

from spendstream.agents.notify_channel import Channel, ChannelSettings
from spendstream.notifiers import messenger_of
from spendstream.notifiers.base import Messenger, NotConfigured
from spendstream.notifiers.delivery import NotifyMetrics
from spendstream.schemas import topics
from spendstream.schemas.watch import Notifier
from spendstream.settings import Settings
from spendstream.waiting import Backoff

log = structlog.get_logger(__name__)

_STOP_TIMEOUT_S: Final = 10.0
_RESTART_S: Final = 1.0


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
                await self._apply()
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

    async def _apply(self) -> None:
        wanted = dict(self._wanted)
        await self._end([name for name, (channel, _) in self._running.items() if wanted.get(name) != channel.notifier])
        for name, notifier in wanted.items():
            if name not in self._running and (channel := self._channel(notifier)) is not None:
                self._running[name] = channel, asyncio.create_task(channel.run(), name=f"notify-{name}")

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
