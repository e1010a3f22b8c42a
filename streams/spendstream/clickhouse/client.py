"""Connections to ClickHouse: the one place where a client's settings are made, and where it is opened."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

if TYPE_CHECKING:
    from spendstream.settings import Settings

# The driver warns at every attempt; the sink's writer says once that ClickHouse is away, and once that it is back.
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

NO_SUCH_TABLE: Final = (60, 81)
"""The error codes UNKNOWN_TABLE and UNKNOWN_DATABASE."""

NOT_ALLOWED: Final = (497, 514)
"""ACCESS_DENIED and ACCESS_STORAGE_FOR_INSERTION_NOT_FOUND: this user may make no roles, or this server keeps none."""

_CODE: Final = re.compile(r"\b[Cc]ode: (\d+)")


@dataclass(frozen=True)
class ClickHouseSettings:
    """Where ClickHouse is. ``url``: its HTTP interface. Timeouts are seconds."""

    url: str = "http://localhost:8123"
    user: str = "default"
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    database: str = "spendstream"
    cluster: str | None = None
    connect_timeout_s: float = 5.0
    insert_timeout_s: float = 60.0


def clickhouse_settings(settings: Settings) -> ClickHouseSettings:
    """Return how to connect to ClickHouse: every connection setting that the environment gives."""
    return ClickHouseSettings(
        url=settings.clickhouse_url,
        user=settings.clickhouse_user,
        password=settings.clickhouse_password,
        password_file=settings.clickhouse_password_file,
        database=settings.clickhouse_database,
        cluster=settings.clickhouse_cluster,
    )


def open_client(settings: ClickHouseSettings, *, database: str | None = None) -> Any:
    """Connect and return a clickhouse-connect client. ``database``: the default one of its statements; it must exist.

    Blocks. Raises: clickhouse-connect's errors; OSError, where the password's file can't be read.
    """
    secret = settings.password_file
    password = settings.password if secret is None else secret.read_text("utf-8").strip()
    url = urlsplit(settings.url)
    is_tls = url.scheme == "https"
    return clickhouse_connect.get_client(
        host=url.hostname or "localhost",
        port=url.port or (8443 if is_tls else 8123),
        secure=is_tls,
        username=settings.user,
        password=password,
        database=database or "default",
        connect_timeout=settings.connect_timeout_s,
        send_receive_timeout=settings.insert_timeout_s,
        compress=False,  # the bodies are compressed Arrow
        autogenerate_session_id=False,  # sessions forbid two statements at a time and mean nothing here
        query_retries=0,
    )


def error_code(error: ClickHouseError) -> int | None:
    """Return ClickHouse's error code, None where the answer has none."""
    known = getattr(error, "code", None)
    if known is not None:
        return int(known)
    found = _CODE.search(str(error))
    return int(found.group(1)) if found else None
