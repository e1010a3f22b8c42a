"""Priced calls, rollups, dead letters and Kafka records, as small or as odd as a test needs them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from spendstream.schemas.dead_letter import DeadLetter, Reason
from spendstream.schemas.priced import PRICED_SCHEMA
from spendstream.schemas.rollup import CostRollup

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class FakeRecord:
    """A Kafka record."""

    value: bytes | None
    offset: int = 0
    partition: int = 0
    topic: str = "topic"
    timestamp: int = 1_772_625_600_000
    key: bytes | None = None


def records(values: Sequence[bytes | None]) -> list[FakeRecord]:
    return [FakeRecord(value, offset=offset) for offset, value in enumerate(values)]


def priced_calls(n: int = 1, **columns: Any) -> pa.Table:
    """A table of ``PRICED_SCHEMA``: ``n`` calls, one a millisecond from noon. ``columns``: one value, or a list."""
    made = []
    for field in PRICED_SCHEMA:
        value = columns.pop(field.name) if field.name in columns else _default(field, n)
        values = value if isinstance(value, list) else [value] * n
        made.append(_array(values, field.type))
    assert not columns, columns
    return pa.table(made, schema=PRICED_SCHEMA)


def ipc(table: pa.Table, max_chunksize: int | None = None) -> bytes:
    """The table as one Arrow IPC stream, lz4-compressed, as the meter writes it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table, max_chunksize)
    value: bytes = sink.getvalue().to_pybytes()
    return value


def read_body(body: bytes) -> pa.Table:
    with pa.ipc.open_stream(body) as reader:
        return reader.read_all()


def make_rollup(through_offset: int = 9, **fields: Any) -> CostRollup:
    amount = fields.pop("cost_usd", Decimal("0.036"))
    return CostRollup(
        **{
            "source_log": "log-1",
            "source_partition": 0,
            "minute": NOON,
            "dimensions": {"service": "api", "team": "search", "model": "m-1"},
            "first_offset": 0,
            "through_offset": through_offset,
            "calls": 2,
            "tokens": {"input": 600, "output": 400},
            "cost_usd": amount,
            "cost_usd_by_bucket": {"input": amount},
            "cost_without_cache_usd": amount,
            "cost_at_standard_tier_usd": amount,
            "cost_with_requested_model_usd": amount,
            "first_event_at": NOON + timedelta(microseconds=1),
            "last_event_at": NOON + timedelta(seconds=59),
            **fields,
        }
    )


def rollup_value(through_offset: int = 9, **fields: Any) -> bytes:
    return make_rollup(through_offset, **fields).model_dump_json().encode()


def dead_letter_value(offset: int = 0, original: bytes = b"\xff\x00{", **fields: Any) -> bytes:
    import base64

    fields.setdefault("topic", "llm.usage.v1")
    fields.setdefault("source_log", "log-1")
    fields.setdefault("reason", Reason.NOT_JSON)
    return (
        DeadLetter(
            partition=0,
            offset=offset,
            message="not JSON: unexpected byte",
            recorded_at=NOON,
            original=base64.b64encode(original),
            **fields,
        )
        .model_dump_json()
        .encode()
    )


def _default(field: pa.Field, n: int) -> list[Any]:
    if field.name == "event_id":
        return [uuid.uuid4().bytes for _ in range(n)]
    if pa.types.is_timestamp(field.type):
        return [NOON + timedelta(milliseconds=i) for i in range(n)]
    if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
        return [f"{field.name}-1"] * n
    if field.name == "parent_event_id":
        return [None] * n
    if pa.types.is_map(field.type):
        return [[("pages", Decimal(2))]] * n
    if pa.types.is_decimal(field.type):
        return [Decimal("0.036")] * n
    if field.name == "source_offset":
        return list(range(n))
    return [1] * n


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)
