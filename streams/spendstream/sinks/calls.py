"""Priced calls, Arrow IPC streams on the wire, as rows of ``calls``: an insert names the columns that they have."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import pyarrow as pa

from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.priced import DEFAULTS, PRICED_SCHEMA, REQUIRED
from spendstream.sinks.encoders import (
    CALLS,
    ConsumedRecord,
    Encoded,
    Insert,
    Undecodable,
    table_insert,
)


@dataclass(frozen=True)
class _Stream:
    """A record's value and its calls. ``is_as_sent``: the value is one batch of the schema's types, ready to insert."""

    value: bytes
    calls: pa.Table
    is_as_sent: bool


class CallEncoder:
    """Encodes priced calls. ``max_rows``: of one insert, gathered from streams; a larger stream is an insert alone."""

    table = CALLS
    is_compacted = False

    def __init__(self, max_rows: int = 10_000) -> None:
        self._max_rows = max_rows

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return the inserts that hold the records' calls, in order."""
        streams: list[_Stream] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                streams.append(_read_stream(record.value))
            except (pa.ArrowException, ValueError, OSError) as error:
                undecodable.append(Undecodable(record, Reason.INVALID_VALUE, f"not priced calls: {error}"))
        inserts: list[Insert] = []
        group: list[_Stream] = []
        rows = 0
        for stream in streams:
            if group and rows + stream.calls.num_rows > self._max_rows:
                inserts.append(_calls_insert(group))
                group, rows = [], 0
            group.append(stream)
            rows += stream.calls.num_rows
        if rows:
            inserts.append(_calls_insert(group))
        return Encoded(tuple(inserts), tuple(undecodable))


def read_priced(value: bytes) -> pa.Table:
    """Read one IPC stream as a table of the columns of ``PRICED_SCHEMA`` that it has.

    Unknown columns are left out: a later release may add columns.
    Raises: pyarrow's errors or ValueError, when it is no IPC stream, is damaged, or lacks a required column.
    """
    return _read_stream(value).calls


def _read_stream(value: bytes) -> _Stream:
    with pa.ipc.open_stream(value) as reader:
        table = reader.read_all()
    table.validate(full=True)  # 0.1 µs a row; an index beyond its dictionary would read foreign memory
    names = set(table.schema.names)
    if missing := sorted(REQUIRED - names):
        raise ValueError(f"column {missing[0]} is missing")
    schema = _schema_of(names)
    if table.schema.equals(schema):
        return _Stream(value, table, is_as_sent=table.column(0).num_chunks == 1)
    columns = [_cast(table[field.name], field) for field in schema]
    return _Stream(value, pa.table(columns, schema=schema), is_as_sent=False)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if column.null_count and not field.nullable:
        raise ValueError(f"column {field.name} has nulls")
    return column.cast(field.type)


def _schema_of(names: Set[str]) -> pa.Schema:
    return pa.schema([field for field in PRICED_SCHEMA if field.name in names])


def _calls_insert(group: Sequence[_Stream]) -> Insert:
    first = group[0]
    if len(group) == 1 and first.is_as_sent:
        # 0.7 µs a row with the check above; written again, together with others, it takes 3.
        return Insert(CALLS, tuple(first.calls.schema.names), first.calls.num_rows, first.value)
    return calls_insert([stream.calls for stream in group])


def calls_insert(tables: Sequence[pa.Table]) -> Insert:
    """Return the insert of priced calls, as ``read_priced`` gives them, into the ledger."""
    schema = _schema_of({name for calls in tables for name in calls.schema.names})
    return table_insert(CALLS, pa.concat_tables([filled(calls, schema) for calls in tables]))


def filled(calls: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return calls with every column of a schema: the default where they have none."""
    stated = set(calls.schema.names)
    columns = [calls[field.name] if field.name in stated else _default(calls.num_rows, field) for field in schema]
    return pa.table(columns, schema=schema)


def _default(n: int, field: pa.Field) -> pa.Array:
    default = DEFAULTS[field.name]
    if pa.types.is_dictionary(field.type):
        return pa.array([default] * n, pa.string()).dictionary_encode().cast(field.type)
    return pa.array([default] * n, field.type)
