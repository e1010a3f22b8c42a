"""Decode a batch of records: every record becomes a call or a rejection, none is dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from spendstream.core.decode.columns import CALL_SCHEMA
from spendstream.core.decode.explain import Rejection, call_row, explain
from spendstream.core.decode.fast import read_fast
from spendstream.core.decode.judge import judge, without_nul
from spendstream.core.decode.strict import read_strict

FEW = 200
"""So many records are explained one by one sooner than columns are made of them."""


@dataclass(frozen=True)
class Decoded:
    """``calls``: ``CALL_SCHEMA``, in record order; ``rejected``: by record row. Together they are all the rows."""

    calls: pl.DataFrame
    rejected: dict[int, Rejection]


def decode(values: Sequence[bytes | None], max_bytes: int = 1_000_000) -> Decoded:
    """Decode JSON records into calls, by the contract of ``spendstream.schemas.usage.UsageEvent``. Never raises."""
    if not values:
        return Decoded(pl.DataFrame(schema=CALL_SCHEMA), {})
    records = _readable(values, max_bytes)
    frames: list[pl.DataFrame] = []
    left = np.arange(len(records))
    if left.size > FEW and (fast := read_fast(records)).certain.any():
        judged = judge(fast.frame)
        done = fast.certain & judged.valid
        frames.append(_rows(judged.calls, done, left))
        left = np.flatnonzero(~done)
    if left.size > FEW:
        raw, readable = read_strict([records[i] for i in left])
        judged = judge(raw)
        valid = judged.valid & np.array(readable, dtype=np.bool_) & without_nul(raw)
        frames.append(_rows(judged.calls, valid, left))
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


def _readable(values: Sequence[bytes | None], max_bytes: int) -> list[bytes]:
    """Return the records, empty where there is none or one too large."""
    if None not in values and max(map(len, values)) <= max_bytes:  # type: ignore[arg-type]
        return list(values)  # type: ignore[arg-type]
    return [v if v is not None and len(v) <= max_bytes else b"" for v in values]


def _rows(calls: pl.DataFrame, chosen: np.ndarray, rows: np.ndarray) -> pl.DataFrame:
    if chosen.all():
        return calls.select(pl.Series("row", rows), pl.all()).select(CALL_SCHEMA.keys())
    return calls.select(pl.Series("row", rows), pl.all()).filter(pl.Series(chosen)).select(CALL_SCHEMA.keys())
