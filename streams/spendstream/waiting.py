"""Waiting in asyncio: between attempts, until a stop, and for a blocking call."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: they double from ``first_s`` up to ``max_s``, each drawn from its upper half.

    The draw keeps many clients from coming back at the same moment.
    """

    first_s: float = 0.1
    max_s: float = 10.0

    def pause_s(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Return the pause after the failed attempt number ``attempt``, counted from 1."""
        whole: float = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return whole * (0.5 + draw() / 2)


async def sleep_unless_stopped(seconds: float, stopping: asyncio.Event) -> None:
    """Sleep for ``seconds``; return at once when ``stopping`` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass


async def in_thread(work: Callable[[], T], name: str) -> T:
    """Run ``work`` in a thread of its own and return its result; what it raises is raised here.

    ``asyncio.to_thread`` shares a few threads among all callers, and an exiting interpreter waits for each of them: one
    server that never answers would delay the other sinks, and then the exit. A daemon thread does neither. When the
    caller is cancelled, the work continues and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def resolve(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = work()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(resolve, value, error)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody waits

    threading.Thread(target=run, name=name, daemon=True).start()
    return await result
