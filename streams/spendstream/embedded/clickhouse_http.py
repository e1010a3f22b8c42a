"""ClickHouse's HTTP protocol over the engine of this process: what clickhouse-connect, curl and BI tools speak.

A request is taken apart (parameters, statement, data, and how they were compressed), run, and answered. A thread per
connection. The engine releases Python's lock while it works, so ``/ping`` answers during a heavy insert. A response is
compressed where the client asks for it.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from spendstream.embedded.clickhouse_engine import Answer, Engine, EngineError, Scope, refusal
from spendstream.embedded.clickhouse_sql import DEFAULT_FORMAT, split_insert
from spendstream.embedded.compression import (
    Compressor,
    Frames,
    accepted_encoding,
    compressor,
    decompress,
    read_frames,
)
from spendstream.embedded.native_format import at_version

DEFAULT_SESSION_TIMEOUT_S = 60.0
MAX_SESSION_TIMEOUT_S = 3600.0

# Parameters that speak to the HTTP handler. All others are settings, and the engine judges them.
_HANDLER_PARAMETERS = frozenset(
    {
        "query",
        "database",
        "default_format",
        "user",
        "password",
        "quota_key",
        "role",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "http_wait_end_of_query",
        "client_protocol_version",
        "enable_http_compression",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
        "stacktrace",
    }
)
_PARAMETER_PREFIX = "param_"

Headers = Message | Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """One statement to run: ``text`` is the SQL, followed by its data where it is an INSERT with data."""

    text: bytes
    scope: Scope
    default_format: str
    query_id: str | None
    is_buffered: bool
    protocol_version: int = 0
    encoding: str | None = None
    frames: str | None = None

    def compressor(self) -> Compressor | None:
        """What compresses the answer: ClickHouse's own ``frames``, or HTTP's ``encoding``; None for nothing."""
        if self.frames is not None:
            return Frames(self.frames)
        return compressor(self.encoding) if self.encoding is not None else None


def parse_request(target: str, headers: Headers, body: bytes, read_only: bool) -> Request:
    """Read a request from its target (``/?query=...``), headers and raw body.

    The ``query`` parameter comes first and the body follows on a new line, as in ClickHouse. Database, format, user and
    settings may be parameters; the first two also headers (``X-ClickHouse-Database``, ``X-ClickHouse-Format``).

    Raises: EngineError, when the body can't be read.
    """
    parameters = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True, errors="surrogateescape"))
    body = decompress(body, headers.get("Content-Encoding", ""))
    if _is_on(parameters, "decompress"):
        body = read_frames(body)
    form = _multipart_fields(headers.get("Content-Type", ""), body)
    if form is not None:
        parameters |= form
        body = b""
    query = parameters.get("query", "").encode(errors="surrogateescape")
    return Request(
        text=query + b"\n" + body if query and body else query or body,
        scope=_scope(parameters, headers, read_only),
        default_format=parameters.get("default_format") or headers.get("X-ClickHouse-Format") or DEFAULT_FORMAT,
        query_id=parameters.get("query_id") or headers.get("X-ClickHouse-Query-Id"),
        is_buffered=_is_on(parameters, "wait_end_of_query"),
        protocol_version=_protocol_version(parameters.get("client_protocol_version", "")),
        encoding=(
            accepted_encoding(headers.get("Accept-Encoding", ""))
            if _is_on(parameters, "enable_http_compression", default="1")
            else None
        ),
        frames=parameters.get("network_compression_method", "LZ4") if _is_on(parameters, "compress") else None,
    )


def _is_on(parameters: Mapping[str, str], name: str, default: str = "0") -> bool:
    return parameters.get(name, default) not in ("", "0")


def _protocol_version(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise refusal(72, f"Cannot parse client_protocol_version {text!r} as a number", "CANNOT_PARSE_NUMBER")
    return int(text)


def _scope(parameters: Mapping[str, str], headers: Headers, read_only: bool) -> Scope:
    values = {
        name.removeprefix(_PARAMETER_PREFIX): value
        for name, value in parameters.items()
        if name.startswith(_PARAMETER_PREFIX)
    }
    settings = {
        name: value
        for name, value in parameters.items()
        if name not in _HANDLER_PARAMETERS and not name.startswith(_PARAMETER_PREFIX)
    }
    timeout = parameters.get("session_timeout", "")
    try:
        timeout_s = min(float(timeout), MAX_SESSION_TIMEOUT_S) if timeout else DEFAULT_SESSION_TIMEOUT_S
    except ValueError:
        raise refusal(374, f"Invalid session timeout {timeout!r}", "INVALID_SESSION_TIMEOUT") from None
    return Scope(
        database=parameters.get("database") or headers.get("X-ClickHouse-Database"),
        settings=settings,
        params=values,
        session_id=parameters.get("session_id") or None,
        session_timeout_s=timeout_s,
        read_only=read_only,
    )


def _multipart_fields(content_type: str, body: bytes) -> dict[str, str] | None:
    """The fields of a ``multipart/form-data`` body, as clients send long queries; None for any other body."""
    if not content_type.lower().startswith("multipart/form-data"):
        return None
    form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields = {}
    for part in form.get_payload():
        piece: Any = part
        name = piece.get_param("name", header="content-disposition")
        if piece.get_filename() is not None:
            raise refusal(48, f"External data ({name}) is not offered here", "NOT_IMPLEMENTED")
        fields[str(name)] = piece.get_payload(decode=True).decode(errors="surrogateescape")
    return fields


MAX_BODY_BYTES = 1 << 30
MAX_CONCURRENT_QUERIES = 100
KEEP_ALIVE_S = 300

log = logging.getLogger(__name__)

# ClickHouse's own table: codes that are the client's doing, or have an HTTP status that says more than 500.
_BAD_REQUEST_CODES = (
    6,
    26,
    27,
    33,
    38,
    41,
    42,
    43,
    44,
    52,
    53,
    62,
    69,
    72,
    117,
    130,
    131,
    271,
    353,
    354,
    386,
    456,
    457,
)
_NOT_FOUND_CODES = (16, 46, 47, 50, 56, 60, 73, 81, 89, 115)
_STATUS_BY_CODE = {
    **dict.fromkeys(_BAD_REQUEST_CODES, HTTPStatus.BAD_REQUEST),
    **dict.fromkeys(_NOT_FOUND_CODES, HTTPStatus.NOT_FOUND),
    48: HTTPStatus.NOT_IMPLEMENTED,
    159: HTTPStatus.REQUEST_TIMEOUT,
    202: HTTPStatus.SERVICE_UNAVAILABLE,
    209: HTTPStatus.SERVICE_UNAVAILABLE,
    241: HTTPStatus.INSUFFICIENT_STORAGE,
    497: HTTPStatus.FORBIDDEN,
}
_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "Arrow": "application/vnd.apache.arrow.file",
    "ArrowStream": "application/vnd.apache.arrow.stream",
    "Parquet": "application/vnd.apache.parquet",
}


class ClickHouseServer(ThreadingHTTPServer):
    """The listening socket, bound on construction. ``drain`` waits for the statements in flight."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], engine: Engine) -> None:
        super().__init__(address, _Handler)
        self.engine = engine
        self.is_stopping = False
        self._in_flight = 0
        self._changed = threading.Condition()

    def enter(self) -> None:
        """Count one statement in. Raises: EngineError, when too many run or the server stops."""
        with self._changed:
            if self.is_stopping:
                raise refusal(209, "The server is stopping", "SOCKET_TIMEOUT")
            if self._in_flight >= MAX_CONCURRENT_QUERIES:
                raise refusal(202, f"{self._in_flight} queries run already", "TOO_MANY_SIMULTANEOUS_QUERIES")
            self._in_flight += 1

    def leave(self) -> None:
        """Count one statement out."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Refuse further statements and wait for those in flight. Return whether all ended in time."""
        with self._changed:
            self.is_stopping = True
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection died of; a client that goes away is no error."""
        log.debug("connection from %s ended", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: ClickHouseServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = KEEP_ALIVE_S

    def do_GET(self) -> None:
        self._route(read_only=True)

    def do_HEAD(self) -> None:
        self._reply(HTTPStatus.OK, b"")

    def do_POST(self) -> None:
        self._route(read_only=False)

    def _route(self, read_only: bool) -> None:
        self.query_id = str(uuid.uuid4())
        try:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = _read_chunks(self.rfile.readline, self._read_exactly)
            else:
                body = self._read_exactly(int(self.headers.get("Content-Length") or 0))
        except ValueError as error:
            self.close_connection = True
            self._fail(refusal(1000, f"Unreadable body: {error}", "POCO_EXCEPTION"), HTTPStatus.BAD_REQUEST)
            return
        try:
            self._serve(body, read_only)
        except EngineError as error:
            self._fail(error, _STATUS_BY_CODE.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR))
        except OSError:
            raise
        except Exception as error:
            log.exception("a statement failed for a reason of the server's own")
            self._fail(refusal(1001, repr(error), "STD_EXCEPTION"), HTTPStatus.INTERNAL_SERVER_ERROR)

    def _serve(self, body: bytes, read_only: bool) -> None:
        # A page in a browser must not reach a server on the loopback; no database client sends an Origin.
        if self.headers.get("Origin"):
            raise refusal(497, "Requests of web pages are refused", "ACCESS_DENIED")
        path = urlsplit(self.path).path
        if path in ("/ping", "/replicas_status"):
            self._reply(HTTPStatus.OK, b"Ok.\n")
            return
        if path not in ("/", "/query"):
            self._reply(HTTPStatus.NOT_FOUND, f"There is no handle {path}\n".encode())
            return
        request = parse_request(self.path, self.headers, body, read_only)
        if not request.text.strip():
            self._reply(HTTPStatus.OK, b"Ok.\n")
            return
        self.query_id = request.query_id or self.query_id
        self.server.enter()
        try:
            started_at = time.monotonic()
            insert = split_insert(request.text)
            if insert is not None:
                answer = self.server.engine.insert(insert, request.scope)
            else:
                stream = not request.is_buffered
                answer = self.server.engine.query(request.text, request.scope, request.default_format, stream)
            headers = _answer_headers(answer, time.monotonic() - started_at)
            by = request.compressor() if answer.stream is not None or answer.body else None
            if by is not None and request.frames is None:
                headers["Content-Encoding"] = str(request.encoding)
            version = request.protocol_version if answer.format == "Native" else 0
            if answer.stream is None:
                body = b"".join(at_version([answer.body], version)) if version else answer.body
                self._reply(HTTPStatus.OK, body if by is None else by.compress(body) + by.flush(), headers)
            else:
                self._send_chunks(answer.stream, headers, by, version)
        finally:
            self.server.leave()

    def _send_chunks(
        self, chunks: Generator[bytes, None, None], headers: dict[str, str], by: Compressor | None, version: int
    ) -> None:
        tag = uuid.uuid4().hex[:16]
        # A client that goes away ends the statement: closing the generator cancels it.
        with closing(chunks):
            pieces = at_version(chunks, version) if version else chunks
            first = next(pieces, b"")  # so that a type that can't be sent still becomes an HTTP status
            self._send_head(
                HTTPStatus.OK, {**headers, "Transfer-Encoding": "chunked", "X-ClickHouse-Exception-Tag": tag}
            )
            try:
                for piece in itertools.chain([first], pieces):
                    self._send_chunk(piece if by is None else by.compress(piece))
            except EngineError as error:
                # The status is sent. As ClickHouse does: the message as the last bytes, and no proper end.
                text = _framed_exception(error, tag)
                self._send_chunk(text if by is None else by.compress(text) + by.flush())
                self.close_connection = True
                return
        if by is not None:
            self._send_chunk(by.flush())
        self.wfile.write(b"0\r\n\r\n")

    def _send_chunk(self, chunk: bytes) -> None:
        if chunk:  # an empty one would be the end
            self.wfile.write(b"%x\r\n" % len(chunk) + chunk + b"\r\n")

    def _fail(self, error: EngineError, status: HTTPStatus) -> None:
        log.debug("%s: %s", self.query_id, error)
        self._reply(status, f"{error}\n".encode(), {"X-ClickHouse-Exception-Code": str(error.code)})

    def _reply(self, status: HTTPStatus, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._send_head(status, {**(headers or {}), "Content-Length": str(len(body))})
        if body:
            self.wfile.write(body)

    def _send_head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("X-ClickHouse-Server-Display-Name", "embedded")
        self.send_header("X-ClickHouse-Query-Id", getattr(self, "query_id", ""))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        for name, value in ({"Content-Type": "text/plain; charset=UTF-8"} | headers).items():
            self.send_header(name, value)
        if self.close_connection or self.server.is_stopping:
            self.send_header("Connection", "close")
        self.end_headers()

    def _read_exactly(self, size: int) -> bytes:
        if not 0 <= size <= MAX_BODY_BYTES:
            raise ValueError(f"{size} bytes are more than {MAX_BODY_BYTES}")
        data = self.rfile.read(size)
        if len(data) < size:
            raise ValueError(f"the connection ended after {len(data)} of {size} bytes")
        return data

    def version_string(self) -> str:
        return "ClickHouse (embedded)"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _framed_exception(error: EngineError, tag: str) -> bytes:
    text = f"{error}\n"
    return f"\r\n__exception__\r\n{tag}\r\n{text}{len(text.encode())} {tag}\r\n__exception__\r\n".encode()


def _read_chunks(read_line: Callable[[int], bytes], read_exactly: Callable[[int], bytes]) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while True:
        size = int(read_line(1024).split(b";")[0], 16)
        total += size
        if total > MAX_BODY_BYTES:
            raise ValueError(f"more than {MAX_BODY_BYTES} bytes")
        if size == 0:
            break
        pieces.append(read_exactly(size))
        read_exactly(2)
    while read_line(65536) not in (b"\r\n", b"\n", b""):
        pass
    return b"".join(pieces)


def _answer_headers(answer: Answer, elapsed_s: float) -> dict[str, str]:
    summary = {
        "read_rows": answer.read_rows or answer.written_rows,
        "written_rows": answer.written_rows,
        "written_bytes": answer.written_bytes,
        "elapsed_ns": int(elapsed_s * 1e9),
    }
    headers = {"X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in summary.items()})}
    if answer.format is not None:
        headers["X-ClickHouse-Format"] = answer.format
        headers["Content-Type"] = _CONTENT_TYPES.get(answer.format, "text/plain; charset=UTF-8")
    return headers
