"""The alerting side of a worker: detector and notifiers beside the meter, which none of their faults may stop."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog

from spendstream.agents.detect import DetectAgent
from spendstream.agents.notify import NotifyAgent
from spendstream.metrics import Metrics
from spendstream.schemas.watch import Watches
from spendstream.settings import Settings
from spendstream.waiting import Backoff, sleep_unless_stopped
from spendstream.watches import WatchFile, default_watches

log = structlog.get_logger(__name__)

LOOKED_AT_EVERY_S: Final = 2.0
"""How often the watches file is looked at."""

RESTARTS: Final = Backoff(first_s=1.0, max_s=60.0)
"""Between the failures of an agent. One that ran for longer than the longest pause starts from the first again."""


class Agent(Protocol):
    """What runs until it is stopped, and takes other watches meanwhile."""

    def run(self) -> Coroutine[Any, Any, None]: ...
    async def stop(self) -> None: ...


class Alerting:
    """Runs the roles ``detect`` and ``notify`` of a worker, as far as it has them.

    Raises: WatchesError, on construction alone.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._roles = {"detect", "notify"} & set(settings.worker_roles)
        self._file = self._read_file() if self._roles else None
        self._watches = default_watches(settings.meter_dimensions) if self._file is None else self._file.watches
        self._running: dict[str, Any] = {}
        self._stopping = asyncio.Event()

    def tasks(self) -> list["asyncio.Task[None]"]:
        """Start what the worker's roles ask for."""
        makers: dict[str, Callable[[], Agent]] = {"detect": self._detect, "notify": self._notify}
        started = [asyncio.create_task(self._keep(role, makers[role]), name=role) for role in sorted(self._roles)]
        if self._file is not None:
            started.append(asyncio.create_task(self._follow(self._file), name="watches"))
        return started

    async def stop(self) -> None:
        """Stop the agents; each ends in order."""
        self._stopping.set()
        await asyncio.gather(*(agent.stop() for agent in self._running.values()), return_exceptions=True)

    def _detect(self) -> DetectAgent:
        return DetectAgent(self._settings, self._watches, self._metrics)

    def _notify(self) -> NotifyAgent:
        return NotifyAgent(self._settings, self._watches.notifiers, self._metrics)

    def _read_file(self) -> WatchFile | None:
        path = self._settings.watches_path
        return None if path is None else WatchFile(path, self._settings.meter_dimensions, os.environ)

    async def _keep(self, role: str, make: Callable[[], Agent]) -> None:
        """Run an agent, and restart it after a failure with backoff. Its state is in Kafka."""
        attempt = 0
        while not self._stopping.is_set():
            agent = self._running[role] = make()
            began, failure = time.monotonic(), None
            try:
                await agent.run()
            except Exception as error:  # a fault in alerting must not stop the metering
                failure = error
            attempt = 1 if time.monotonic() - began > RESTARTS.max_s else attempt + 1
            pause_s = round(RESTARTS.pause_s(attempt), 3)
            if failure is not None:
                self._metrics.agent_failed(role)
                log.error("agent.failed", agent=role, error=repr(failure), retry_in_s=pause_s, exc_info=failure)
            await sleep_unless_stopped(pause_s, self._stopping)

    async def _follow(self, file: WatchFile) -> None:
        """Hand on the watches whenever their file is edited. An edit that can't be used changes nothing."""
        while not self._stopping.is_set():
            await asyncio.sleep(LOOKED_AT_EVERY_S)
            watches: Watches | None = await asyncio.to_thread(file.changed)
            if watches is not None:
                self._watches = watches
                self._hand_on(watches)

    def _hand_on(self, watches: Watches) -> None:
        for agent in self._running.values():
            if isinstance(agent, NotifyAgent):
                agent.reconfigure(watches.notifiers)
            else:
                agent.reconfigure(watches)
