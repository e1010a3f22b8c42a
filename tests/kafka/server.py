"""One Apache Kafka broker in a local process: KRaft, broker and controller in one JVM, loopback only, without TLS."""

from __future__ import annotations

import base64
import subprocess
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from spendstream.embedded.process import LOOPBACK, STOP_TIMEOUT_S, ManagedProcess, answers_metadata, lasting_port
from tests.kafka.install import class_archive, installed_libs, java_executable

MAX_HEAP_MB = 768
MAX_RECORD_BYTES = 16 * 1024 * 1024
READY_TIMEOUT_S = 60.0
BROKER_SESSION_MS = 2_000

_LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
_NODE_ID = 1


class KafkaFormatFailed(RuntimeError):
    """Kafka's storage tool refused the folder; the message ends with what it said."""


class LocalKafka:
    """Apache Kafka for tests and benchmarks. Its records survive ``kill()`` and ``restart()``, on the same port.

    ``state_dir``: settings, log and data. ``port``: 0 chooses one that stays free while the broker is down.
    ``archive_to``: receives the classes that were loaded, when the broker stops in order.

    Raises on construction: KafkaNotInstalled, when ``make kafka`` was not run; InstallFailed, when Java is missing.
    """

    optimises_hot_code: ClassVar[bool] = True
    """Whether the JVM's second compiler runs. It pays for itself after a minute of load: the tests turn it off, which
    saves 3 CPU seconds a broker; the benchmarks keep it."""

    def __init__(self, state_dir: Path, port: int = 0, *, archive_to: Path | None = None) -> None:
        self.port = port or lasting_port()
        self._controller_port = lasting_port()
        self._data_dir = state_dir.resolve() / "data"
        self._settings_path = state_dir.resolve() / "server.properties"
        self._jvm = [
            java_executable(),
            # Small and quick to start: a broker on a loaded two-core machine, not a server of its own.
            f"-Xmx{MAX_HEAP_MB}m",
            "-XX:+UseSerialGC",
            "-Xshare:auto",
            *([] if self.optimises_hot_code else ["-XX:TieredStopAtLevel=1"]),
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={_LOG_CONFIG}",
            "-cp",
            f"{installed_libs()}/*",
        ]
        self._process = ManagedProcess(
            [
                *self._jvm,
                f"-XX:ArchiveClassesAtExit={archive_to}" if archive_to else f"-XX:SharedArchiveFile={class_archive()}",
                "kafka.Kafka",
                str(self._settings_path),
            ],
            log_path=state_dir.resolve() / "kafka.log",
            ready=answers_metadata(LOOPBACK, self.port),
            ready_timeout_s=READY_TIMEOUT_S,
        )

    @property
    def bootstrap(self) -> str:
        """The broker's address, ``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the JVM. Raises RuntimeError before the first start."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the JVM runs."""
        return self._process.is_running()

    def start(self) -> Self:
        """Start the broker on what its folder holds, and return once it answers metadata requests.

        Raises: ProcessFailed, when it exits or takes longer than 60 s; KafkaFormatFailed, on a folder it can't use.
        """
        self._settings_path.parent.mkdir(parents=True, exist_ok=True)
        self._settings_path.write_text(self._settings())
        if not (self._data_dir / "meta.properties").exists():
            self._format()
        self._process.start()
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Shut the broker down in order; kill it where that takes longer."""
        self._process.stop(timeout_s)

    def kill(self) -> None:
        """End the broker with SIGKILL. What it acknowledged is there after the next ``start()``."""
        self._process.kill()

    def restart(self) -> Self:
        """Stop in order and start again, with the same port and data."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self if self.is_running() else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _format(self) -> None:
        # One id in 64 begins with a dash: with a blank before it, the tool would take it for an option.
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = [
            *self._jvm,
            f"-XX:SharedArchiveFile={class_archive()}",
            "-XX:TieredStopAtLevel=1",
            "kafka.tools.StorageTool",
        ]
        command = [*tool, "format", f"--cluster-id={cluster_id}", "--config", str(self._settings_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_TIMEOUT_S)
        if done.returncode != 0:
            raise KafkaFormatFailed(f"can't format {self._data_dir}:\n{(done.stdout + done.stderr).strip()[-2_000:]}")

    def _settings(self) -> str:
        settings: dict[str, str | int] = {
            "process.roles": "broker,controller",
            "node.id": _NODE_ID,
            "controller.quorum.voters": f"{_NODE_ID}@{LOOPBACK}:{self._controller_port}",
            "listeners": f"CLIENT://{self.bootstrap},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": f"CLIENT://{self.bootstrap}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._data_dir),
            "num.partitions": 1,
            "auto.create.topics.enable": "false",
            "message.max.bytes": MAX_RECORD_BYTES,
            "replica.fetch.max.bytes": MAX_RECORD_BYTES,
            # One node: nothing to replicate to, and few partitions of the internal topics to recover.
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            # Tests rebalance on purpose: no pause for more members, and sessions as short as one second.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1_000,
            # Started again after a kill, the controller waits this long for the broker it remembers (default 9 s).
            "broker.session.timeout.ms": BROKER_SESSION_MS,
            "broker.heartbeat.interval.ms": BROKER_SESSION_MS // 10,
            # Kafka's own default reserves 128 MB of the heap for compaction.
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
            "log.cleaner.backoff.ms": 1_000,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


def archive_classes() -> None:
    """Write the class archive that brokers start from, unless it is there. Takes 10 s, once for a Kafka and a Java."""
    archive = class_archive()
    if archive.exists():
        return
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".archiving-") as folder:
        draft = Path(folder) / archive.name
        LocalKafka(Path(folder) / "broker", archive_to=draft).start().stop(timeout_s=60)
        if draft.exists():
            draft.replace(archive)
