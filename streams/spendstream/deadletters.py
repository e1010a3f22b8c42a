"""Dead letters: listed from ClickHouse, and published again once their cause is fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from spendstream.clickhouse.client import INSERT_SETTINGS

_TABLE: Final = "dead_letters"
_TEXT: Final = ("topic", "source_log", "reason", "field", "message", "event_id", "service")
_BYTES: Final = ("key", "original")
_COLUMNS: Final = (*_TEXT, "partition", "offset", "recorded_at", "replayed_at", *_BYTES)
_TYPES: Final = {
    **dict.fromkeys(_COLUMNS, "String"),
    **dict.fromkeys(("topic", "source_log", "reason", "field"), "LowCardinality(String)"),
    "partition": "Int32",
    "offset": "Int64",
    "recorded_at": "DateTime64(6, 'UTC')",
    "replayed_at": "Nullable(DateTime64(6, 'UTC'))",
    "key": "Nullable(String)",
}


@dataclass(frozen=True)
class Filter:
    """Which letters; a part that is None selects all. ``limit``: at most this many, newest first; 0 is no limit."""

    topic: str
    reason: str | None = None
    service: str | None = None
    event_id: str | None = None
    limit: int = 100
    is_replayed: bool | None = None


@dataclass(frozen=True)
class Letter:
    """A dead letter. Identity: ``(topic, source_log, partition, offset)``."""

    topic: str
    source_log: str
    partition: int
    offset: int
    reason: str
    field: str
    message: str
    event_id: str
    service: str
    recorded_at: datetime
    replayed_at: datetime | None
    key: bytes | None
    original: bytes


def find(client: Any, database: str, wanted: Filter) -> list[Letter]:
    """Return dead letters, newest first. Raises: clickhouse-connect's errors."""
    conditions = ["topic = {topic:String}"]
    if wanted.reason is not None:
        conditions.append("reason = {reason:String}")
    if wanted.service is not None:
        conditions.append("service = {service:String}")
    if wanted.event_id is not None:
        conditions.append("lower(event_id) = lower({event_id:String})")
    if wanted.is_replayed is not None:
        conditions.append(f"replayed_at IS {'NOT ' if wanted.is_replayed else ''}NULL")
    limit = f" LIMIT {int(wanted.limit)}" if wanted.limit else ""
    columns = ", ".join(
        f"lower(hex({name})) AS {name}_hex" if name in _BYTES else name for name in _COLUMNS
    )  # bytes that are no UTF-8 come through as text
    sql = (
        f"SELECT {columns} FROM {database}.{_TABLE} FINAL WHERE {' AND '.join(conditions)} "
        f"ORDER BY recorded_at DESC, partition, offset DESC{limit}"
    )
    parameters = {name: getattr(wanted, name) or "" for name in ("topic", "reason", "service", "event_id")}
    return [_letter(row) for row in client.query(sql, parameters=parameters).named_results()]


def mark_replayed(client: Any, database: str, letters: Sequence[Letter], at: datetime) -> None:
    """Record when letters were published again: each row is written again, and replaces the one before."""
    if not letters:
        return
    rows = [[getattr(letter, name) if name != "replayed_at" else at for name in _COLUMNS] for letter in letters]
    client.insert(
        f"{database}.{_TABLE}",
        rows,
        column_names=_COLUMNS,
        column_type_names=[_TYPES[name] for name in _COLUMNS],
        settings=INSERT_SETTINGS,
    )


async def replay(client: Mapping[str, Any], topic: str, letters: Sequence[Letter]) -> None:
    """Publish the original bytes of letters again, each with its own key. Returns once Kafka has acknowledged all.

    A letter whose bytes are at fault comes back as a new dead letter. One that was counted meanwhile, by another record
    of its ``event_id`` within the dedupe horizon, does not count a second time.

    Raises: aiokafka's KafkaConnectionError, where no broker answers.
    """
    from spendstream.kafka.producer import AckedProducer, Record  # listing needs no Kafka client

    producer = AckedProducer(dict(client))
    try:
        await producer.start()
        await producer.write(topic, [Record(letter.key, letter.original) for letter in letters])
    finally:
        await producer.stop()


def _letter(row: dict[str, Any]) -> Letter:
    found: dict[str, Any] = {name: row[name] for name in _COLUMNS if name not in _BYTES}
    for name in _BYTES:
        text = row[f"{name}_hex"]
        found[name] = None if text is None else bytes.fromhex(text)
    for name in ("recorded_at", "replayed_at"):
        at = found[name]
        found[name] = at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
    return Letter(**found)
