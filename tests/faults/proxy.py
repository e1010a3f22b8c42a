"""An HTTP proxy before ClickHouse that fails inserts on demand. Everything else passes."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote_plus, urlsplit

_UPSTREAM_TIMEOUT_S = 30.0
_HANG_S = 30.0


class Fault(StrEnum):
    """What happens to one insert."""

    NONE = "none"
    BUSY = "answers 503 without a word of ClickHouse"
    TOO_MANY_PARTS = "answers as a server whose merges are behind"
    WRONG_PASSWORD = "answers as a server whose password was rotated"
    READONLY = "answers as a server on which the user may only read"
    UNKNOWN_CODE = "answers with an error that no release knows yet"
    RESET_BEFORE = "resets the connection, ClickHouse never sees the insert"
    RESET_AFTER = "resets the connection after ClickHouse has written"
    CUT = "passes half of the body, then resets"
    SLOW = "answers after 0.3 s"
    HANG_AFTER = "ClickHouse writes, the answer never comes"


_REFUSALS = {
    Fault.BUSY: (503, 0, "upstream is busy"),
    Fault.TOO_MANY_PARTS: (500, 252, "Too many parts. (TOO_MANY_PARTS)"),
    Fault.WRONG_PASSWORD: (403, 516, "default: Authentication failed. (AUTHENTICATION_FAILED)"),
    Fault.READONLY: (500, 164, "default: Cannot execute query in readonly mode. (READONLY)"),
    Fault.UNKNOWN_CODE: (500, 9999, "Something new. (NOVELTY)"),
}
"""HTTP status, ClickHouse's error code (0: not ClickHouse's answer), words."""


class FaultProxy:
    """Listens on a free loopback port and passes requests to `upstream` (`http://host:port`).

    `script` lists the faults of the next inserts, one each; after them, `default` applies to every insert.
    `inserts` counts those that arrived, `written` those that ClickHouse acknowledged to the proxy.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 8123)
        self.default = Fault.NONE
        self.inserts = 0
        self.written = 0
        self._script: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.closing = threading.Event()
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, faults: Iterable[Fault]) -> None:
        """Set what happens to the next inserts."""
        with self._lock:
            self._script = deque(faults)

    def next_fault(self) -> Fault:
        with self._lock:
            self.inserts += 1
            return self._script.popleft() if self._script else self.default

    def note_written(self) -> None:
        with self._lock:
            self.written += 1

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def refuse(self) -> None:
        """Close the port: connections are refused until `listen()`. Open connections are closed too."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self.refuse()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            _reset(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # broken connections are the purpose


def _reset(connection: socket.socket) -> None:
    """Send RST and forget the connection."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()
    except OSError:
        pass


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._pass(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.next_fault() if self._is_insert(body) else Fault.NONE
            if fault in _REFUSALS:
                self._refuse(fault)
            elif fault is Fault.RESET_BEFORE:
                self._drop()
            elif fault is Fault.CUT:
                self._send_half(body)
                self._drop()
            elif fault is Fault.RESET_AFTER:
                self._ask(body)
                self._drop()
            elif fault is Fault.HANG_AFTER:
                self._ask(body)
                proxy.closing.wait(_HANG_S)
                self._drop()
            else:
                if fault is Fault.SLOW:
                    time.sleep(0.3)
                self._pass(body)

        def _is_insert(self, body: bytes) -> bool:
            return "INSERT INTO" in unquote_plus(self.path).upper() or body[:11].upper() == b"INSERT INTO"

        def _refuse(self, fault: Fault) -> None:
            status, code, words = _REFUSALS[fault]
            headers = {"X-ClickHouse-Exception-Code": str(code)} if code else {}
            self._answer(status, headers, f"Code: {code}. DB::Exception: {words}".encode() if code else words.encode())

        def _headers(self) -> dict[str, str]:
            return {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}

        def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(*proxy.upstream, timeout=_UPSTREAM_TIMEOUT_S)
            try:
                connection.request(self.command, self.path, body or None, self._headers())
                response = connection.getresponse()
                answer = response.status, dict(response.getheaders()), response.read()
            finally:
                connection.close()
            if answer[0] == 200:
                proxy.note_written()
            return answer

        def _send_half(self, body: bytes) -> None:
            connection = http.client.HTTPConnection(*proxy.upstream, timeout=_UPSTREAM_TIMEOUT_S)
            connection.putrequest(self.command, self.path, skip_host=True)
            for name, value in self._headers().items():
                connection.putheader(name, value)
            connection.putheader("Host", "clickhouse")
            connection.endheaders()
            connection.send(body[: len(body) // 2])
            connection.close()

        def _pass(self, body: bytes) -> None:
            try:
                self._answer(*self._ask(body))
            except OSError:
                self._drop()

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection", "keep-alive"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _drop(self) -> None:
            self.close_connection = True
            _reset(self.connection)

    return Handler
