"""Bedrock Converse's usage: ``inputTokens`` excludes cache reads and writes; ``totalTokens`` includes everything."""

from collections.abc import Mapping
from typing import Final

from spendstream.adapters.shape import Body, Counts, Part, Shape, split_cache_writes, states_any


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a Converse call's usage, for ``converse`` and for ``converse_stream``'s metadata."""
    lifetimes = {"5m": 0, "1h": 0}
    for entry in usage.each("cacheDetails"):
        if entry.raw.get("ttl") in lifetimes:
            lifetimes[str(entry.raw["ttl"])] += entry.count("inputTokens")
    written = usage.agreed(("cacheWriteInputTokens",), ("cacheWriteInputTokenCount",))
    written_5m, written_1h = (Part(f"cacheDetails.{ttl}", tokens) for ttl, tokens in lifetimes.items())
    made = {
        "input_tokens": usage.whole("inputTokens").tokens,
        "cache_read_tokens": usage.agreed(("cacheReadInputTokens",), ("cacheReadInputTokenCount",)).tokens,
        **split_cache_writes(usage, written, written_5m, written_1h),
        "output_tokens": usage.whole("outputTokens").tokens,
    }
    # Some models' totals leave the cache out, though it is billed.
    usage.check_total(usage.part("totalTokens"), sum(made.values()), made["input_tokens"] + made["output_tokens"])
    return made


def _tier(usage: Counts, body: Body) -> object:
    stated = body.get("serviceTier")
    return stated.get("type") if isinstance(stated, Mapping) else stated


BEDROCK: Final = Shape(
    name="bedrock",
    is_of=lambda usage, provider: states_any(usage, "inputTokens", "outputTokens"),
    buckets=buckets,
    tier=_tier,
    model_at=("modelId",),  # Converse names no model: boto3 callers can put it beside
    id_at=("requestId", "ResponseMetadata.RequestId"),
)
