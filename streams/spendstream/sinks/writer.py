"""Inserts into ClickHouse over HTTP: repeated until acknowledged.

How an attempt can fail:

SinkError
├── Unavailable       ClickHouse is down, full or too busy. It passes.
└── InsertRejected    ClickHouse refuses: a rotated password, a missing grant or column. Someone must act.
    └── NotMigrated   the database or the table is missing: run ``spendstream migrate``

Both are retried for ever: nothing is lost meanwhile, and nothing else waits. A refusal is an error in the log, repeated
once a minute.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Final, Literal, Protocol

import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError

from spendstream.clickhouse.client import INSERT_SETTINGS, NO_SUCH_TABLE, ClickHouseSettings, error_code, open_client
from spendstream.errors import SpendstreamError
from spendstream.sinks.encoders import Insert
from spendstream.waiting import Backoff, in_thread

log = structlog.get_logger(__name__)

FailureKind = Literal["unavailable", "rejected", "failed"]

PASSING: Final = frozenset(
    {
        3,  # UNEXPECTED_END_OF_FILE: the request was cut short on its way
        74,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
        75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
        95,  # CANNOT_READ_FROM_SOCKET
        96,  # CANNOT_WRITE_TO_SOCKET
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        201,  # QUOTA_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED: the server shuts down
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY: a replica without Keeper
        243,  # NOT_ENOUGH_SPACE
        244,  # UNEXPECTED_ZOOKEEPER_ERROR
        252,  # TOO_MANY_PARTS: merges are behind
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED
        425,  # SYSTEM_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        473,  # DEADLOCK_AVOIDED
        499,  # S3_ERROR
        574,  # DISTRIBUTED_TOO_MANY_PENDING_BYTES
        667,  # NOT_INITIALIZED: a replica that is starting
        692,  # TOO_MANY_MUTATIONS
        733,  # TABLE_IS_BEING_RESTARTED
        745,  # SERVER_OVERLOADED
        999,  # KEEPER_EXCEPTION
        1000,  # POCO_EXCEPTION
        1001,  # STD_EXCEPTION: a full disk, a failed allocation
    }
)
"""ClickHouse's error codes that go away, on their own or once an operator acts; the same rows then succeed."""

_SAY_AGAIN_S: Final = 60.0
_STATUS: Final = re.compile(r"HTTP status (\d{3})")
_PASSING_STATUS: Final = (408, 425, 429)


class SinkMetrics(Protocol):
    """What a sink reports. ``table`` and ``topic`` name it, ``seconds`` are wall time."""

    def inserted(self, table: str, rows: int, seconds: float) -> None:
        """An insert was acknowledged."""

    def insert_failed(self, table: str, kind: FailureKind) -> None:
        """An insert was not acknowledged."""

    def undecodable(self, topic: str, reason: str) -> None:
        """A record could not be read; it went to the table of dead letters."""

    def records_lost(self, topic: str, partition: int, records: int) -> None:
        """Kafka deleted records before they were inserted: the outage was longer than the topic's retention."""

    def lag(self, topic: str, partition: int, records: int) -> None:
        """``records`` are published and not yet inserted."""


class NoMetrics:
    """Counts nothing."""

    def inserted(self, table: str, rows: int, seconds: float) -> None: ...
    def insert_failed(self, table: str, kind: FailureKind) -> None: ...
    def undecodable(self, topic: str, reason: str) -> None: ...
    def records_lost(self, topic: str, partition: int, records: int) -> None: ...
    def lag(self, topic: str, partition: int, records: int) -> None: ...


class SinkError(SpendstreamError):
    """A write to ClickHouse failed."""


class Unavailable(SinkError):
    """ClickHouse can't take rows at present. The same rows will succeed later."""


class InsertRejected(SinkError):
    """ClickHouse refuses these rows, or whoever sends them: the message has the table and the server's words.

    The records stay uncommitted in Kafka, so nothing is lost. The sink continues once its inserts are accepted.
    """


class NotMigrated(InsertRejected):
    """The database or the table does not exist."""


class ClickHouseWriter:
    """Writes inserts, one at a time, for one sink."""

    def __init__(
        self, settings: ClickHouseSettings, *, metrics: SinkMetrics | None = None, backoff: Backoff | None = None
    ) -> None:
        self._settings = settings
        self._metrics = metrics or NoMetrics()
        self._backoff = backoff or Backoff()
        self._client: Any = None
        self._away_since: float | None = None
        self._refusal_logged_at: float | None = None
        self._insert_settings = dict(INSERT_SETTINGS)
        if settings.cluster:
            # Acknowledged by one replica alone, rows would be lost with it, while Kafka's offset is committed.
            self._insert_settings["insert_quorum"] = "auto"

    async def insert(self, insert: Insert) -> None:
        """Return once ClickHouse has acknowledged the rows. Until then, retry for as long as it takes.

        An attempt whose answer was lost may have been written. It is repeated, and the table replaces equal keys. After
        a refusal the connection is opened again: users, grants and settings may have changed.
        """
        attempt = 0
        while True:
            attempt += 1
            started = time.monotonic()
            try:
                await in_thread(lambda: self._send(insert), f"insert-{insert.table}")
            except Unavailable as error:
                self._metrics.insert_failed(insert.table, "unavailable")
                if self._away_since is None:
                    self._away_since = time.monotonic()
                    log.warning("sink.clickhouse_unavailable", table=insert.table, error=str(error))
                await asyncio.sleep(self._backoff.pause_s(attempt))
            except InsertRejected as error:
                self._metrics.insert_failed(insert.table, "rejected")
                self._say_refused(insert, attempt, str(error))
                await self.close()
                await asyncio.sleep(self._backoff.pause_s(attempt))
            else:
                self._metrics.inserted(insert.table, insert.rows, time.monotonic() - started)
                self._refusal_logged_at = None
                if self._away_since is not None:
                    away_s, self._away_since = round(time.monotonic() - self._away_since, 3), None
                    log.info("sink.clickhouse_back", table=insert.table, away_s=away_s, attempts=attempt)
                return

    def _say_refused(self, insert: Insert, attempt: int, words: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
        if self._refusal_logged_at is None or time.monotonic() - self._refusal_logged_at >= _SAY_AGAIN_S:
            self._refusal_logged_at = time.monotonic()
            log.error("sink.insert_rejected", table=insert.table, rows=insert.rows, attempt=attempt, error=words)

    async def close(self) -> None:
        """Close idle connections."""
        client, self._client = self._client, None
        if client is not None:
            await in_thread(client.close, "close")

    def _send(self, insert: Insert) -> None:
        table = f"{self._settings.database}.{insert.table}"
        try:
            if self._client is None:
                self._client = open_client(self._settings)
            self._client.raw_insert(
                table, insert.columns, insert.body, settings=self._insert_settings, fmt="ArrowStream"
            )
        except ClickHouseError as error:
            raise sink_error(error, table) from error
        except OSError as error:
            raise Unavailable(str(error)) from error


def sink_error(error: ClickHouseError, table: str) -> SinkError:
    """Return what an error of the driver means for a sink that writes to ``table``.

    ClickHouse's error code decides where there is one. Without one the answer is not ClickHouse's: it comes from a
    proxy (an HTTP status) or there was none (the connection failed).
    """
    words = " ".join(str(error).split())
    if (code := error_code(error)) is not None:
        if code in NO_SUCH_TABLE:
            return NotMigrated(f"{table} does not exist: run `spendstream migrate`. ClickHouse says: {words}")
        return (
            Unavailable(words) if code in PASSING else InsertRejected(f"{table}: ClickHouse refuses the rows: {words}")
        )
    if status := _STATUS.search(words):
        number = int(status.group(1))
        if number < 500 and number not in _PASSING_STATUS:
            return InsertRejected(f"{table}: a proxy before ClickHouse refuses the rows: {words}")
    return Unavailable(words)
