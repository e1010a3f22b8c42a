"""Priced calls: the ledger's rows, on the wire as Arrow IPC streams of many calls.

One Kafka record is one IPC stream. It leaves out columns that none of its calls uses: see ``DEFAULTS``. Money is
decimal128(38, 12): USD, exact to the pico-dollar; null if no rate is known, never a silent 0. Text is
dictionary-encoded where it repeats.
"""

from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from spendstream.schemas.buckets import COST_BUCKETS, PROMPT_PARTS, TOKEN_BUCKETS, cost_column, tokens_field

USD: Final = pa.decimal128(38, 12)
_NAME: Final = pa.dictionary(pa.int32(), pa.string())
_TIME: Final = pa.timestamp("us", tz="UTC")
_BY_UNIT: Final = pa.map_(pa.string(), USD)

UNPRICED_REASONS: Final = ("", "unknown_model", "no_rate_for_bucket", "too_large")
"""Why ``cost_usd`` is null, by the code of ``spendstream.core.pricing.Unpriced``."""

LATENESS: Final = ("on_time", "late", "correction")
"""On time; after its minute closed, within the allowed lateness; beyond it, counted as a correction."""

PRICED_SCHEMA: Final = pa.schema(
    [
        # identity
        pa.field("event_id", pa.binary(16), nullable=False),  # the UUID's 16 bytes, big-endian (RFC 9562)
        pa.field("occurred_at", _TIME, nullable=False),
        pa.field("requested_at", _TIME),
        pa.field("provider_response_id", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("trace_id", pa.string(), nullable=False),
        pa.field("span_id", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("agent", _NAME, nullable=False),
        pa.field("turn", pa.int64()),
        pa.field("parent_event_id", pa.binary(16)),
        # call
        pa.field("operation", _NAME, nullable=False),
        pa.field("provider", _NAME, nullable=False),
        pa.field("model", _NAME, nullable=False),  # served, else requested: what was priced
        pa.field("model_requested", _NAME, nullable=False),
        pa.field("model_served", _NAME, nullable=False),
        pa.field("region", _NAME, nullable=False),
        pa.field("inference_geo", _NAME, nullable=False),
        pa.field("service_tier", _NAME, nullable=False),
        pa.field("capacity", _NAME, nullable=False),
        pa.field("status", _NAME, nullable=False),
        pa.field("latency_ms", pa.int64()),
        pa.field("usage_quality", _NAME, nullable=False),
        pa.field("usage_notes", pa.string(), nullable=False),  # "" where none
        # tokens
        *(pa.field(tokens_field(bucket), pa.int64(), nullable=False) for bucket in TOKEN_BUCKETS),
        pa.field("web_searches", pa.int64(), nullable=False),
        pa.field("units", _BY_UNIT, nullable=False),
        *(pa.field(f"prompt_{part}_tokens", pa.int64(), nullable=False) for part in PROMPT_PARTS),
        pa.field("gpu_us", pa.int64(), nullable=False),
        # attribution
        pa.field("service", _NAME, nullable=False),
        pa.field("team", _NAME, nullable=False),
        pa.field("feature", _NAME, nullable=False),
        pa.field("customer", _NAME, nullable=False),
        pa.field("user", _NAME, nullable=False),
        pa.field("environment", _NAME, nullable=False),
        pa.field("deployment", _NAME, nullable=False),
        pa.field("account", _NAME, nullable=False),
        pa.field("project", _NAME, nullable=False),
        pa.field("credential", _NAME, nullable=False),
        pa.field("tags", pa.string(), nullable=False),  # a JSON object, "" where none
        # money
        pa.field("cost_usd", USD),
        *(pa.field(cost_column(bucket), USD) for bucket in COST_BUCKETS),
        pa.field("cost_by_unit", _BY_UNIT, nullable=False),  # sums to cost_units_usd
        pa.field("cost_without_cache_usd", USD),
        pa.field("cost_at_standard_tier_usd", USD),
        pa.field("cost_with_requested_model_usd", USD),
        pa.field("unpriced_reason", _NAME, nullable=False),
        pa.field("price_quality", _NAME, nullable=False),
        pa.field("price_notes", _NAME, nullable=False),  # "" where none
        pa.field("context_step", pa.int64(), nullable=False),  # input tokens above which the rates applied
        pa.field("rate_card_id", _NAME, nullable=False),
        pa.field("rate_source", _NAME, nullable=False),
        pa.field("provider_cost", USD),
        pa.field("currency", _NAME, nullable=False),
        # audit
        pa.field("lateness", _NAME, nullable=False),
        pa.field("recorded_at", _TIME, nullable=False),  # the Kafka timestamp of the usage record
        pa.field("priced_at", _TIME, nullable=False),
        pa.field("source_log", _NAME, nullable=False),
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
    ]
)

REQUIRED: Final = frozenset(
    {
        "event_id", "occurred_at", "provider", "model", "service", "cost_usd", "unpriced_reason", "lateness",
        "recorded_at", "priced_at", "source_log", "source_partition", "source_offset",
    }
)  # fmt: skip
"""Columns that every stream has. It may leave out any other in which all its calls have the default."""


def _default(field: pa.Field) -> Any:
    if field.name == "capacity":
        return "on_demand"
    if field.name.startswith("cost_") and field.type == USD:
        return Decimal(0)
    if field.nullable:
        return None
    if pa.types.is_map(field.type):
        return []
    return 0 if pa.types.is_integer(field.type) else ""


DEFAULTS: Final = {field.name: _default(field) for field in PRICED_SCHEMA if field.name not in REQUIRED}
"""What a call has in a column that its stream leaves out; also the default of the column of table ``calls``."""
