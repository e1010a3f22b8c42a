"""Bedrock Converse's usage: ``inputTokens`` excludes cache reads and writes; ``totalTokens`` includes everything."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from spendstream.adapters.shape import Body, Counts, Part, Path, Shape, split_cache_writes, states_any


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a Converse call's usage, for ``converse`` and for ``converse_stream``'s metadata."""
    lifetimes = {"5m": 0, "1h": 0}
    for entry in usage.each("cacheDetails"):
        if entry.raw.get("ttl") in lifetimes:
            lifetimes[str(entry.raw["ttl"])] += entry.count("inputTokens")
    written = usage.agreed(("cacheWriteInputTokens",), ("cacheWriteInputTokenCount",))
    written_5m, written_1h = (Part(f"cacheDetails.{ttl}", tokens) for ttl, tokens in lifetimes.items())
    by_lifetime = written_5m.tokens + written_1h.tokens
    if by_lifetime and not written.tokens:
        usage.reading.note(f"cacheDetails {by_lifetime} exceed {written.field} 0")
    made = {
        "input_tokens": usage.whole("inputTokens").tokens,
        "cache_read_tokens": usage.agreed(("cacheReadInputTokens",), ("cacheReadInputTokenCount",)).tokens,
        **split_cache_writes(usage, written, written_5m, written_1h),
        "output_tokens": usage.whole("outputTokens").tokens,
    }
    _count_guardrail_units(usage, body.get("trace"))
    performance = body.get("performanceConfig")
    if isinstance(performance, Mapping) and performance.get("latency") == "optimized":
        usage.reading.note("latency optimized, priced as standard")
    # Some models' totals leave the cache out, though it is billed.
    usage.check_total(usage.part("totalTokens"), sum(made.values()), made["input_tokens"] + made["output_tokens"])
    return made


def _count_guardrail_units(usage: Counts, trace: object) -> None:
    """Count the text units that a guardrail billed for, by policy: the trace states them in each assessment."""
    guardrail = trace.get("guardrail") if isinstance(trace, Mapping) else None
    for at, units in _found(guardrail, "usage"):
        stated = Counts(usage.reading, units, ("trace", "guardrail", *at))
        for policy in units:
            if str(policy).endswith("PolicyUnits"):
                name = re.sub(r"(?<!^)(?=[A-Z])", "_", str(policy)).lower()
                usage.unit(f"guardrail_{name}", stated.count(str(policy)))


def _found(value: object, name: str, at: Path = ()) -> Iterator[tuple[Path, Body]]:
    """Yield the objects of a name inside a JSON value, with their paths."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        if step == name and isinstance(inner, Mapping):
            yield (*at, name), inner
        else:
            yield from _found(inner, name, (*at, str(step)))


def _tier(usage: Counts, body: Body) -> object:
    stated = body.get("serviceTier")
    return stated.get("type") if isinstance(stated, Mapping) else stated


BEDROCK: Final = Shape(
    name="bedrock",
    is_of=lambda usage, provider: states_any(usage, "inputTokens", "outputTokens"),
    buckets=buckets,
    tier=_tier,
    model_at=("trace.promptRouter.invokedModelId", "modelId"),  # else boto3 callers can put it beside
    id_at=("requestId", "ResponseMetadata.RequestId"),
)
