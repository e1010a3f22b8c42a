"""The cost rollup: one minute, one set of dimensions, one source partition; absolute totals."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

DIMENSIONS: Final = (
    "service",
    "team",
    "feature",
    "customer",
    "user",
    "environment",
    "provider",
    "model",
    "service_tier",
    "region",
)
"""What a rollup can be grouped by. A deployment chooses among them (``METER_DIMENSIONS``)."""

DEFAULT_DIMENSIONS: Final = tuple(d for d in DIMENSIONS if d not in ("customer", "user"))

OTHER: Final = "__other__"
"""The value of every dimension of the row that holds what a minute's cardinality cap kept out."""

ON_TIME: Final = -1
"""``correction_block`` of an aggregate that was fed within the allowed lateness; or less, where a minute's calls are
kept apart so that no sum passes 64 bits. See ``spendstream.core.rollup.blocks``."""

Money = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str)]
"""USD, exact to 1e-12, as a decimal string in JSON."""


class CostRollup(BaseModel):
    """An aggregate's absolute totals; a later record of the same key replaces it (greatest ``through_offset`` wins).

    Key: (``source_log``, ``source_partition``, ``minute``, ``correction_block``, dimensions).
    Readers sum over source logs, partitions and correction blocks.
    """

    model_config = ConfigDict(frozen=True, title="Cost rollup, llm.rollup.1m.v1")

    source_log: str
    source_partition: int
    minute: datetime = Field(description="The window's open time; it spans [minute, minute + 60 s).")
    correction_block: int = Field(
        ON_TIME,
        description="-1 or less on time: dear calls, and far-off offsets, have rows of their own; "
        "else the block of 4,096 offsets whose too-late events this row corrects.",
    )
    dimensions: dict[str, str] = Field(description="By name; an empty string where the event gave none.")

    first_offset: int = Field(description="The first record absorbed.")
    through_offset: int = Field(description="The last record absorbed: replays at or below it are skipped.")

    calls: int
    failed_calls: int = 0
    retries: int = Field(0, description="Calls with attempt > 1.")
    late_calls: int = Field(0, description="Counted after their minute had closed.")
    unpriced_calls: int = 0
    unpriced_tokens: int = 0
    web_searches: int = 0
    gpu_us: int = Field(0, description="GPU time in microseconds.")
    tokens: dict[str, int] = Field(default_factory=dict, description="By token bucket; absent is 0.")

    cost_usd: Money = Field(description="Of the priced calls. With unpriced_calls > 0 the true cost is higher.")
    cost_usd_by_bucket: dict[str, Money] = Field(default_factory=dict, description="By cost bucket; absent is 0.")
    cost_without_cache_usd: Money = Field(description="The same calls, had nothing been cached.")
    cost_at_standard_tier_usd: Money = Field(description="The same calls at the standard service tier.")
    cost_with_requested_model_usd: Money = Field(description="The same calls, had the requested model served them.")

    latency_ms_sum: int = 0
    latency_ms_max: int = 0
    latency_calls: int = Field(0, description="Calls that reported a latency.")
    first_event_at: datetime
    last_event_at: datetime
