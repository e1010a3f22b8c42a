"""How a write can fail.

SinkError
├── Unavailable       not now: ClickHouse is away, full or too busy. Retried for ever; nothing is lost meanwhile.
└── InsertRejected    never, as it stands: the rows and the table don't fit. Raised; nothing is dropped or committed.
    └── NotMigrated   the database or a table is missing: run `spendstream migrate`
"""

from __future__ import annotations

import re
from typing import Final

from clickhouse_connect.driver.exceptions import ClickHouseError

from spendstream.errors import SpendstreamError

NO_SUCH_TABLE: Final = (60, 81)  # UNKNOWN_TABLE, UNKNOWN_DATABASE

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
"""ClickHouse's error codes that pass by themselves or by an operator's hand, with the same rows."""

_CODE: Final = re.compile(r"\b[Cc]ode: (\d+)")
_STATUS: Final = re.compile(r"HTTP status (\d{3})")
_PASSING_STATUS: Final = (408, 425, 429)


class SinkError(SpendstreamError):
    """A write to ClickHouse failed."""


class Unavailable(SinkError):
    """ClickHouse can't take rows at present. The same rows will do later."""


class InsertRejected(SinkError):
    """ClickHouse refuses these rows: the message has the table and the server's words.

    The records stay uncommitted in Kafka, so nothing is lost; the sink goes on once rows and table fit.
    """


class NotMigrated(InsertRejected):
    """The database or the table does not exist."""


def sink_error(error: ClickHouseError, table: str) -> SinkError:
    """Return what an error of the driver means for a sink that writes to `table`.

    ClickHouse's error code decides where there is one. Without one the answer is not ClickHouse's: it comes from a
    proxy (an HTTP status) or there was none (the connection failed).
    """
    words = " ".join(str(error).split())
    if (code := error_code(error)) is not None:
        if code in NO_SUCH_TABLE:
            return NotMigrated(f"{table} is not there; run `spendstream migrate`. ClickHouse says: {words}")
        return Unavailable(words) if code in PASSING else InsertRejected(f"{table}: ClickHouse refuses: {words}")
    if status := _STATUS.search(words):
        number = int(status.group(1))
        if number < 500 and number not in _PASSING_STATUS:
            return InsertRejected(f"{table}: refused on the way to ClickHouse: {words}")
    return Unavailable(words)


def error_code(error: ClickHouseError) -> int | None:
    """Return ClickHouse's error code, None where the answer has none."""
    known = getattr(error, "code", None)
    if known is not None:
        return int(known)
    found = _CODE.search(str(error))
    return int(found.group(1)) if found else None
