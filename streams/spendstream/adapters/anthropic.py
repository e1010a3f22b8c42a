"""Anthropic's usage: ``input_tokens`` excludes what was read from cache and what was written to it.

Thinking is inside ``output_tokens``; newer responses state how much of it there is.
"""

from collections.abc import Mapping
from typing import Final

from spendstream.adapters.shape import FAST_MODE, BesideCall, Body, Counts, Part, Shape, split_cache_writes, states_any

OWN_FIELDS: Final = ("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "server_tool_use")


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a message's usage.

    2,000 tokens written to cache, 1,200 of them for 5 minutes and 500 for an hour, leave 300 of unstated lifetime.
    A compaction's own tokens are billed with the call, yet left out of its top-level counts: they are added.
    Messages among the iterations are inside the top-level counts, or more than those, which is noted: the top level
    may state the input of the first alone. An advisor's are a call of their own.
    """
    buckets = _one(usage)
    usage.check_total(usage.part("total_tokens"), sum(buckets.values()))
    _note_part_of_stream(usage, body)
    searches = usage.inner("server_tool_use")
    buckets["web_searches"] = searches.count("web_search_requests")
    searches.ignore("web_fetch_requests", "tool_search_requests")  # billed by their tokens alone
    searches.unit("code_executions", searches.count("code_execution_requests"))
    status = usage.inner("fallback_credit").raw.get("status")
    if isinstance(status, Mapping) and status.get("type") == "redeemed":
        usage.reading.note("fallback credit redeemed, not priced")
    messages: dict[str, list[dict[str, int]]] = {}
    for iteration in usage.each("iterations"):
        kind = iteration.raw.get("type")
        if kind == "compaction":
            for field, tokens in _one(iteration).items():
                buckets[field] += tokens
        elif kind in ("message", "fallback_message"):
            messages.setdefault(str(kind), []).append(_one(iteration.apart()))
    # with a fallback, the other messages may be attempts that were refused, which are not billed
    _raise_to(usage, buckets, messages.get("fallback_message") or messages.get("message") or [])
    return buckets


def _raise_to(usage: Counts, buckets: dict[str, int], messages: list[dict[str, int]]) -> None:
    """Raise counts to the sum of the messages among the iterations, where that is more, and note it."""
    for name, fields in (
        ("input_tokens", ("input_tokens",)),
        ("cache_read_tokens", ("cache_read_tokens",)),
        ("cache_write_tokens", ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_tokens")),
        ("output_tokens", ("reasoning_tokens", "output_tokens")),
    ):
        summed = sum(message[field] for message in messages for field in fields)
        stated = sum(buckets[field] for field in fields)
        if summed > stated:
            usage.reading.note(f"the messages among iterations sum to {summed} {name}, not {stated}")
            buckets[name] += summed - stated


def _one(usage: Counts) -> dict[str, int]:
    written_5m = usage.part("cache_creation", "ephemeral_5m_input_tokens")
    written_1h = usage.part("cache_creation", "ephemeral_1h_input_tokens")
    written = usage.part("cache_creation_input_tokens")
    if not usage.states("cache_creation_input_tokens"):
        written = Part("cache_creation", written_5m.tokens + written_1h.tokens)
    elif not written.tokens and written_5m.tokens + written_1h.tokens:
        usage.reading.note("cache_creation_input_tokens 0 is not the sum of cache_creation")
    thinking = usage.part("output_tokens_details", "thinking_tokens")
    return {
        "input_tokens": usage.whole("input_tokens").tokens,
        "cache_read_tokens": usage.part("cache_read_input_tokens").tokens,
        **split_cache_writes(usage, written, written_5m, written_1h),
        "output_tokens": usage.rest(usage.whole("output_tokens"), thinking),
        "reasoning_tokens": thinking.tokens,
    }


def _note_part_of_stream(usage: Counts, body: Body) -> None:
    if not usage.states("input_tokens"):
        usage.reading.note("input_tokens not stated: a stream states them in message_start")
    elif body.get("type") == "message" and body.get("stop_reason", "") is None:
        usage.reading.note("output not final: no stop_reason")


def advisors(usage: Counts, body: Body) -> list[BesideCall]:
    """Return the calls of advisors, which have a model and a price of their own."""
    calls = []
    for iteration in usage.each("iterations"):
        if "advisor" in str(iteration.raw.get("type")):
            apart = iteration.apart()
            tokens = _one(apart)
            model = str(iteration.raw.get("model") or body.get("model") or "")
            calls.append(BesideCall(model, tokens, apart.reading))
    return calls


def _tier(usage: Counts, body: Body) -> object:
    if usage.raw.get("speed") == "fast":
        return FAST_MODE
    return usage.raw.get("service_tier")


def _is_of(usage: Body, provider: str) -> bool:
    if any(isinstance(usage.get(field), Mapping) for field in ("input_tokens_details", "input_token_details")):
        return False
    if any(usage.get(field) for field in ("prompt_tokens", "completion_tokens")):
        return False  # a library's, which counts the cache inside the prompt
    return states_any(usage, *OWN_FIELDS) or (
        provider == "anthropic" and states_any(usage, "input_tokens", "output_tokens")
    )


ANTHROPIC: Final = Shape("anthropic", _is_of, buckets, _tier, beside=advisors)
