"""The ledger on the wire: priced calls as Arrow IPC streams. See ``spendstream.schemas.priced``."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spendstream.core.money import usd_column
from spendstream.schemas.measures import MEASURES, PRICE_QUALITIES
from spendstream.schemas.priced import DEFAULTS, LATENESS, PRICED_SCHEMA, UNPRICED_REASONS, USD

_MONEY: Final = {measure.field: measure.name for measure in MEASURES if measure.unit == "USD"}
_SOURCES: Final = {
    **_MONEY,
    **{f"{time}_at": f"{time}_at_us" for time in ("occurred", "requested", "recorded", "priced")},
    "price_quality": "quality",
    "source_offset": "offset",
}
"""Where a column has another name in the meter's calls."""
_CODED: Final = {"lateness": LATENESS, "unpriced_reason": UNPRICED_REASONS, "price_quality": PRICE_QUALITIES}
_VARIES: Final = object()
_NULL_IS_EMPTY: Final = ("tags", "usage_notes")
_FIRST_GUESS_ROWS: Final = 5_000
_FILL: Final = 0.9  # rows differ in size: aim below the bound, to encode most pieces once
_WRITE_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


def ledger_table(calls: pl.DataFrame, *, partition: int, source_log: str) -> pa.Table:
    """Return priced calls as a table of ``PRICED_SCHEMA``, without the columns in which every call has the default."""
    frame = calls.with_columns(
        model=pl.when(pl.col("model_served") == "").then("model_requested").otherwise("model_served")
    )
    n = frame.height
    priced = frame["priced"].to_numpy()
    known = None if priced.all() else priced
    constants = _constants(frame)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in PRICED_SCHEMA:
        name = field.name
        source = _SOURCES.get(name, name)
        if _is_default(name, constants.get(source, _VARIES)) and (known is None or name not in _MONEY):
            continue
        if name == "event_id":
            columns[name] = _uuid_column(frame)
        elif name in _MONEY:
            columns[name] = usd_column(frame[source].to_numpy(), known)
        elif name in _CODED:
            columns[name] = _coded(frame[source].to_numpy(), _CODED[name])
        elif name == "parent_event_id":
            columns[name] = _parent_column(frame[name])
        elif pa.types.is_map(field.type):
            columns[name] = _amounts_by_name(frame[name])
        elif name == "source_log":
            columns[name] = _coded(np.zeros(n, dtype=np.int8), (source_log,))
        elif name == "source_partition":
            columns[name] = pa.array(np.full(n, partition, dtype=np.int32))
        elif name == "provider_cost":
            columns[name] = frame[name].to_arrow().cast(pa.string()).cast(USD)
        elif pa.types.is_dictionary(field.type) and name in constants:
            columns[name] = _coded(np.zeros(n, dtype=np.int8), (constants[name],))
        elif pa.types.is_dictionary(field.type):
            column = frame[name].to_arrow()
            coded = pa.types.is_dictionary(column.type)
            columns[name] = (column if coded else column.cast(pa.string()).dictionary_encode()).cast(field.type)
        else:
            column = frame[source].to_arrow()
            columns[name] = (pc.fill_null(column, "") if name in _NULL_IS_EMPTY else column).cast(field.type)
    return pa.table(list(columns.values()), schema=pa.schema([PRICED_SCHEMA.field(name) for name in columns]))


def _constants(frame: pl.DataFrame) -> dict[str, Any]:
    """Return the columns of text and numbers that hold one value in all rows, with it: most are never stated."""
    if not frame.height:
        return {}
    texts, numbers = pl.col(pl.String), pl.col(pl.Int64)
    nulls = frame.null_count().row(0, named=True)
    same = frame.select((texts == texts.first()).all(), numbers.min() == numbers.max()).row(0, named=True)
    first = frame.row(0, named=True)
    return {name: first[name] for name in same if nulls[name] == frame.height or (same[name] and not nulls[name])}


def _is_default(name: str, value: Any) -> bool:
    """Whether a value of the meter's calls is the ledger's default, which a null or "" may stand for."""
    if name not in DEFAULTS:
        return False
    default = DEFAULTS[name]
    return bool(value == default) or (not default and (value is None or value == ""))


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
