"""What a rollup's columns are, given the calls of the ledger."""

from typing import Final

from spendstream.core.money import usd_text
from spendstream.core.rollup.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.rollup.blocks import ALONE, TIERS
from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS, cost_column, tokens_field
from spendstream.schemas.rollup import ON_TIME

TOKENS: Final = tuple(map(tokens_field, TOKEN_BUCKETS))
WHOLE_COSTS: Final = (
    "cost_usd",
    "cost_without_cache_usd",
    "cost_at_standard_tier_usd",
    "cost_with_requested_model_usd",
)
COSTS: Final = (*WHOLE_COSTS, *map(cost_column, COST_BUCKETS))
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
_NO_USD: Final = "toDecimal128(0, 12)"
_LARGEST_USD: Final = f"greatest({', '.join(f'ifNull(c.{name}, {_NO_USD})' for name in WHOLE_COSTS)})"
_TIER: Final = " + ".join(
    f"({_LARGEST_USD} >= toDecimal128('{usd_text(tier.below)}', 12) OR c.gpu_us >= {tier.below})" for tier in TIERS[:-1]
)
_WIDTH: Final = f"transform(toInt64({_TIER}), {list(range(len(TIERS)))}, {[tier.offsets for tier in TIERS]})"
_ON_TIME: Final = f"toInt64({ON_TIME}) - ({len(TIERS)} * intDiv(c.source_offset, {_WIDTH}) + ({_TIER}))"
BLOCK: Final = (
    f"if(c.lateness = 'correction' AND ({_TIER}) < {ALONE}, "
    f"intDiv(c.source_offset, {CORRECTION_BLOCK_OFFSETS}), {_ON_TIME})"
)
"""A call's ``correction_block``, as the meter chose it: see ``spendstream.core.rollup.blocks``."""
