"""A webhook receiver on loopback: records what it receives and when, and answers as the test wants."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Told:
    """One alert of one request. ``at``: seconds of the monotonic clock."""

    at: float
    alert: dict[str, Any]
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """``status``: of every answer."""

    status: int = 200
    told: list[Told] = field(default_factory=list)

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                at = time.monotonic()
                if receiver.status == 200:
                    headers = dict(self.headers.items())
                    receiver.told += [Told(at, alert, headers, body) for alert in json.loads(body)["alerts"]]
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def of(self, transition: str) -> list[dict[str, Any]]:
        """Return the alerts that were received with a transition."""
        return [told.alert for told in self.told if told.alert["transition"] == transition]

    def wait_for(self, what: Any, timeout_s: float = 120.0) -> Any:
        """Wait until ``what(self)`` is true; return it. Raises: AssertionError, with all that was received."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = what(self)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"within {timeout_s} s only: {[told.alert['title'] for told in self.told]}")
