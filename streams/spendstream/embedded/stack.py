"""The embedded stack: broker, ClickHouse, topics, tables and workers on this machine, in one state folder.

    D/clickhouse/       ClickHouse's data: it stays
    D/logs/             the logs of the broker and the workers
    D/ports             the port of each server, used again at the next start
    D/env               the settings that reach the stack, KEY=VALUE lines, written before the stack is ready
    D/lock              held while the stack runs

The broker forgets its records when it ends; ClickHouse keeps its rows.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self
from urllib.request import urlopen

from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.clickhouse.migrate import Migrator, migration_settings
from spendstream.embedded.broker import EmbeddedBroker
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.embedded.process import LOOPBACK, ManagedProcess, RememberedPorts
from spendstream.errors import SpendstreamError
from spendstream.kafka.topics import ensure_topics, topic_specs
from spendstream.settings import Settings
from spendstream.waiting import Backoff

SESSION_TIMEOUT_S: Final = 3.0
"""The embedded broker lets a group's first member wait half of this."""

RESTARTS: Final = Backoff(first_s=0.5, max_s=30.0)
STEADY_S: Final = 60.0
"""A worker that ran this long is restarted as promptly as if it had never failed."""


class StateDirInUse(SpendstreamError):
    """Another stack runs in the folder."""


class BrokerLost(SpendstreamError):
    """The embedded broker ended, and with it every record that was not metered yet."""


@dataclass
class _Worker:
    process: ManagedProcess
    name: str
    started_at: float = 0.0
    restart_at: float | None = None
    failures: int = 0


@dataclass
class EmbeddedStack:
    """The whole stack, started in order and stopped in reverse.

    ``state_dir``: made if missing; one stack a folder. ``settings``: further settings by their field names, such as
    ``rate_cards``; addresses are the stack's own. ``tell``: receives a line for each event worth knowing.
    """

    state_dir: Path
    workers: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        self.state_dir = self.state_dir.resolve()
        self.settings = Settings(**self.extra)
        self._lock: IO[str] | None = None
        self._broker: EmbeddedBroker | None = None
        self._clickhouse: EmbeddedClickHouse | None = None
        self._workers: list[_Worker] = []

    def start(self) -> Self:
        """Start everything; return when it is ready. Not from within an event loop.

        Raises: StateDirInUse; ProcessFailed, with the log of what did not come up. Nothing is left running then.
        """
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.state_dir / "lock")
        self._ports = RememberedPorts(self.state_dir / "ports")
        try:
            self._start_servers()
            prepare(self.settings)
            draft = self.env_path.with_name("env.new")
            lines = [f"{name}={value}\n" for name, value in self.environment.items() if value]
            draft.write_text("".join(lines), "utf-8")
            # Renamed into place: a reader sees the former file or the whole new one.
            draft.replace(self.env_path)
            for number in range(1, self.workers + 1):
                self._start_worker(number)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the workers, so that they flush while they can, then the broker and ClickHouse. ``D/env`` stays."""
        for worker in self._workers:
            worker.process.stop()
        if self._broker is not None:
            self._broker.stop()
        if self._clickhouse is not None:
            self._clickhouse.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def watch(self) -> None:
        """Supervise the processes: call it every second or so. A worker or ClickHouse that died is restarted.

        Raises: BrokerLost.
        """
        if self._broker is not None and not self._broker.is_running():
            raise BrokerLost(f"the broker ended, and what was not metered is lost: see {self.logs / 'broker.log'}")
        if self._clickhouse is not None and not self._clickhouse.is_running():
            self.tell("ClickHouse ended; restarting it")
            self._clickhouse.start()
        for worker in self._workers:
            self._revive(worker)

    @property
    def env_path(self) -> Path:
        """The file of the stack's settings."""
        return self.state_dir / "env"

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.state_dir / "logs"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that reach this stack."""
        settings = self.settings
        watches = settings.watches_path
        return {
            "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": settings.kafka_security_protocol,
            "KAFKA_SESSION_TIMEOUT_S": f"{settings.kafka_session_timeout_s:g}",
            "KAFKA_PARTITIONS": str(settings.kafka_partitions),
            "KAFKA_REPLICATION": str(settings.kafka_replication),
            "KAFKA_GROUP": settings.kafka_group,
            "KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
            "CLICKHOUSE_URL": settings.clickhouse_url,
            "CLICKHOUSE_USER": settings.clickhouse_user,
            "CLICKHOUSE_PASSWORD": settings.clickhouse_password,
            "CLICKHOUSE_DATABASE": settings.clickhouse_database,
            "CLICKHOUSE_CLUSTER": settings.clickhouse_cluster or "",
            "METRICS_HOST": settings.metrics_host,
            "METRICS_PORT": str(settings.metrics_port),
            "RATE_CARDS": os.pathsep.join(str(path.resolve()) for path in settings.rate_card_paths),
            "RATE_BOOKS": str(settings.rate_books.resolve()),
            # Empty: the built-in watches, whatever the shell that started this has set.
            "WATCHES": "" if watches is None else str(watches.resolve()),
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start_servers(self) -> None:
        self.logs.mkdir(exist_ok=True)
        self._broker = EmbeddedBroker(self._ports.port("kafka"), log_path=self.logs / "broker.log").start()
        self._clickhouse = EmbeddedClickHouse(self.state_dir / "clickhouse", self._ports.port("clickhouse")).start()
        self.settings = Settings(
            **{
                **self.extra,
                "kafka_bootstrap_servers": self._broker.bootstrap,
                "kafka_security_protocol": "PLAINTEXT",
                "kafka_session_timeout_s": SESSION_TIMEOUT_S,
                "kafka_replication": 1,
                "clickhouse_url": self._clickhouse.url,
                "clickhouse_user": "default",
                "clickhouse_password": "",
                "clickhouse_cluster": None,
                "metrics_host": LOOPBACK,
                "metrics_port": self._ports.port("worker"),
            }
        )

    def _start_worker(self, number: int) -> None:
        name = "worker" if number == 1 else f"worker-{number}"
        port = self.settings.metrics_port if number == 1 else self._ports.port(name)
        process = ManagedProcess(
            [sys.executable, "-m", "spendstream.cli", "worker"],
            log_path=self.logs / f"{name}.log",
            ready=_is_ready(f"http://{LOOPBACK}:{port}/readyz"),
            env={**self.environment, "METRICS_PORT": str(port)},
        )
        worker = _Worker(process, name, started_at=time.monotonic())
        self._workers.append(worker)
        process.start()

    def _revive(self, worker: _Worker) -> None:
        now = time.monotonic()
        if worker.process.is_running():
            return
        if worker.restart_at is None:
            worker.failures = 1 if now - worker.started_at > STEADY_S else worker.failures + 1
            pause_s = RESTARTS.pause_s(worker.failures)
            worker.restart_at = now + pause_s
            status = worker.process.returncode
            self.tell(
                f"{worker.name} ended with status {status}; restart in {pause_s:.1f} s. See {worker.process.log_path}"
            )
        elif now >= worker.restart_at:
            worker.restart_at, worker.started_at = None, now
            # Not awaited: the others need supervision meanwhile.
            worker.process.ready = None
            worker.process.start()
            self.tell(f"{worker.name} restarted, as process {worker.process.pid}")


def prepare(settings: Settings) -> None:
    """Make the topics and the tables that are missing. Blocks; not from within an event loop."""
    specs, replication = topic_specs(settings), settings.kafka_replication
    asyncio.run(ensure_topics(settings.kafka_client(), specs, replication=replication))
    with open_client(clickhouse_settings(settings)) as connected:
        Migrator(connected, migration_settings(settings)).up()


def _locked(path: Path) -> IO[str]:
    # Not truncated when opened: it may hold the other stack's process id.
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise StateDirInUse(
            f"{path.parent} is in use by another `spendstream up`, process {holder}: stop it, or give --state-dir"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _is_ready(url: str) -> Callable[[], bool]:
    def probe() -> bool:
        try:
            with urlopen(url, timeout=2.0) as response:
                return bool(response.status == 200)
        except OSError:  # also HTTPError: 503 until it is ready
            return False

    return probe
