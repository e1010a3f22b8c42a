"""Usage events and source logs, as small or as odd as a test needs them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from spendstream.core.batch import RecordBatch
from tests.reference_meter import LogRecord

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(days=90)
"""When the records are metered: behind every record's time, as on a wall clock that is right."""

NOON_MS = int(NOON.timestamp()) * 1000


def event_id(number: int) -> str:
    """The same number is the same event."""
    return str(uuid.UUID(int=0x0192F0C1_7E1C_7D3A_9F51_000000000000 + number))


def make_usage_event(number: int = 1, *, at_s: float = 0, cached: int | None = None, **fields: Any) -> dict[str, Any]:
    """Return a valid event's fields, ``at_s`` seconds after noon; a field given as None is left out."""
    event = {
        "event_id": event_id(number),
        "occurred_at": spell(NOON + timedelta(seconds=at_s)),
        "service": "api",
        "team": "search",
        "provider": "acme",
        "model_served": "acme-1",
        "input_tokens": 600,
        "cache_read_tokens": cached,
        "output_tokens": 50,
        **fields,
    }
    return {name: value for name, value in event.items() if value is not None}


def spell(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def encode(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


class Log:
    """A partition's records, appended with rising offsets. ``gap`` skips offsets, as compaction and markers do."""

    def __init__(self, first_offset: int = 0) -> None:
        self.records: list[LogRecord] = []
        self._next = first_offset

    def append(
        self, value: dict[str, Any] | bytes | None, *, at_s: float = 0, key: bytes | None = b"k", gap: int = 0
    ) -> LogRecord:
        """Append an event, or raw bytes, recorded ``at_s`` seconds after noon."""
        return self.append_at(
            encode(value) if isinstance(value, dict) else value, NOON_MS + round(at_s * 1000), key, gap
        )

    def append_at(self, value: bytes | None, timestamp_ms: int, key: bytes | None, gap: int = 0) -> LogRecord:
        record = LogRecord(self._next + gap, timestamp_ms, key, value)
        self._next = record.offset + 1
        self.records.append(record)
        return record

    def batch(self) -> RecordBatch:
        return as_batch(self.records)


def as_batch(records: Sequence[LogRecord]) -> RecordBatch:
    return RecordBatch(
        partition=0,
        offsets=np.array([r.offset for r in records], dtype=np.int64),
        timestamps_ms=np.array([r.timestamp_ms for r in records], dtype=np.int64),
        keys=[r.key for r in records],
        values=[r.value for r in records],
    )


def cut(records: Sequence[LogRecord], sizes: Iterable[int]) -> Iterator[RecordBatch]:
    """Cut records into batches of these sizes; the last takes the rest."""
    start = 0
    for size in sizes:
        if start < len(records):
            yield as_batch(records[start : start + size])
            start += size
    if start < len(records):
        yield as_batch(records[start:])
