"""Priced calls, Arrow IPC streams on the wire, as rows of ``calls``: an insert names only the columns that are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.priced import ADDED, PRICED_SCHEMA
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
    """A record's value and its calls. ``is_as_sent``: the value is one batch of ``PRICED_SCHEMA``, ready to insert."""

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
    """Read one IPC stream as a table of ``PRICED_SCHEMA``.

    Unknown columns are left out and absent ones are null where they may be: a later release may add columns.

    Raises: pyarrow's errors or ValueError, when it is no IPC stream, is damaged, or lacks a required column.
    """
    return _read_stream(value).calls


def _read_stream(value: bytes) -> _Stream:
    with pa.ipc.open_stream(value) as reader:
        table = reader.read_all()
    table.validate(full=True)  # 0.1 µs a row; an index beyond its dictionary would read foreign memory
    if table.schema.equals(PRICED_SCHEMA):
        return _Stream(value, table, is_as_sent=table.column(0).num_chunks == 1)
    columns = [_stream_column(table, field) for field in PRICED_SCHEMA]
    return _Stream(value, pa.table(columns, schema=PRICED_SCHEMA), is_as_sent=False)


def _stream_column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name in table.schema.names:
        column = table[field.name]
        if column.null_count and not field.nullable:
            raise ValueError(f"column {field.name} has nulls")
        return column.cast(field.type)
    if field.name in ADDED:
        return _empty(table.num_rows, field)
    if not field.nullable:
        raise ValueError(f"column {field.name} is missing")
    return pa.nulls(table.num_rows, field.type)


_OTHER_DEFAULTS: Final = {"capacity": "on_demand"}
"""Columns of ``calls`` whose default is not the empty value of their type."""


def _empty(n: int, field: pa.Field) -> pa.Array:
    """Return a column's default so many times: 0, "" or an empty map, unless it has another."""
    kind = field.type
    if pa.types.is_map(kind):
        return pa.array([[]] * n, kind)
    default = _OTHER_DEFAULTS.get(field.name, "")
    if pa.types.is_dictionary(kind):
        return pa.array([default] * n, pa.string()).dictionary_encode().cast(kind)
    return pa.array([0 if pa.types.is_integer(kind) else default] * n, kind)


def _calls_insert(group: Sequence[_Stream]) -> Insert:
    first = group[0]
    if len(group) == 1 and first.is_as_sent:
        # 0.7 µs a row with the check above; written again, together with others, it takes 3.
        return Insert(CALLS, used_columns(first.calls), first.calls.num_rows, first.value)
    calls = pa.concat_tables([stream.calls for stream in group])
    return table_insert(CALLS, calls.select(used_columns(calls)))


def used_columns(calls: pa.Table) -> tuple[str, ...]:
    """Return the columns in which some call has another value than the table's default.

    Most fields are rarely stated, and a column that an INSERT does not name costs ClickHouse next to nothing.
    """
    return tuple(
        name
        for name, column in zip(calls.schema.names, calls.columns, strict=True)
        if not _is_default(column, _OTHER_DEFAULTS.get(name, ""), is_money=name.startswith("cost_"))
    )


def _is_default(column: pa.ChunkedArray, text: str, *, is_money: bool) -> bool:
    """Whether every value is the default: null where it may be (an amount by bucket: 0), else 0, ``text`` or empty.

    False where that takes long to find out.
    """
    kind = column.type
    if column.null_count:
        return column.null_count == len(column) and not is_money
    if pa.types.is_dictionary(kind):
        return all(chunk.dictionary.to_pylist() == [text] for chunk in column.chunks if len(chunk))
    if pa.types.is_string(kind):
        return not pc.max(pc.binary_length(column)).as_py()
    if pa.types.is_map(kind):
        return all(chunk.offsets[0].equals(chunk.offsets[-1]) for chunk in column.chunks)
    if pa.types.is_decimal(kind):
        return is_money and not any(_words(chunk).any() for chunk in column.chunks)
    return bool(pa.types.is_integer(kind) and pc.min_max(column).as_py() == {"min": 0, "max": 0})


def _words(amounts: pa.Decimal128Array) -> NDArray[np.int64]:
    """Return a column of 16-byte decimals as its 64-bit words, two a value."""
    return np.frombuffer(amounts.buffers()[1], np.int64)[2 * amounts.offset : 2 * (amounts.offset + len(amounts))]
