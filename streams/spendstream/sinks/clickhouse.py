"""Inserts into ClickHouse over HTTP: repeated until acknowledged, or refused with the server's words."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError

from spendstream.sinks.base import Insert, NoMetrics, SinkMetrics
from spendstream.sinks.errors import InsertRejected, SinkError, Unavailable, sink_error
from spendstream.sinks.threads import in_thread

log = structlog.get_logger(__name__)

# The driver warns at every attempt; the writer says once that ClickHouse is away, and once that it is back.
for _name in ("clickhouse_connect", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)

INSERT_SETTINGS: Final[dict[str, Any]] = {
    # Merging the rows of one insert takes half of an insert's time. FINAL and the merges do the same work later.
    "optimize_on_insert": 0,
    # Imported history may span more months (partitions) in one insert than the default of 100 allows.
    "max_partitions_per_insert_block": 0,
    # An acknowledgement must mean written: never parked in the server's memory.
    "async_insert": 0,
}


@dataclass(frozen=True)
class ClickHouseSettings:
    """Where ClickHouse is. `url`: its HTTP interface. Timeouts are seconds."""

    url: str = "http://localhost:8123"
    user: str = "default"
    password: str = field(default="", repr=False)
    database: str = "spendstream"
    cluster: str | None = None
    connect_timeout_s: float = 5.0
    insert_timeout_s: float = 60.0


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: they double from `first_s` up to `longest_s`, each drawn from its upper half.

    The draw keeps many sinks from coming back in one moment.
    """

    first_s: float = 0.1
    longest_s: float = 10.0

    def pause_s(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Return the pause after the failed attempt number `attempt`, counted from 1."""
        whole: float = min(self.longest_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return whole * (0.5 + draw() / 2)


def open_client(settings: ClickHouseSettings, *, database: str | None = None) -> Any:
    """Connect and return a clickhouse-connect client. `database`: the default one of its statements; it must exist.

    Blocks. Raises: clickhouse-connect's errors.
    """
    url = urlsplit(settings.url)
    is_tls = url.scheme == "https"
    return clickhouse_connect.get_client(
        host=url.hostname or "localhost",
        port=url.port or (8443 if is_tls else 8123),
        secure=is_tls,
        username=settings.user,
        password=settings.password,
        database=database or "default",
        connect_timeout=settings.connect_timeout_s,
        send_receive_timeout=settings.insert_timeout_s,
        compress=False,  # the bodies are compressed Arrow
        autogenerate_session_id=False,  # sessions forbid two statements at a time and mean nothing here
        query_retries=0,
    )


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
        self._insert_settings = dict(INSERT_SETTINGS)
        if settings.cluster:
            # Acknowledged by one replica alone, rows would be lost with it, while Kafka's offset is committed.
            self._insert_settings["insert_quorum"] = "auto"

    async def insert(self, insert: Insert) -> None:
        """Return once ClickHouse has acknowledged the rows. While it is unavailable, try again for as long as it takes.

        An attempt whose answer was lost may have been written: it is repeated, and the table replaces equal keys.

        Raises: InsertRejected, when ClickHouse refuses the rows; NotMigrated, when the table is not there.
        """
        attempt = 0
        while True:
            attempt += 1
            started = time.monotonic()
            try:
                await in_thread(lambda: self._send(insert), f"insert-{insert.table}")
            except Unavailable as error:
                self._metrics.insert_failed(insert.table, "unavailable")
                self._note_away(insert.table, error)
                await asyncio.sleep(self._backoff.pause_s(attempt))
            except InsertRejected as error:
                self._metrics.insert_failed(insert.table, "rejected")
                log.error("insert rejected", table=insert.table, rows=insert.rows, error=str(error))
                raise
            else:
                self._metrics.inserted(insert.table, insert.rows, time.monotonic() - started)
                self._note_back(insert.table, attempt)
                return

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

    def _note_away(self, table: str, error: SinkError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("clickhouse unavailable, trying until it is back", table=table, error=str(error))

    def _note_back(self, table: str, attempts: int) -> None:
        if self._away_since is not None:
            away_s = round(time.monotonic() - self._away_since, 3)
            self._away_since = None
            log.info("clickhouse is back", table=table, away_s=away_s, attempts=attempts)
