"""Child processes of the embedded stack: started, awaited, stopped in order, never left behind.

A child is ended three ways, each of them by its process id:
- ``stop()`` asks with SIGTERM and insists with SIGKILL;
- ``kill()`` insists at once, which is what crash tests want;
- on Linux the kernel kills it when the process that started it dies, by whatever cause.

A child has a process group of its own: Ctrl-C in a terminal reaches the parent alone, which then stops its children in
order.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from spendstream.errors import SpendstreamError

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
PROBE_INTERVAL_S = 0.02
LOG_TAIL_BYTES = 2_000

_PR_SET_PDEATHSIG = 1


class ProcessFailed(SpendstreamError):
    """A child process did not become ready: it exited, or it took too long. The message ends with its log's tail."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that was free on ``host`` a moment ago. Prefer port 0 if the server can report its choice."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def accepts_tcp(host: str, port: int) -> Callable[[], bool]:
    """Return a readiness probe: true once ``host:port`` accepts a TCP connection."""

    def probe() -> bool:
        try:
            with socket.create_connection((host, port), timeout=1.0):
                return True
        except OSError:
            return False

    return probe


class ManagedProcess:
    """One child process with a log file and a readiness probe.

    ``argv``: the program and its arguments. ``log_path``: receives stdout and stderr, appended to. ``ready``: called
    until it returns true, at most ``ready_timeout_s`` seconds; without it the child is ready as soon as it runs.
    ``env``: added to this process's environment.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log_path: Path,
        ready: Callable[[], bool] | None = None,
        ready_timeout_s: float = READY_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = list(argv)
        self.log_path = log_path
        self.ready = ready
        self.ready_timeout_s = ready_timeout_s
        self.env = dict(env or {})
        self.cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id of the child started last. Raises RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.argv[0]} was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while the child runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def is_running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the child and wait until it is ready. A child that is not ready in time is killed.

        Raises: ProcessFailed, when it exits first or is not ready in time; OSError, when it can't be started at all;
        RuntimeError, when it runs already.
        """
        if self.is_running():
            raise RuntimeError(f"{self.argv[0]} is running already, as process {self.pid}")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = _spawn(self.argv, log.fileno(), {**os.environ, **self.env}, self.cwd)
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """End the child with SIGTERM, and with SIGKILL after ``timeout_s`` seconds. Return its exit status.

        Does nothing to a child that has ended or was never started (status None).
        """
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int | None:
        """End the child with SIGKILL and reap it. Return its exit status, None when it was never started."""
        if self._process is None:
            return None
        self._process.kill()
        return self._process.wait()

    def log_tail(self, max_bytes: int = LOG_TAIL_BYTES) -> str:
        """The last ``max_bytes`` bytes that this run of the child wrote, as text."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - max_bytes))
            return log.read().decode(errors="replace").strip()

    def __enter__(self) -> Self:
        return self if self.is_running() else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.ready_timeout_s
        while True:
            if self.returncode is not None:
                raise ProcessFailed(self._report(f"exited with status {self.returncode} before it was ready"))
            if self.ready is None or self.ready():
                return
            if time.monotonic() >= deadline:
                raise ProcessFailed(self._report(f"was not ready after {self.ready_timeout_s:g} s"))
            time.sleep(PROBE_INTERVAL_S)

    def _report(self, what: str) -> str:
        return f"{' '.join(self.argv)} {what}; log {self.log_path}:\n{self.log_tail()}"


@cache
def _spawner() -> ThreadPoolExecutor:
    # The kernel ties a child's death signal to the *thread* that forked it. A caller's thread may end long before the
    # process does, so every child is forked by this one thread, which lives until the interpreter exits.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def _spawn(argv: list[str], log_fd: int, env: dict[str, str], cwd: Path | None) -> subprocess.Popen[bytes]:
    def fork() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            process_group=0,
            preexec_fn=_die_with_parent(),
        )

    return _spawner().submit(fork).result()


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the child runs between fork and exec, None where the system offers no death signal."""
    if not sys.platform.startswith("linux"):
        return None
    # Between fork and exec nothing may be imported, loaded or locked: another thread of the parent may have held the
    # lock. So the function and the parent's id are looked up here.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent_pid = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the signal was armed.
        if os.getppid() != parent_pid:
            os._exit(1)

    return arm


LOOPBACK = "127.0.0.1"

# Below the range from which systems draw the local ports of outgoing connections (Linux: from 32768). While a server
# inside that range is down, any client, even one trying to reach it, may be given its port, and it can't come back.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_ATTEMPTS = 100


def lasting_port(host: str = LOOPBACK) -> int:
    """Return a free TCP port that no outgoing connection will take while its server is down.

    Raises: OSError, when 100 random ports between 20,000 and 32,000 are all taken.
    """
    for _ in range(_ATTEMPTS):
        port = random.randint(_FIRST_PORT, _LAST_PORT)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {_FIRST_PORT} and {_LAST_PORT} on {host}")


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on the port now. Connections that its last server closed don't count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class RememberedPorts:
    """The ports of named servers, the same at each start, in ``path``: a JSON object such as ``{"kafka": 24711}``.

    A file that can't be read counts as none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ports: dict[str, int] = {}
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads(path.read_text("utf-8")).items()
            self._ports = {name: port for name, port in found if isinstance(port, int) and 0 < port < 65_536}

    def port(self, name: str) -> int:
        """Return the server's port of before, or another if something else listens there. Raises: OSError."""
        port = self._ports.get(name, 0)
        if not port or not is_free(port):
            taken = set(self._ports.values())
            while (port := lasting_port()) in taken:
                pass
            self._ports[name] = port
            draft = self.path.with_name(self.path.name + ".new")
            draft.write_text(json.dumps(self._ports) + "\n", "utf-8")
            draft.replace(self.path)
        return port


_METADATA_KEY, _METADATA_VERSION = 3, 1
_CORRELATION_ID = 1
_CLIENT_ID = b"readiness"
# An empty list of topics: brokers only. (Some brokers create a topic that is asked for by name.)
_METADATA_REQUEST = (
    struct.pack(">hhih", _METADATA_KEY, _METADATA_VERSION, _CORRELATION_ID, len(_CLIENT_ID))
    + _CLIENT_ID
    + struct.pack(">i", 0)
)
_TIMEOUT_S = 2.0


def answers_metadata(host: str, port: int) -> Callable[[], bool]:
    """Return a probe: true once the broker at ``host:port`` answers a metadata request and names a live broker.

    A port that accepts connections is not enough: Kafka listens before it may serve.
    """

    def probe() -> bool:
        try:
            with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
                connection.sendall(struct.pack(">i", len(_METADATA_REQUEST)) + _METADATA_REQUEST)
                # Answer: its size, our correlation id, the number of live brokers.
                answer = _read_exactly(connection, 12)
        except OSError:
            return False
        _, correlation_id, brokers = struct.unpack(">iii", answer)
        return bool(correlation_id == _CORRELATION_ID and brokers > 0)

    return probe


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        chunk = connection.recv(size - len(read))
        if not chunk:
            raise ConnectionResetError("the broker closed the connection before it answered")
        read += chunk
    return read
