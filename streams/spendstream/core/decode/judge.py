"""Judge raw columns by the contract, a column at a time; what passes is typed and completed with defaults."""

from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spendstream.core.decode.columns import CALL_SCHEMA, COUNTS, DEFAULTED_TEXT, OPTIONAL_TEXT, REQUIRED_NAMES
from spendstream.core.decode.times import parse_times
from spendstream.core.decode.uuids import parse_uuids
from spendstream.schemas import usage
from spendstream.schemas.buckets import INPUT_BUCKETS, PROMPT_PARTS, TOKEN_BUCKETS, tokens_field

_MAX_TEXT: Final = 256
_MAX_CURRENCY: Final = 3
_EARLIEST_US: Final = int(usage.EARLIEST.timestamp()) * 1_000_000
_LATEST_US: Final = int(usage.LATEST.timestamp()) * 1_000_000
_CHOICES: Final = {
    "service_tier": get_args(usage.ServiceTier),
    "status": get_args(usage.Status),
    "usage_quality": get_args(usage.UsageQuality),
}
_LIMITS: Final = {
    **dict.fromkeys(COUNTS, (0, usage.MAX_TOKENS)),
    "attempt": (1, 1000),
    "latency_ms": (0, 86_400_000),
    "gpu_seconds": (0, usage.MAX_GPU_SECONDS),
}
_COUNTED: Final = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "gpu_seconds")


@dataclass(frozen=True)
class Judged:
    """``calls``: ``CALL_SCHEMA`` without ``row``, a row a record; ``valid``: rows that the contract surely accepts."""

    calls: pl.DataFrame
    valid: NDArray[np.bool_]


def judge(raw: pl.DataFrame) -> Judged:
    """Accept the rows that the contract surely accepts. The rest is for ``explain``, whose word is final."""
    ids = parse_uuids(raw["event_id"])
    suspect = [~pl.lit(True), *_text_faults(raw), *_count_faults(raw), *_whole_faults()]
    checked = raw.with_columns(_time_us(raw["occurred_at"]), _time_us(raw["requested_at"])).with_columns(
        __fault=pl.any_horizontal(*suspect, *_time_faults())
    )
    calls = checked.with_columns(
        pl.Series("id_hi", ids.hi),
        pl.Series("id_lo", ids.lo),
        *(pl.col(field).fill_null("") for field in OPTIONAL_TEXT),
        *(pl.col(field).fill_null(default) for field, default in DEFAULTED_TEXT.items()),
        *(pl.col(field).fill_null(0) for field in COUNTS),
        pl.col("attempt").fill_null(1),
        gpu_us=(pl.col("gpu_seconds") * 1e6).round().cast(pl.Int64, strict=False),
        tags=pl.col("tags") if "tags" in raw.columns else pl.lit(None, dtype=pl.String),
    )
    valid = ids.valid & ~checked["__fault"].fill_null(True).to_numpy()
    return Judged(calls.select([name for name in CALL_SCHEMA if name != "row"]), valid)


def _text_faults(raw: pl.DataFrame) -> list[pl.Expr]:
    """Faults of text fields; a check that no value of the batch can fail is left out."""
    faults = [pl.col(field).is_null() | (pl.col(field) == "") for field in REQUIRED_NAMES]
    faults.append(pl.col("model_requested").is_null() & pl.col("model_served").is_null())
    faults.extend((pl.col(field) == "").fill_null(False) for field in ("model_requested", "model_served", "operation"))
    # bytes bound characters from above: past the bound in bytes, the explainer counts characters
    longest = raw.select(pl.col(*REQUIRED_NAMES, *OPTIONAL_TEXT, "operation").str.len_bytes().max()).row(0, named=True)
    for field, most in longest.items():
        if most is not None and most > _MAX_TEXT:
            faults.append((pl.col(field).str.len_bytes() > _MAX_TEXT).fill_null(False))
    for field, choices in _CHOICES.items():
        if raw[field].null_count() < raw.height and not set(raw[field].unique().drop_nulls().to_list()) <= set(choices):
            faults.append((~pl.col(field).is_in(choices)).fill_null(False))
    if raw["currency"].null_count() < raw.height:
        faults.append((~pl.col("currency").str.contains(r"^[A-Z]{3}$")).fill_null(False))
        faults.append((pl.col("currency").str.len_bytes() > _MAX_CURRENCY).fill_null(False))
    if raw["provider_cost"].null_count() < raw.height:
        plain = pl.col("provider_cost").str.contains(r"^(0|[1-9]\d{0,5})(\.\d{1,12})?$")
        faults.append((~plain).fill_null(False) | pl.col("provider_cost").str.contains("\n").fill_null(False))
    return faults


def without_nul(raw: pl.DataFrame) -> NDArray[np.bool_]:
    """Rows without a NUL in any text: an escape can smuggle one in, so only escaped records need asking."""
    texts = [name for name, kind in raw.schema.items() if kind == pl.String()]
    found = raw.select(pl.any_horizontal(pl.col(texts).str.contains("\x00", literal=True).fill_null(False)))
    return ~found.to_series().to_numpy()


def _count_faults(raw: pl.DataFrame) -> list[pl.Expr]:
    faults: list[pl.Expr] = []
    extremes = raw.select(
        *(pl.col(field).min().alias(f"min {field}") for field in _LIMITS),
        *(pl.col(field).max().alias(f"max {field}") for field in _LIMITS),
    ).row(0, named=True)
    for field, (low, high) in _LIMITS.items():
        least, most = extremes[f"min {field}"], extremes[f"max {field}"]
        if (least is not None and least < low) or (most is not None and not most <= high):
            faults.append((~pl.col(field).is_between(low, high)).fill_null(False))
    return faults


def _whole_faults() -> list[pl.Expr]:
    parts = pl.sum_horizontal(pl.col(f"prompt_{part}_tokens") for part in PROMPT_PARTS)
    whole = pl.sum_horizontal(pl.col(tokens_field(bucket)) for bucket in INPUT_BUCKETS)
    return [pl.all_horizontal(pl.col(field).is_null() for field in _COUNTED), parts > whole]


def _time_us(texts: pl.Series) -> pl.Series:
    """Return µs since 1970; null where absent, or written in another spelling than the usual ones."""
    name = f"{texts.name}_us"
    if texts.null_count() == len(texts):
        return pl.Series(name, [None], dtype=pl.Int64).new_from_index(0, len(texts)).alias(name)
    us, valid = parse_times(texts)
    found = pl.Series(name, us)
    return found if valid.all() else found.set(pl.Series(~valid), None)


def _time_faults() -> list[pl.Expr]:
    at, requested = pl.col("occurred_at_us"), pl.col("requested_at_us")
    return [
        at.is_null() | ~at.is_between(_EARLIEST_US, _LATEST_US - 1),
        pl.col("requested_at").is_not_null()
        & (requested.is_null() | ~requested.is_between(_EARLIEST_US, _LATEST_US - 1)),
    ]
