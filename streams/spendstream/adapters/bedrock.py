"""Bedrock Converse's usage: ``inputTokens`` excludes cache reads and writes; ``totalTokens`` includes everything."""

from collections.abc import Mapping
from typing import Final

from spendstream.adapters.shape import Body, Counts, InconsistentUsage, Part, Shape, split_cache_writes


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a Converse call's usage, for ``converse`` and for ``converse_stream``'s metadata.

    Raises: InconsistentUsage, when the lifetimes exceed what was written, or the total fits no reading.
    """
    made = {
        "input_tokens": usage.count("inputTokens"),
        "cache_read_tokens": usage.count("cacheReadInputTokens"),
        **split_cache_writes(usage, usage.part("cacheWriteInputTokens"), _written(usage, "5m"), _written(usage, "1h")),
        "output_tokens": usage.count("outputTokens"),
    }
    total, whole = usage.count("totalTokens"), sum(made.values())
    uncached = made["input_tokens"] + made["output_tokens"]
    # Some models' totals leave the cache out, though it is billed.
    if usage.states("totalTokens") and total not in (whole, uncached):
        what = f"{total} is neither input + output ({uncached}) nor that plus the cache ({whole})"
        raise InconsistentUsage(usage.provider, "totalTokens", what)
    return made


def _written(usage: Counts, lifetime: str) -> Part:
    entries = (entry for entry in usage.each("cacheDetails") if entry.raw.get("ttl") == lifetime)
    return Part(f"cacheDetails.{lifetime}", sum(entry.count("inputTokens") for entry in entries))


def _tier(usage: Body, body: Body) -> object:
    stated = body.get("serviceTier")
    return stated.get("type") if isinstance(stated, Mapping) else stated


BEDROCK: Final = Shape(
    name="bedrock",
    marks=frozenset({"inputTokens", "outputTokens"}),
    held_at=(("usage",), ("metadata", "usage")),
    buckets=buckets,
    tier=_tier,
    model_at=("modelId",),  # Converse names no model: boto3 callers can put it beside
    id_at=("requestId",),
)
