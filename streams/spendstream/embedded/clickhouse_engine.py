"""chDB, ClickHouse's engine in this process, one handle a request.

A handle carries what a ClickHouse session carries: current database, settings, temporary tables. It costs 0.3 ms to
open and no thread, so each request gets a fresh one and nothing leaks from one request into another. Only a request
that names a session and changes it makes a handle stay.
"""

from __future__ import annotations

import fcntl
import re
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import chdb

from spendstream.clickhouse.statements import stacked_at, why_it_writes
from spendstream.embedded.clickhouse_sql import (
    Insert,
    can_stream,
    has_result,
    may_be_stacked,
    may_change_session,
    result_format,
    writes_file,
)

MAX_SESSIONS = 256

_ERROR_CODE = re.compile(r"Code: (\d+)\. DB::Exception")
# What the engine says of the question itself, after what it says of the statement in it.
_ASKED_PARSER = re.compile(r": In scope SELECT formatQuerySingleLine\(.*\)(?=\. \([A-Z_]+\))", re.DOTALL)
_SETTING_NAME = re.compile(r"[A-Za-z_]\w*")


class PathInUse(RuntimeError):
    """Another server holds the folder: the engine allows one process a path."""


class EngineError(Exception):
    """The engine refused a statement. ``code``: its error code; the text is ``Code: N. DB::Exception: ...``."""

    def __init__(self, text: str) -> None:
        # chDB puts words of its own before ClickHouse's message.
        start = text.find("Code: ")
        found = _ERROR_CODE.search(text)
        self.code = int(found.group(1)) if found else UNKNOWN_EXCEPTION
        super().__init__(text[start:].strip() if found else exception_text(self.code, text, "UNKNOWN_EXCEPTION"))


UNKNOWN_EXCEPTION = 1002


def exception_text(code: int, message: str, name: str) -> str:
    """Word an error as ClickHouse does: ``Code: 62. DB::Exception: message. (SYNTAX_ERROR)``."""
    return f"Code: {code}. DB::Exception: {message.rstrip('.')}. ({name})"


def refusal(code: int, message: str, name: str) -> EngineError:
    """An EngineError that this server raises itself."""
    return EngineError(exception_text(code, message, name))


@dataclass(frozen=True)
class Scope:
    """What surrounds a statement: database, settings, ``{name:Type}`` parameters, and the session it belongs to.

    ``read_only``: nothing may be written, and no session is read or kept. The setting ``readonly`` forbids writing too.
    """

    database: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    session_id: str | None = None
    session_timeout_s: float = 60.0
    read_only: bool = False

    def forbids_writing(self) -> bool:
        """Whether only reads are allowed."""
        return self.read_only or self.settings.get("readonly", "0") not in ("0", "")


@dataclass
class Answer:
    """A result: its ``format`` (None for a statement without rows), and its whole ``body`` or a ``stream`` of it."""

    format: str | None = None
    body: bytes = b""
    stream: Generator[bytes, None, None] | None = None
    read_rows: int = 0
    written_rows: int = 0
    written_bytes: int = 0


@dataclass
class _Session:
    handle: Any
    expires_at: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Engine:
    """The one engine of this process, over the data in ``path``.

    Raises: PathInUse, when another process has the folder open.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(path)
        self._data_path = str(path / "data")
        # The engine stops with its last handle, so this one stays open.
        self._keeper = chdb.connect(self._data_path)
        self._sessions: dict[str, _Session] = {}
        self._sessions_lock = threading.Lock()

    def close(self) -> None:
        """Stop the engine. Statements that still run are cut off."""
        for session in self._sessions.values():
            session.handle.close()
        self._keeper.close()
        self._lock_file.close()

    def insert(self, insert: Insert, scope: Scope) -> Answer:
        """Insert rows and return how many were written. Raises: EngineError."""
        _check_writes(b"INSERT", scope)
        if insert.format.upper() == "VALUES" and may_be_stacked(insert.data):
            _check_single(insert.data)  # the engine would insert what is before the semicolon and drop the rest
        with self._handle(scope, keep=False) as handle, _engine_errors():
            for name, value in scope.params.items() if insert.format == "Values" else ():
                _check_name(name)
                handle.query(f"SET param_{name} = '{_escaped(value, chr(39))}'")
            with handle.send_insert(insert.sql, insert.format) as stream:
                if insert.data:
                    stream.append(insert.data)
                written = stream.finish()
        return Answer(written_rows=int(written.rows_written), written_bytes=int(written.bytes_written))

    def query(self, text: bytes, scope: Scope, default_format: str, stream: bool) -> Answer:
        """Run a statement. With ``stream``, rows are yielded as the engine makes them, where the format allows it.

        Raises: EngineError, here or (streaming) between two chunks.
        """
        if writes_file(text):
            raise refusal(344, "INTO OUTFILE is not allowed over HTTP", "SUPPORT_IS_DISABLED")
        if may_be_stacked(text):
            self._check_parses_as_one(text, scope)
        _check_writes(text, scope)
        form = result_format(text, default_format) if has_result(text) else None
        if stream and can_stream(text, default_format):
            chunks = self._stream(text, scope, default_format)
            first = next(chunks, b"")  # so that most errors still become an HTTP status
            return Answer(form, stream=_prepend(first, chunks))
        with self._handle(scope, keep=may_change_session(text)) as handle, _engine_errors():
            result = handle.query(text, default_format, params=dict(scope.params))
            body = bytes(result.bytes())
        return Answer(
            form,
            body,
            read_rows=int(result.storage_rows_read()),
            written_rows=int(result.rows_written()),
            written_bytes=int(result.bytes_written()),
        )

    def _check_parses_as_one(self, text: bytes, scope: Scope) -> None:
        # The engine would run them all, so its parser is asked first. It ignores what follows inline rows, which
        # `EXPLAIN INSERT ... VALUES` may have: hence the check before.
        _check_single(text)
        literal = text.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
        with self._handle(replace(scope, session_id=None), keep=False) as handle:
            try:
                handle.query(b"SELECT formatQuerySingleLine('" + literal + b"')", "Null")
            except (RuntimeError, chdb.ChdbError) as error:
                message = _ASKED_PARSER.sub("", str(error))
                if "Multi-statements" in message:
                    raise _stacked() from None
                raise EngineError(message) from None

    def _stream(self, text: bytes, scope: Scope, default_format: str) -> Generator[bytes, None, None]:
        with (
            self._handle(scope, keep=False) as handle,
            _engine_errors(),
            handle.send_query(text, default_format, params=dict(scope.params)) as result,
        ):
            for chunk in result:
                yield bytes(chunk.bytes())

    @contextmanager
    def _handle(self, scope: Scope, keep: bool) -> Iterator[Any]:
        """Lend a handle with the scope applied: the session's own, if it has one or (``keep``) is about to need one."""
        session = self._session(scope, make=keep)
        if session is None:
            handle = chdb.connect(self._data_path)
            try:
                _apply(handle, scope)
                yield handle
            finally:
                handle.close()
            return
        if not session.lock.acquire(blocking=False):
            raise refusal(373, f"Session {scope.session_id} is locked by a concurrent client", "SESSION_IS_LOCKED")
        try:
            _apply(session.handle, scope)
            yield session.handle
        finally:
            # Settings in a URL hold for one request, also within a session. What can't be reset (readonly) stays.
            if scope.settings:
                with suppress(RuntimeError, chdb.ChdbError):
                    session.handle.query("SET " + ", ".join(f"{name} = DEFAULT" for name in scope.settings))
            session.expires_at = time.monotonic() + scope.session_timeout_s
            session.lock.release()

    def _session(self, scope: Scope, make: bool) -> _Session | None:
        if scope.session_id is None or scope.read_only:
            return None
        now = time.monotonic()
        with self._sessions_lock:
            for key in [k for k, kept in self._sessions.items() if kept.expires_at < now and not kept.lock.locked()]:
                self._sessions.pop(key).handle.close()
            session = self._sessions.get(scope.session_id)
            if session is None and make:
                if len(self._sessions) >= MAX_SESSIONS:
                    raise refusal(202, f"More than {MAX_SESSIONS} sessions", "TOO_MANY_SIMULTANEOUS_QUERIES")
                session = _Session(chdb.connect(self._data_path), now)
                self._sessions[scope.session_id] = session
            if session is not None:
                session.expires_at = now + scope.session_timeout_s
            return session


def _check_single(text: bytes) -> None:
    if stacked_at(text) is not None:
        raise _stacked()


def _stacked() -> EngineError:
    return refusal(62, "Syntax error (Multi-statements are not allowed): send one statement a request", "SYNTAX_ERROR")


def _check_writes(text: bytes, scope: Scope) -> None:
    if scope.forbids_writing() and (what := why_it_writes(text)) is not None:
        raise refusal(164, f"Cannot execute query in readonly mode: {what} is not a read", "READONLY")


def _check_name(name: str) -> None:
    if not _SETTING_NAME.fullmatch(name):
        raise refusal(115, f"Unknown setting '{name}'", "UNKNOWN_SETTING")


def _lock(path: Path) -> IO[str]:
    # chDB's own message says no more than "Error initializing EmbeddedServer". The kernel drops this lock with the
    # process, however it ends.
    lock_file = (path / "lock").open("w")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock_file.close()
        raise PathInUse(f"{path} is in use by another ClickHouse server: one process a folder") from None
    return lock_file


def _apply(handle: Any, scope: Scope) -> None:
    # Without this a lone word is read as an expression, and a typo in a keyword gets a misleading message.
    assignments = {"implicit_select": "0", **scope.settings}
    if scope.read_only and assignments.get("readonly") != "1":
        assignments["readonly"] = "2"
    for name in assignments:
        _check_name(name)
    with _engine_errors():
        handle.query(
            "SET " + ", ".join(f"{name} = '{_escaped(value, chr(39))}'" for name, value in assignments.items())
        )
        if scope.database:
            handle.query(f"USE `{_escaped(scope.database, '`')}`")


def _escaped(value: str, quote: str) -> str:
    return value.replace("\\", "\\\\").replace(quote, f"\\{quote}")


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, chdb.ChdbError) as error:
        raise EngineError(str(error)) from None


def _prepend(first: bytes, rest: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    # Closing the outer generator closes the inner one even if it never ran, which frees the handle.
    with closing(rest):
        if first:
            yield first
        yield from rest
