"""Dead letters: JSON on the wire, with the original bytes in base64, into `dead_letters`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
import pyarrow as pa

from spendstream.schemas.dead_letter import Reason
from spendstream.sinks.arrow import table_insert
from spendstream.sinks.base import Insert, Landed, Record, Undecodable

TABLE: Final = "dead_letters"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01
_SCHEMA: Final = pa.schema(
    [
        ("topic", pa.string()),
        ("source_log", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("field", pa.string()),
        ("message", pa.string()),
        ("event_id", pa.string()),
        ("service", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("key", pa.binary()),
        ("original", pa.binary()),
    ]
)


class _DeadLetter(msgspec.Struct):
    """`spendstream.schemas.dead_letter.DeadLetter`, and a row. A reason of a later release is kept as it is."""

    topic: str
    source_log: str
    partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    reason: str
    message: str
    recorded_at: Annotated[datetime, msgspec.Meta(tz=True)]
    original: bytes
    field: str | None = None
    event_id: str | None = None
    service: str | None = None
    key: bytes | None = None


_decode = msgspec.json.Decoder(_DeadLetter).decode


class DeadLetters:
    """Lands dead letters."""

    table = TABLE
    is_compacted = False

    def land(self, records: Sequence[Record]) -> Landed:
        """Return one insert, or none. What is no dead letter becomes one, of this topic."""
        letters: list[_DeadLetter] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                letters.append(_decode(record.value))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                undecodable.append(Undecodable(record, Reason.NOT_JSON, f"not a dead letter: {error}"))
        return Landed((_insert(letters),) if letters else (), tuple(undecodable))


def undecodable_insert(undecodable: Sequence[Undecodable]) -> Insert:
    """Return records that a sink could not read as rows of `dead_letters`, each under its own topic.

    They go straight to the table: through Kafka they would need a producer, and room for their bytes in base64.
    """
    return _insert([_letter(one) for one in undecodable])


def _letter(one: Undecodable) -> _DeadLetter:
    record = one.record
    return _DeadLetter(
        topic=record.topic,
        # A sink does not know the life of the topic; the timestamp tells apart two records at one offset.
        source_log=f"timestamp-ms:{record.timestamp}",
        partition=record.partition,
        offset=record.offset,
        reason=one.reason.value,
        message=one.message,
        recorded_at=_time(record.timestamp),
        original=record.value or b"",
        key=record.key,
    )


def _time(timestamp_ms: int) -> datetime:
    """Return a Kafka timestamp as a time, kept within 1970 and 2100: producers may set any number."""
    return _EPOCH + timedelta(milliseconds=min(max(timestamp_ms, 0), _LATEST_MS))


def _insert(letters: Sequence[_DeadLetter]) -> Insert:
    columns = [pa.array([_cell(letter, field) for letter in letters], field.type) for field in _SCHEMA]
    return table_insert(TABLE, pa.table(columns, schema=_SCHEMA))


def _cell(letter: _DeadLetter, field: pa.Field) -> object:
    value = getattr(letter, field.name)
    return "" if value is None and field.type == pa.string() else value
