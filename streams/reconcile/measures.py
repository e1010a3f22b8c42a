"""What a rollup's columns are, given the calls of the ledger."""

from typing import Final

from schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS, cost_column, tokens_field
from streams.core.rollup.aggregates import CORRECTION_BLOCK_OFFSETS

TOKENS: Final = tuple(map(tokens_field, TOKEN_BUCKETS))
COSTS: Final = (
    "cost_usd",
    *map(cost_column, COST_BUCKETS),
    "cost_without_cache_usd",
    "cost_at_standard_tier_usd",
    "cost_with_requested_model_usd",
)
_TOTAL_TOKENS: Final = " + ".join(f"c.{name}" for name in TOKENS)

SUMS: Final[dict[str, str]] = {
    "calls": "toInt64(count())",
    "failed_calls": "toInt64(countIf(c.status != 'ok'))",
    "retries": "toInt64(countIf(c.attempt > 1))",
    "late_calls": "toInt64(countIf(c.lateness != 'on_time'))",
    "unpriced_calls": "toInt64(countIf(c.cost_usd IS NULL))",
    "unpriced_tokens": f"sumIf({_TOTAL_TOKENS}, c.cost_usd IS NULL)",
    **{name: f"sum(c.{name})" for name in ("web_searches", "gpu_us", *TOKENS)},
    **{name: f"sum(ifNull(c.{name}, toDecimal128(0, 12)))" for name in COSTS},
    "latency_ms_sum": "sum(ifNull(c.latency_ms, 0))",
    "latency_calls": "toInt64(count(c.latency_ms))",
}
"""Measures that add up: the column of ``rollups_1m``, and its value over rows ``c`` of the ledger."""

MAXIMA: Final[dict[str, str]] = {
    "latency_ms_max": "max(ifNull(c.latency_ms, 0))",
    "last_event_at": "max(c.occurred_at)",
    "through_offset": "max(c.source_offset)",
}
MINIMA: Final[dict[str, str]] = {"first_event_at": "min(c.occurred_at)", "first_offset": "min(c.source_offset)"}

CELL: Final = ("source_log", "source_partition", "minute")
"""What one partition of one life of the usage topic contributed to one minute."""

MINUTE: Final = "toDateTime(toStartOfMinute(c.occurred_at), 'UTC')"
BLOCK: Final = f"if(c.lateness = 'correction', intDiv(c.source_offset, {CORRECTION_BLOCK_OFFSETS}), toInt64(-1))"
"""A call's ``correction_block``, as the meter chose it: see ``schemas.rollup.ON_TIME``."""
