"""A ClickHouse HTTP request, taken apart: parameters, statement, data, and how they were compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import lz4.frame  # type: ignore[import-untyped]

from spendstream.embedded.clickhouse_engine import Scope, refusal
from spendstream.embedded.clickhouse_sql import DEFAULT_FORMAT

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
    """One statement to run: `text` is the SQL, followed by its data where it is an INSERT with data."""

    text: bytes
    scope: Scope
    default_format: str
    query_id: str | None
    is_buffered: bool


def parse_request(target: str, headers: Headers, body: bytes, read_only: bool) -> Request:
    """Read a request from its target (`/?query=...`), headers and raw body.

    The `query` parameter comes first and the body follows on a new line, as in ClickHouse. Database, format, user and
    settings may be parameters; the first two also headers (`X-ClickHouse-Database`, `X-ClickHouse-Format`).

    Raises: EngineError, when the body can't be read.
    """
    parameters = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True, errors="surrogateescape"))
    for name in ("compress", "decompress"):
        if parameters.get(name, "0") not in ("", "0"):
            raise refusal(48, f"{name}=1 is not offered here: use HTTP compression or none", "NOT_IMPLEMENTED")
    body = decompress(body, headers.get("Content-Encoding", ""))
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
        is_buffered=parameters.get("wait_end_of_query", "0") not in ("", "0"),
    )


def decompress(body: bytes, encoding: str) -> bytes:
    """Undo `Content-Encoding`: gzip, deflate, lz4 or zstd, each in any number of frames. Raises: EngineError."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    undo = _DECOMPRESSORS.get(name)
    if undo is None:
        offered = ", ".join(_DECOMPRESSORS)
        raise refusal(89, f"Unknown Content-Encoding {encoding!r}, known are {offered}", "UNKNOWN_COMPRESSION_METHOD")
    try:
        return undo(body)
    except Exception as error:  # each codec has an error tree of its own
        raise refusal(271, f"Can't decompress the body as {name}: {error}", "CANNOT_DECOMPRESS") from None


def _lz4(body: bytes) -> bytes:
    # clickhouse-connect sends a frame per block of rows, and lz4.frame.decompress stops after the first.
    pieces = []
    while body:
        decompressor = lz4.frame.LZ4FrameDecompressor()
        pieces.append(decompressor.decompress(body))
        if not decompressor.eof:
            raise ValueError("the last frame is cut short")
        body = decompressor.unused_data or b""
    return b"".join(pieces)


def _deflate(body: bytes) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error:
        return zlib.decompress(body, -zlib.MAX_WBITS)  # some clients leave zlib's header out


def _zstd(body: bytes) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd  # type: ignore[no-redef,unused-ignore]
    plain: bytes = zstd.decompress(body)
    return plain


_DECOMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": _deflate,
    "lz4": _lz4,
    "zstd": _zstd,
}


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
    return Scope(
        database=parameters.get("database") or headers.get("X-ClickHouse-Database"),
        settings=settings,
        params=values,
        session_id=parameters.get("session_id") or None,
        session_timeout_s=_session_timeout_s(parameters.get("session_timeout", "")),
        read_only=read_only,
    )


def _session_timeout_s(text: str) -> float:
    try:
        return min(float(text), MAX_SESSION_TIMEOUT_S) if text else DEFAULT_SESSION_TIMEOUT_S
    except ValueError:
        raise refusal(374, f"Invalid session timeout {text!r}", "INVALID_SESSION_TIMEOUT") from None


def _multipart_fields(content_type: str, body: bytes) -> dict[str, str] | None:
    """The fields of a `multipart/form-data` body, as clients send long queries; None for any other body."""
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
