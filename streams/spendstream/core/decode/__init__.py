"""Decode a batch of records: every record becomes a call or a rejection, none is dropped.

fast.py      JSON into columns, with a proof for each row
strict.py    the rest, one by one; and the verdict on what fails
columns.py   the columns, and their validation
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from spendstream.core.decode.columns import CALL_SCHEMA, uuid_text, validate, without_nul
from spendstream.core.decode.fast import read_fast
from spendstream.core.decode.strict import Rejection, call_row, explain, read_strict

__all__ = ["Decoded", "Rejection", "decode", "explain", "uuid_text"]

MAX_ONE_BY_ONE: Final = 200
"""So few records are read faster one by one than as columns."""


@dataclass(frozen=True)
class Decoded:
    """``calls``: ``CALL_SCHEMA``, in record order; ``rejected``: by row. Each record is in one of the two."""

    calls: pl.DataFrame
    rejected: dict[int, Rejection]


def decode(values: Sequence[bytes | None], max_bytes: int = 1_000_000) -> Decoded:
    """Decode JSON records into calls, by the contract of ``spendstream.schemas.usage.UsageEvent``. Never raises."""
    if not values:
        return Decoded(pl.DataFrame(schema=CALL_SCHEMA), {})
    # empty records stand for those that are absent or too large
    if None not in values and max(map(len, values)) <= max_bytes:  # type: ignore[arg-type]
        records: list[bytes] = list(values)  # type: ignore[arg-type]
    else:
        records = [v if v is not None and len(v) <= max_bytes else b"" for v in values]
    frames: list[pl.DataFrame] = []
    left = np.arange(len(records))
    if left.size > MAX_ONE_BY_ONE and (fast := read_fast(records)).certain.any():
        validated = validate(fast.frame)
        done = fast.certain & validated.valid
        frames.append(_rows(validated.calls, done, left))
        left = np.flatnonzero(~done)
    if left.size > MAX_ONE_BY_ONE:
        raw, readable = read_strict([records[i] for i in left])
        validated = validate(raw)
        valid = validated.valid & np.array(readable, dtype=np.bool_) & without_nul(raw)
        frames.append(_rows(validated.calls, valid, left))
        left = left[~valid]
    rejected: dict[int, Rejection] = {}
    explained: list[dict[str, object]] = []
    for i in left.tolist():
        verdict = explain(values[i], max_bytes)
        if isinstance(verdict, Rejection):
            rejected[i] = verdict
        else:
            explained.append({"row": i, **call_row(verdict)})
    if explained:
        frames.append(pl.DataFrame(explained, schema=CALL_SCHEMA))
    calls = pl.concat(frames) if frames else pl.DataFrame(schema=CALL_SCHEMA)
    return Decoded(calls.sort("row") if len(frames) > 1 else calls, rejected)


def _rows(calls: pl.DataFrame, chosen: np.ndarray, rows: np.ndarray) -> pl.DataFrame:
    if chosen.all():
        return calls.select(pl.Series("row", rows), pl.all()).select(CALL_SCHEMA.keys())
    return calls.select(pl.Series("row", rows), pl.all()).filter(pl.Series(chosen)).select(CALL_SCHEMA.keys())
