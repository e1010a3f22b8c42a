"""ClickHouse without a ClickHouse server: chDB behind ClickHouse's HTTP protocol, in a process of its own.

    python -m spendstream.embedded.clickhouse --path DIR --port 8123

It keeps its data in DIR. When it is ready it writes ``{"url": "http://127.0.0.1:8123", "pid": 4711}`` to stdout and to
DIR/server.json; port 0 chooses a free port. It survives kill -9: an INSERT that was answered stays. Nothing that speaks
to it needs to know that it is embedded.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from urllib.request import urlopen

from spendstream.embedded.process import READY_TIMEOUT_S, STOP_TIMEOUT_S, ManagedProcess

HOST = "127.0.0.1"
DRAIN_TIMEOUT_S = 5.0
EXIT_PATH_IN_USE = 3
EXIT_PORT_IN_USE = 4


class EmbeddedClickHouse:
    """The server as a child process, over the data in ``path``.

    With ``port`` 0 the first start chooses a free port; later starts use the same one again, so that clients find it.
    """

    def __init__(self, path: Path, port: int = 0, *, ready_timeout_s: float = READY_TIMEOUT_S) -> None:
        self.path = path
        self.port = port
        self._process = ManagedProcess(
            [], log_path=path / "server.log", ready=self._is_ready, ready_timeout_s=ready_timeout_s
        )

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``; the port is known once the server has been started."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the server started last. Raises RuntimeError before the first start."""
        return self._process.pid

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises: ProcessFailed, when the folder or the port is in use, or the server does not answer in time.
        """
        self._process.argv = [
            *(sys.executable, "-m", "spendstream.embedded.clickhouse"),
            *("--path", str(self.path), "--host", HOST, "--port", str(self.port)),
        ]
        self._process.start()
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """Let running statements end, then stop. Return the exit status, 0 for a clean stop."""
        return self._process.stop(timeout_s)

    def kill(self) -> int | None:
        """End the server with SIGKILL, as a crash would."""
        return self._process.kill()

    def is_running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process.is_running()

    def __enter__(self) -> Self:
        return self if self.is_running() else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        try:
            announced = json.loads(_announcement(self.path).read_text())
            if announced["pid"] != self.pid:
                return False  # left by a server that was killed
            self.port = int(urlsplit(announced["url"]).port)
            with urlopen(f"{self.url}/ping", timeout=5.0) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit status: 0, or 3 and 4 when the folder or the port is in use."""
    parser = argparse.ArgumentParser(
        prog="python -m spendstream.embedded.clickhouse", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--path", type=Path, required=True, help="folder of the data; one server a folder")
    parser.add_argument("--port", type=int, default=0, help="TCP port, 0 for a free one (default)")
    parser.add_argument("--host", default=HOST, help=f"address to listen on (default {HOST})")
    options = parser.parse_args(argv)
    # ClickHouse reads its default time zone once, from the environment. A meter's clock is UTC, wherever it runs.
    os.environ["TZ"] = "UTC"
    time.tzset()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return _serve(options.path, options.host, options.port, stop)


def _serve(path: Path, host: str, port: int, stop: threading.Event) -> int:
    # The engine takes half a second to load and belongs in the server's process only.
    from spendstream.embedded.clickhouse_engine import Engine, PathInUse
    from spendstream.embedded.clickhouse_http import ClickHouseServer

    try:
        engine = Engine(path)
    except PathInUse as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PATH_IN_USE
    try:
        server = ClickHouseServer((host, port), engine)
    except OSError as error:
        sys.stderr.write(f"can't listen on {host}:{port}: {error.strerror}\n")
        engine.close()
        return EXIT_PORT_IN_USE
    threading.Thread(target=server.serve_forever, args=(0.05,), name="accept", daemon=True).start()
    _announce(path, host, int(server.server_address[1]))
    stop.wait()
    server.shutdown()
    server.server_close()
    if not server.drain(DRAIN_TIMEOUT_S):
        # Statements without an answer are cut off, as by a crash; the engine can't be closed under them.
        sys.stderr.write(f"statements still ran after {DRAIN_TIMEOUT_S:g} s and were cut off\n")
        sys.stderr.flush()
        os._exit(0)
    engine.close()
    _announcement(path).unlink(missing_ok=True)
    return 0


def _announce(path: Path, host: str, port: int) -> None:
    line = json.dumps({"url": f"http://{host}:{port}", "pid": os.getpid()}) + "\n"
    # Renamed into place: a reader sees the old line or the new one, never a part.
    draft = path / "server.json.new"
    draft.write_text(line)
    draft.replace(_announcement(path))
    sys.stdout.write(line)
    sys.stdout.flush()


def _announcement(path: Path) -> Path:
    return path / "server.json"


if __name__ == "__main__":
    sys.exit(main())
