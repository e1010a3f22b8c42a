"""The strict reader: one record at a time, for what the fast reader could not prove (tags, escapes, unknown fields)."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl

from spendstream.core.decode.columns import RAW_SCHEMA

_PYTHON_TYPES: dict[pl.DataType, Any] = {pl.String(): str | None, pl.Int64(): int | None, pl.Float64(): float | None}
_STRICT_SCHEMA = {**RAW_SCHEMA, "tags": pl.String()}
_Record = msgspec.defstruct(
    "_Record",
    [(field, _PYTHON_TYPES[kind], None) for field, kind in RAW_SCHEMA.items()]
    + [("tags", dict[str, str] | None, None)],
    gc=False,
)
_decoder = msgspec.json.Decoder(_Record)
_encode = msgspec.json.encode
_MAX_DEPTH = 64
_LONG_NUMBER = re.compile(rb"[0-9]{1000}")
_INT64 = range(-(2**63), 2**63)
_integer_fields = [field for field, kind in RAW_SCHEMA.items() if kind == pl.Int64()]


def read_strict(values: Sequence[bytes]) -> tuple[pl.DataFrame, list[bool]]:
    """Read JSON records one by one.

    Returns: a frame of ``RAW_SCHEMA`` and ``tags``, one row a record; and for each whether it could be read.
    """
    rows: list[tuple[Any, ...]] = []
    readable: list[bool] = []
    empty = msgspec.structs.astuple(_Record())
    for value in values:
        row = _read(value)
        readable.append(row is not None)
        rows.append(row or empty)
    return pl.DataFrame(rows, schema=_STRICT_SCHEMA, orient="row"), readable


def _read(value: bytes) -> tuple[Any, ...] | None:
    if not _is_plain(value):
        return None
    try:
        record = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for field in _integer_fields:
        if (count := getattr(record, field)) is not None and count not in _INT64:
            return None
    if record.tags is not None:  # type: ignore[attr-defined]
        if not _are_valid_tags(record.tags):  # type: ignore[attr-defined]
            return None
        record.tags = _encode(record.tags, order="deterministic").decode()  # type: ignore[attr-defined]
    row: tuple[Any, ...] = msgspec.structs.astuple(record)
    return row


def _is_plain(value: bytes) -> bool:
    """Whether the contract surely reads the unknown fields too, which the decoder skips without a look inside."""
    if value.count(b"[") + value.count(b"{") > _MAX_DEPTH:
        return False
    if len(value) > 1000 and _LONG_NUMBER.search(value):
        return False
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _are_valid_tags(tags: dict[str, str]) -> bool:
    return len(tags) <= 32 and all(
        0 < len(name) <= 256 and len(text) <= 256 and "\x00" not in name + text for name, text in tags.items()
    )
