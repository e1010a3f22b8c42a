"""The alerting side of a worker: detector and notifiers run beside the meter, and none of their faults may stop it."""

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

CHECK_WATCHES_EVERY_S: Final = 2.0
"""How often the watches file is checked for changes."""

RESTARTS: Final = Backoff(first_s=1.0, max_s=60.0)
"""Between the failures of an agent. One that ran for longer than the longest pause starts from the first again."""


class Agent(Protocol):
    """What runs until it is stopped."""

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
        path = settings.watches_path if self._roles else None
        self._file = None if path is None else WatchFile(path, settings.meter_dimensions, os.environ)
        self._watches = default_watches(settings.meter_dimensions) if self._file is None else self._file.watches
        self._running: dict[str, Any] = {}
        self._stopping = asyncio.Event()

    def tasks(self) -> list["asyncio.Task[None]"]:
        """Start the agents of the worker's roles."""
        makers: dict[str, Callable[[], Agent]] = {
            "detect": lambda: DetectAgent(self._settings, self._watches, self._metrics),
            "notify": lambda: NotifyAgent(self._settings, self._watches.notifiers, self._metrics),
        }
        started = [asyncio.create_task(self._keep(role, makers[role]), name=role) for role in sorted(self._roles)]
        if self._file is not None:
            started.append(asyncio.create_task(self._follow(self._file), name="watches"))
        return started

    async def stop(self) -> None:
        """Stop the agents; each ends in order."""
        self._stopping.set()
        await asyncio.gather(*(agent.stop() for agent in self._running.values()), return_exceptions=True)

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
        """Reload the watches whenever their file is edited. An invalid edit changes nothing."""
        while not self._stopping.is_set():
            await asyncio.sleep(CHECK_WATCHES_EVERY_S)
            watches: Watches | None = await asyncio.to_thread(file.changed)
            if watches is None:
                continue
            self._watches = watches
            for agent in self._running.values():
                agent.reconfigure(watches.notifiers if isinstance(agent, NotifyAgent) else watches)
