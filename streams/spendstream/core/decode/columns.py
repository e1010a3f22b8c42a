"""The columns of decoded calls: which fields there are, and what an absent one becomes."""

from typing import Final

import polars as pl

from spendstream.schemas.buckets import PROMPT_PARTS, TOKEN_BUCKETS, tokens_field

REQUIRED_NAMES: Final = ("service", "provider")
OPTIONAL_TEXT: Final = (
    "provider_response_id",
    "trace_id",
    "span_id",
    "conversation_id",
    "task_id",
    "model_requested",
    "model_served",
    "region",
    "team",
    "feature",
    "customer",
    "user",
    "environment",
    "deployment",
    "currency",
)
DEFAULTED_TEXT: Final = {"operation": "chat", "service_tier": "standard", "status": "ok", "usage_quality": "reported"}
TIMES: Final = ("occurred_at", "requested_at")

COUNTS: Final = (
    *map(tokens_field, TOKEN_BUCKETS),
    "web_searches",
    *(f"prompt_{part}_tokens" for part in PROMPT_PARTS),
)

RAW_TEXT: Final = ("event_id", *TIMES, *REQUIRED_NAMES, *OPTIONAL_TEXT, *DEFAULTED_TEXT, "provider_cost")
RAW_SCHEMA: Final[dict[str, pl.DataType]] = {
    **{field: pl.String() for field in RAW_TEXT},
    **{field: pl.Int64() for field in (*COUNTS, "attempt", "latency_ms")},
    "gpu_seconds": pl.Float64(),
}
"""What a JSON event holds, before it is judged; an absent field is null. ``tags`` are read by the strict reader."""

CALL_SCHEMA: Final[dict[str, pl.DataType]] = {
    "row": pl.Int64(),  # which record of the batch
    "id_hi": pl.UInt64(),  # event_id, its 16 bytes big-endian
    "id_lo": pl.UInt64(),
    "occurred_at_us": pl.Int64(),  # µs since 1970, UTC
    "requested_at_us": pl.Int64(),  # null where absent
    **{field: pl.String() for field in (*REQUIRED_NAMES, *OPTIONAL_TEXT, *DEFAULTED_TEXT)},  # "" where absent
    "attempt": pl.Int64(),
    "latency_ms": pl.Int64(),  # null where absent
    **{field: pl.Int64() for field in COUNTS},  # 0 where absent
    "gpu_us": pl.Int64(),  # null where absent: 0 is a call that used none
    "provider_cost": pl.String(),  # decimal text; null where absent
    "tags": pl.String(),  # a JSON object; null where absent
}
"""A call that was judged valid: typed, with defaults filled in."""
