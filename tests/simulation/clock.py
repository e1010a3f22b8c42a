"""Virtual time: an asyncio event loop whose clock jumps to the next timer. Nothing waits, no thread runs."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from tests.unit.log import NOON

PROCESS: ContextVar[str] = ContextVar("process", default="")
"""The simulated process that runs: a task belongs to the process that created it."""


class _Jump(selectors.SelectSelector):
    """Waits for no file: where the loop would wait, its clock moves on."""

    clock: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("every task waits, and no timer will wake one: a deadlock")
        self.clock.now_s += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for one history. ``think``: draws how long a thread works, in seconds, after its work was done at once."""

    def __init__(self, think: Callable[[], float]) -> None:
        self.now_s = 0.0
        self.tasks: dict[str, list[asyncio.Task[Any]]] = {}
        self.dead: set[str] = set()
        self._think = think
        jump = _Jump()
        jump.clock = self
        super().__init__(jump)
        self.set_task_factory(self._task)  # type: ignore[arg-type]
        self.set_exception_handler(lambda *_: None)  # of tasks that were killed; the worker's own are looked at

    def time(self) -> float:
        return self.now_s

    def wall_clock(self) -> datetime:
        return NOON + timedelta(seconds=self.now_s)

    def now_ms(self) -> int:
        return int(self.wall_clock().timestamp() * 1000)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        return self.resolve(lambda: func(*args), 0, self._think())

    def resolve(self, work: Callable[[], Any], there_s: float, back_s: float) -> asyncio.Future[Any]:
        """Do ``work`` after ``there_s`` seconds, whoever still waits, and give what it did ``back_s`` seconds later."""
        future: asyncio.Future[Any] = self.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def do() -> None:
            result, error = None, None
            try:
                result = work()
            except Exception as raised:
                error = raised
            if back_s:
                self.call_later(back_s, settle, result, error)
            else:
                settle(result, error)

        if there_s:
            self.call_later(there_s, do)
        else:
            do()
        return future

    def nothing(self) -> asyncio.Future[Any]:
        """Return what a dead process awaits: its tasks unwind, and do nothing more."""
        future: asyncio.Future[Any] = self.create_future()
        future.cancel()
        return future

    def finish(self) -> None:
        """Kill all that still runs, let it unwind, and close the loop."""
        for process in list(self.tasks):
            self.kill(process)
        left = asyncio.all_tasks(self)
        if left:
            self.run_until_complete(asyncio.wait(left, timeout=1))
        self.close()

    def kill(self, process: str) -> None:
        """End a process's tasks where they stand."""
        self.dead.add(process)
        for task in self.tasks.pop(process, []):
            task.cancel()

    def _task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        own = self.tasks.setdefault(PROCESS.get(), [])
        if len(own) > 50:
            own[:] = [each for each in own if not each.done()]
        own.append(task)
        return task


class Stopwatch:
    """Stands for the modules ``time`` and ``datetime``'s class, where the product asks what time it is."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.monotonic = self.perf_counter = loop.time
        self.fromtimestamp = datetime.fromtimestamp

    def now(self, zone: tzinfo | None = None) -> datetime:
        return self._loop.wall_clock().astimezone(zone or UTC)

    def time(self) -> float:
        return self._loop.wall_clock().timestamp()
