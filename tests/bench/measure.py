"""What a benchmark measures: rates between two moments, and the CPU time of each process in between."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, user and system; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True)
class Sample:
    """Events done at a moment, and CPU seconds by process name."""

    at: float
    done: int
    cpu: dict[str, float]


@dataclass(frozen=True)
class Result:
    """One line of the table. ``cpu_us``: CPU µs per event by process."""

    name: str
    events: int
    seconds: float
    cpu_us: dict[str, float]

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


def measure(
    name: str,
    total: int,
    done: Callable[[], int],
    pids: dict[str, int],
    *,
    timeout_s: float,
    poll_s: float = 0.1,
    warm: float = 0.1,
) -> Result:
    """Watch a job from when a tenth is done (it has started) until all is. Asking costs CPU too: ``poll_s``."""
    first: Sample | None = None
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        count = done()
        sample = Sample(time.monotonic(), count, {process: cpu_s(pid) for process, pid in pids.items()})
        if first is None and count >= warm * total:
            first = sample
        if count >= total and first is not None and count > first.done:
            events = count - first.done
            cpu = {process: (sample.cpu[process] - first.cpu[process]) / events * 1e6 for process in pids}
            return Result(name, events, sample.at - first.at, cpu)
        time.sleep(poll_s)
    raise TimeoutError(f"{name}: {done()} of {total} events in {timeout_s} s")


class Committed:
    """Asks how far a group has committed a topic."""

    def __init__(self, bootstrap: str, group: str, topic: str, partitions: int) -> None:
        self._bootstrap, self._group = bootstrap, group
        self._at = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._loop = asyncio.new_event_loop()
        self._consumer: AIOKafkaConsumer | None = None

    def __call__(self) -> int:
        return self._loop.run_until_complete(self._sum())

    async def _sum(self) -> int:
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap, group_id=self._group, enable_auto_commit=False
            )
            await self._consumer.start()
        return sum([await self._consumer.committed(at) or 0 for at in self._at])

    def close(self) -> None:
        if self._consumer is not None:
            self._loop.run_until_complete(self._consumer.stop())
        self._loop.close()
