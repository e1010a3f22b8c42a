"""The ledger on the wire: priced calls as Arrow IPC streams. See ``spendstream.schemas.priced``."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Final
from uuid import UUID

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spendstream.core.money import usd_column
from spendstream.schemas.measures import MEASURES, PRICE_QUALITIES
from spendstream.schemas.priced import LATENESS, PRICED_SCHEMA, UNPRICED_REASONS, USD

_MONEY: Final = {measure.field: measure.name for measure in MEASURES if measure.unit == "USD"}
_TIMES: Final = {
    "occurred_at": "occurred_at_us",
    "requested_at": "requested_at_us",
    "recorded_at": "recorded_at_us",
    "priced_at": "priced_at_us",
}
_RENAMED: Final = {"source_offset": "offset"}
_CODED: Final = {"lateness": LATENESS, "unpriced_reason": UNPRICED_REASONS, "price_quality": PRICE_QUALITIES}
_CODES: Final = {"price_quality": "quality"}
_NULL_IS_EMPTY: Final = ("tags", "usage_notes")
_FIRST_GUESS_ROWS: Final = 5_000
_FILL: Final = 0.9  # rows differ in size: aim below the bound, to encode most pieces once
_WRITE_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


def ledger_table(calls: pl.DataFrame, *, partition: int, source_log: str) -> pa.Table:
    """Return priced calls as a table of ``PRICED_SCHEMA``."""
    frame = calls.with_columns(
        model=pl.when(pl.col("model_served") == "").then("model_requested").otherwise("model_served")
    )
    n = frame.height
    priced = frame["priced"].to_numpy()
    known = None if priced.all() else priced
    columns: list[pa.Array | pa.ChunkedArray] = []
    for field in PRICED_SCHEMA:
        name = field.name
        if name == "event_id":
            columns.append(_uuid_column(frame))
        elif name in _MONEY:
            columns.append(usd_column(frame[_MONEY[name]].to_numpy(), known))
        elif name in _TIMES:
            columns.append(frame[_TIMES[name]].to_arrow().cast(field.type))
        elif name in _CODED:
            columns.append(_coded(frame[_CODES.get(name, name)].to_numpy(), _CODED[name]))
        elif name == "parent_event_id":
            columns.append(_parent_column(frame[name]))
        elif pa.types.is_map(field.type):
            columns.append(_amounts_by_name(frame[name]))
        elif name == "source_log":
            columns.append(_coded(np.zeros(n, dtype=np.int8), (source_log,)))
        elif name == "source_partition":
            columns.append(pa.array(np.full(n, partition, dtype=np.int32)))
        elif name == "provider_cost":
            columns.append(frame[name].to_arrow().cast(pa.string()).cast(USD))
        elif pa.types.is_dictionary(field.type):
            if n and (frame[name] == (first := frame[name][0])).all():  # most fields are rarely stated
                columns.append(_coded(np.zeros(n, dtype=np.int8), (first,)))
                continue
            column = frame[name].to_arrow()
            coded = pa.types.is_dictionary(column.type)
            columns.append((column if coded else column.cast(pa.string()).dictionary_encode()).cast(field.type))
        else:
            column = frame[_RENAMED.get(name, name)].to_arrow()
            columns.append((pc.fill_null(column, "") if name in _NULL_IS_EMPTY else column).cast(field.type))
    return pa.table(columns, schema=PRICED_SCHEMA)


def ledger_records(table: pa.Table, max_rows: int, max_bytes: int) -> Iterator[bytes]:
    """Split a table into IPC streams of at most ``max_rows`` rows and, unless a single row is larger, ``max_bytes``."""
    start, rows = 0, min(max_rows, _FIRST_GUESS_ROWS)
    while start < table.num_rows:
        piece = table.slice(start, rows)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, piece.schema, options=_WRITE_OPTIONS) as writer:
            writer.write_table(piece)
        payload: bytes = sink.getvalue().to_pybytes()
        fitting = int(piece.num_rows * max_bytes / len(payload) * _FILL)
        if len(payload) > max_bytes and piece.num_rows > 1:
            rows = max(1, min(fitting, piece.num_rows - 1))
            continue
        yield payload
        start += piece.num_rows
        rows = max(1, min(max_rows, fitting))


def _uuid_column(frame: pl.DataFrame) -> pa.Array:
    halves = np.empty((frame.height, 2), dtype=">u8")
    halves[:, 0] = frame["id_hi"].to_numpy()
    halves[:, 1] = frame["id_lo"].to_numpy()
    return pa.Array.from_buffers(pa.binary(16), frame.height, [None, pa.py_buffer(halves.tobytes())])


def _parent_column(texts: pl.Series) -> pa.Array:
    """Return UUIDs as their 16 bytes; null where ""."""
    if (texts == "").all():
        return pa.nulls(len(texts), pa.binary(16))
    return pa.array([UUID(text).bytes if text else None for text in texts], pa.binary(16))


def _amounts_by_name(texts: pl.Series) -> pa.Array:
    """Return JSON objects of decimal text as maps of decimals; an empty one where null."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int32)
    names: list[str] = []
    amounts: list[Decimal] = []
    for row in np.flatnonzero(texts.is_not_null().to_numpy()):
        stated = json.loads(texts[int(row)])
        names += stated
        amounts += map(Decimal, stated.values())
        offsets[row + 1] = len(stated)
    return pa.MapArray.from_arrays(
        np.cumsum(offsets, dtype=np.int32), pa.array(names, pa.string()), pa.array(amounts, USD)
    )


def _coded(codes: NDArray[np.integer], names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names, type=pa.string()))
