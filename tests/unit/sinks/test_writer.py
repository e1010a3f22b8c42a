"""The writer retries temporary errors and raises final ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from structlog.testing import capture_logs

from spendstream.clickhouse import client
from spendstream.clickhouse.client import ClickHouseSettings
from spendstream.sinks import writer
from spendstream.sinks.encoders import Insert
from spendstream.sinks.writer import (
    PASSING,
    ClickHouseWriter,
    FailureKind,
    InsertRejected,
    NoMetrics,
    NotMigrated,
    SinkError,
    Unavailable,
    sink_error,
)
from spendstream.waiting import Backoff

INSERT = Insert("calls", ("a",), 3, b"body")
AT_ONCE = Backoff(first_s=0.0)


class Seen(NoMetrics):
    def __init__(self) -> None:
        self.rows = 0
        self.failures: list[FailureKind] = []

    def inserted(self, table: str, rows: int, seconds: float) -> None:
        self.rows += rows

    def insert_failed(self, table: str, kind: FailureKind) -> None:
        self.failures.append(kind)


class FakeClient:
    """A client whose inserts do what ``outcomes`` says: an error is raised, None succeeds."""

    def __init__(self, outcomes: list[Exception | None]) -> None:
        self._outcomes: Iterator[Exception | None] = iter(outcomes)
        self.bodies: list[bytes] = []
        self.settings: dict[str, Any] = {}

    def raw_insert(self, table: str, columns: Any, body: bytes, *, settings: dict[str, Any], fmt: str) -> None:
        assert (table, fmt) == ("spendstream.calls", "ArrowStream")
        self.settings = settings
        self.bodies.append(body)
        if outcome := next(self._outcomes):
            raise outcome

    def close(self) -> None:
        pass


@pytest.fixture
def writer_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(outcomes: list[Exception | None], **settings: Any) -> tuple[ClickHouseWriter, FakeClient, Seen]:
        client, seen = FakeClient(outcomes), Seen()
        monkeypatch.setattr(writer, "open_client", lambda settings: client)
        return ClickHouseWriter(ClickHouseSettings(**settings), metrics=seen, backoff=AT_ONCE), client, seen

    return make


def server_error(code: int) -> DatabaseError:
    return DatabaseError(f"Received ClickHouse exception, code: {code}, server response: Code: {code}. It says so.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((server_error(code), Unavailable) for code in sorted(PASSING)),
        (server_error(60), NotMigrated),
        (server_error(81), NotMigrated),
        (server_error(16), InsertRejected),
        (server_error(53), InsertRejected),
        (server_error(117), InsertRejected),
        (server_error(516), InsertRejected),
        (server_error(9999), InsertRejected),
        (DatabaseError("HTTP driver received HTTP status 404 (for url http://a)"), InsertRejected),
        (DatabaseError("HTTP driver received HTTP status 500 (for url http://a)"), Unavailable),
        (OperationalError("HTTP driver received HTTP status 503"), Unavailable),
        (OperationalError("HTTP driver received HTTP status 429"), Unavailable),
        (OperationalError("Error HTTPConnectionPool(...): Max retries exceeded executing HTTP request"), Unavailable),
    ],
    ids=lambda value: str(value)[:70],
)
def test_an_error_is_temporary_or_final(error: DatabaseError, expected: type[SinkError]) -> None:
    assert type(sink_error(error, "spendstream.calls")) is expected


def test_a_missing_table_says_what_to_run() -> None:
    message = str(sink_error(server_error(60), "spendstream.calls"))
    assert "spendstream.calls" in message
    assert "`spendstream migrate`" in message
    assert "It says so." in message


async def test_an_insert_is_repeated_until_it_is_acknowledged(writer_of: Any) -> None:
    writer, client, seen = writer_of([server_error(252), OperationalError("reset"), ConnectionResetError(), None])
    await writer.insert(INSERT)
    assert client.bodies == [b"body"] * 4
    assert (seen.rows, seen.failures) == (3, ["unavailable"] * 3)


async def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends(writer_of: Any) -> None:
    writer, *_ = writer_of([server_error(252)] * 5 + [None, None])
    with capture_logs() as logs:
        await writer.insert(INSERT)
        await writer.insert(INSERT)
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]


async def test_a_refusal_is_said_once_a_minute_with_the_servers_message_and_repeated_until_it_ends(
    writer_of: Any,
) -> None:
    writer_, client, seen = writer_of([server_error(516)] * 3 + [None, server_error(497), None])
    with capture_logs() as logs:
        await writer_.insert(INSERT)
        await writer_.insert(INSERT)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("error", "sink.insert_rejected"),
        ("info", "sink.clickhouse_back"),
    ] * 2
    assert "spendstream.calls" in logs[0]["error"]
    assert "It says so" in logs[0]["error"]
    assert (len(client.bodies), seen.rows, seen.failures) == (6, 6, ["rejected"] * 4)


async def test_a_cluster_acknowledges_with_a_quorum(writer_of: Any) -> None:
    writer, client, _ = writer_of([None], cluster="main")
    await writer.insert(INSERT)
    assert client.settings["insert_quorum"] == "auto"


async def test_an_insert_that_never_answers_can_be_cancelled(writer_of: Any) -> None:
    writer, client, _ = writer_of([None])
    client.raw_insert = lambda *_, **__: time.sleep(2)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.insert(INSERT), 0.05)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(("attempt", "longest"), [(1, 0.1), (2, 0.2), (7, 6.4), (8, 10.0), (10**6, 10.0)])
def test_pauses_double_up_to_the_maximum_and_are_spread_over_their_upper_half(attempt: int, longest: float) -> None:
    assert Backoff().pause_s(attempt, lambda: 0.0) == pytest.approx(longest / 2)
    assert Backoff().pause_s(attempt, lambda: 1.0) == pytest.approx(longest)


def test_a_password_in_a_file_is_read_at_each_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    monkeypatch.setattr(client.clickhouse_connect, "get_client", lambda **named: used.append(named["password"]))
    secret = tmp_path / "password"
    for password in ("old", "new"):
        secret.write_text(f"{password}\n")
        client.open_client(ClickHouseSettings(password="unused", password_file=secret))
    assert used == ["old", "new"]


def test_the_password_is_in_no_representation() -> None:
    assert "hunter2" not in repr(ClickHouseSettings(password="hunter2"))
