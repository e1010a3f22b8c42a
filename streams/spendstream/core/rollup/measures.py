"""The measures of a rollup, as the columns of one integer matrix."""

from typing import Final

import polars as pl

from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS, tokens_field

COST: Final = "cost_pusd"
COUNTERFACTUALS: Final = ("without_cache_pusd", "at_standard_tier_pusd", "with_requested_model_pusd")
BUCKET_COSTS: Final = tuple(f"cost_{bucket}_pusd" for bucket in COST_BUCKETS)
TOKENS: Final = tuple(map(tokens_field, TOKEN_BUCKETS))

SUMS: Final = (
    "calls",
    "failed_calls",
    "retries",
    "late_calls",
    "unpriced_calls",
    "unpriced_tokens",
    "web_searches",
    "gpu_us",
    "latency_ms_sum",
    "latency_calls",
    *TOKENS,
    COST,
    *BUCKET_COSTS,
    *COUNTERFACTUALS,
)
MAXIMA: Final = ("latency_ms_max", "last_event_us", "through_offset")
MINIMA: Final = ("first_event_us", "first_offset")
MEASURES: Final = (*SUMS, *MAXIMA, *MINIMA)
COLUMN: Final = {measure: index for index, measure in enumerate(MEASURES)}

SUM_COLUMNS: Final = slice(0, len(SUMS))
MAX_COLUMNS: Final = slice(len(SUMS), len(SUMS) + len(MAXIMA))
MIN_COLUMNS: Final = slice(len(SUMS) + len(MAXIMA), len(MEASURES))

_PLAIN_SUMS: Final = ("web_searches", "gpu_us", *TOKENS, COST, *BUCKET_COSTS, *COUNTERFACTUALS)


def aggregations() -> list[pl.Expr]:
    """Return the expressions that fold calls into measures, in the order of ``MEASURES``.

    Works on priced calls: a cost is 0 where ``priced`` is false, and such a call counts as unpriced.
    """
    tokens = pl.sum_horizontal(*TOKENS)
    folded = {
        "calls": pl.len().cast(pl.Int64),
        "failed_calls": (pl.col("status") != "ok").sum().cast(pl.Int64),
        "retries": (pl.col("attempt") > 1).sum().cast(pl.Int64),
        "late_calls": (pl.col("lateness") > 0).sum().cast(pl.Int64),
        "unpriced_calls": (~pl.col("priced")).sum().cast(pl.Int64),
        "unpriced_tokens": pl.when(pl.col("priced")).then(0).otherwise(tokens).sum(),
        **{name: pl.col(name).sum() for name in _PLAIN_SUMS},
        "latency_ms_sum": pl.col("latency_ms").sum(),
        "latency_calls": pl.col("latency_ms").count().cast(pl.Int64),
        "latency_ms_max": pl.col("latency_ms").max().fill_null(0),
        "last_event_us": pl.col("occurred_at_us").max(),
        "through_offset": pl.col("offset").max(),
        "first_event_us": pl.col("occurred_at_us").min(),
        "first_offset": pl.col("offset").min(),
    }
    return [folded[measure].alias(f"__{measure}") for measure in MEASURES]
