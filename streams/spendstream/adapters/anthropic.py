"""Anthropic's usage: ``input_tokens`` excludes what was read from cache and what was written to it.

Thinking is inside ``output_tokens``; newer responses state how much of it there is.
"""

from typing import Final

from spendstream.adapters.shape import Body, Counts, Part, Shape, split_cache_writes


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a message's usage.

    2,000 tokens written to cache, 1,200 of them for 5 minutes and 500 for an hour, leave 300 of unstated lifetime.
    A compaction's own tokens are billed with the call, yet left out of its top-level counts: they are added.
    (An advisor's are not: another model, another price. Publish it as an event of its own.)

    Raises: InconsistentUsage, when the lifetimes exceed what was written, or thinking exceeds the output.
    """
    total = _one(usage)
    for iteration in usage.each("iterations"):
        if iteration.raw.get("type") == "compaction":
            for field, tokens in _one(iteration).items():
                total[field] += tokens
    return total


def _one(usage: Counts) -> dict[str, int]:
    written_5m = usage.part("cache_creation", "ephemeral_5m_input_tokens")
    written_1h = usage.part("cache_creation", "ephemeral_1h_input_tokens")
    written = usage.part("cache_creation_input_tokens")
    if not usage.states(written.field):
        written = Part("cache_creation", written_5m.tokens + written_1h.tokens)
    thinking = usage.part("output_tokens_details", "thinking_tokens")
    return {
        "input_tokens": usage.count("input_tokens"),
        "cache_read_tokens": usage.count("cache_read_input_tokens"),
        **split_cache_writes(usage, written, written_5m, written_1h),
        "output_tokens": usage.rest(usage.part("output_tokens"), thinking),
        "reasoning_tokens": thinking.tokens,
        "web_searches": usage.inner("server_tool_use").count("web_search_requests"),
    }


_OWN_FIELDS: Final = ("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "server_tool_use")

ANTHROPIC: Final = Shape(
    name="anthropic",
    marks=frozenset({"input_tokens", "output_tokens", *_OWN_FIELDS}),
    held_at=(("usage",), ("message", "usage")),
    buckets=buckets,
    # Fast mode costs more than any tier that an event can state: it must not be priced as standard.
    tier=lambda usage, body: "fast" if usage.get("speed") == "fast" else usage.get("service_tier"),
)

HOSTED_CLAUDE: Final = Shape(
    name="anthropic",
    marks=frozenset(_OWN_FIELDS),
    held_at=ANTHROPIC.held_at,
    buckets=buckets,
    tier=ANTHROPIC.tier,
)
"""The same on another's cloud, where ``input_tokens`` alone could be any API's."""
