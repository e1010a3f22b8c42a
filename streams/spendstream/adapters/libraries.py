"""What libraries make of a provider's usage: LangChain's ``usage_metadata``, the AI SDK's ``usage``, and the sums of
Pydantic AI and of Claude's agent.

LiteLLM's object has OpenAI's shape: see ``spendstream.adapters.openai``.
"""

from collections.abc import Mapping
from typing import Any, Final

from spendstream.adapters.shape import NONE, Body, Counts, Part, Shape, split_cache_writes, split_input, states_any

_TIERS: Final = ("flex", "priority")


def langchain_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a LangChain message: cache inside the input, for Claude too; reasoning in the output.

    350 input tokens with a ``cache_read`` of 100 and a ``cache_creation`` of 200 are 50 input.
    """
    details, out = usage.inner("input_token_details"), usage.inner("output_token_details")
    whole_in, whole_out = usage.whole("input_tokens"), usage.whole("output_tokens")
    cached = sum(details.count(name) for name in ("cache_read", *(f"{tier}_cache_read" for tier in _TIERS)))
    reasoning = sum(out.count(name) for name in ("reasoning", *(f"{tier}_reasoning" for tier in _TIERS)))
    for tier in _TIERS:  # the tier's own key repeats what remains of the input and the output
        details.ignore(tier)
        out.ignore(tier)
    details.ignore("text")
    out.ignore("text")
    written_5m, written_1h = details.part("ephemeral_5m_input_tokens"), details.part("ephemeral_1h_input_tokens")
    written = details.part("cache_creation")
    audio, image, video = (out.part(kind) for kind in ("audio", "image", "video"))
    usage.check_total(usage.part("total_tokens"), whole_in.tokens + whole_out.tokens)
    return {
        **split_input(
            usage,
            whole_in,
            cached=Part(details.name("cache_read"), cached),
            written=split_cache_writes(usage, written, written_5m, written_1h),
            audio=details.part("audio"),
            image=details.part("image"),
            video=details.part("video"),
        ),
        "output_tokens": usage.rest(whole_out, Part(out.name("reasoning"), reasoning), audio, image, video),
        "reasoning_tokens": reasoning,
        "output_audio_tokens": audio.tokens,
        "output_image_tokens": image.tokens,
        "output_video_tokens": video.tokens,
    }


def _langchain_tier(usage: Counts, body: Body) -> object:
    for tier in _TIERS:
        if usage.inner("output_token_details").states(tier) or usage.inner("input_token_details").states(tier):
            return tier
    metadata = body.get("response_metadata")
    return metadata.get("service_tier") if isinstance(metadata, Mapping) else None


def _is_langchain(usage: Body, provider: str) -> bool:
    if not states_any(usage, "input_tokens", "output_tokens"):
        return False
    names = {
        str(name)
        for field in ("input_token_details", "output_token_details")
        if isinstance(details := usage.get(field), Mapping)
        for name in details
    }
    # The realtime API has objects of these names too: its fields end in _tokens.
    own = {name for name in names if not name.endswith("_tokens") or name.startswith("ephemeral_")}
    return bool(own - {"cached_tokens_details"})


LANGCHAIN: Final = Shape(
    name="langchain",
    is_of=_is_langchain,
    buckets=langchain_buckets,
    tier=_langchain_tier,
    model_at=("response_metadata.model_name", "response_metadata.model", "response_metadata.model_id", "model"),
    id_at=("response_metadata.id", "id"),
)


def ai_sdk_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of an AI SDK result: reasoning inside the output, the cache inside the input.

    Up to version 5 the cache of Claude and of Bedrock is beside the input instead, and what was written to it is
    stated in ``providerMetadata`` alone. Version 6 states what the input holds without the cache.
    """
    if isinstance(usage.raw.get("inputTokens"), Mapping):  # the provider's side of version 6
        sent, made = usage.inner("inputTokens"), usage.inner("outputTokens")
        whole_in, whole_out = sent.whole("total"), made.whole("total")
        plain, cached, written = sent.part("noCache"), sent.part("cacheRead"), sent.part("cacheWrite")
        reasoning, states_plain = made.part("reasoning"), sent.states("noCache")
        made.ignore("text")
    else:
        sent, made = usage.inner("inputTokenDetails"), usage.inner("outputTokenDetails")
        old_in = "promptTokens" if usage.raw.get("promptTokens") else "inputTokens"
        old_out = "completionTokens" if usage.raw.get("completionTokens") else "outputTokens"
        whole_in, whole_out = usage.whole(old_in), usage.whole(old_out)
        cached = usage.agreed(("inputTokenDetails", "cacheReadTokens"), ("cachedInputTokens",))
        written = sent.part("cacheWriteTokens")
        reasoning = usage.agreed(("outputTokenDetails", "reasoningTokens"), ("reasoningTokens",))
        plain, states_plain = sent.part("noCacheTokens"), sent.states("noCacheTokens")
        made.ignore("textTokens")
    usage.ignore("raw")  # the provider's own object, which the counts were taken from
    if not written.tokens:
        written = _written_by_claude(usage, body, written)
    cache = cached.tokens + written.tokens
    if states_plain:
        is_beside = cache > 0 and plain.tokens == whole_in.tokens
        if not is_beside:
            usage.check_total(Part(plain.field, plain.tokens), max(whole_in.tokens - cache, 0))
    else:
        is_beside = cache > 0 and usage.provider in ("anthropic", "aws", "bedrock", "aws.bedrock")
        if is_beside and not written.tokens:
            usage.reading.note("cache writes not stated: pass the result with its providerMetadata")
    total = whole_in.tokens + whole_out.tokens
    usage.check_total(usage.part("totalTokens"), total, total + cache * is_beside, total + reasoning.tokens)
    is_reasoning_beside = reasoning.tokens > 0 and usage.count("totalTokens") == total + reasoning.tokens
    return {
        **split_input(
            usage,
            whole_in,
            cached=cached,
            written={"cache_write_tokens": written.tokens},
            is_cache_beside=is_beside,
        ),
        "output_tokens": whole_out.tokens if is_reasoning_beside else usage.rest(whole_out, reasoning),
        "reasoning_tokens": reasoning.tokens,
    }


def _written_by_claude(usage: Counts, body: Body, absent: Part) -> Part:
    metadata: Any = body.get("providerMetadata")
    claude = metadata.get("anthropic") if isinstance(metadata, Mapping) else None
    if not isinstance(claude, Mapping):
        return absent
    return Counts(usage.reading, claude, ("providerMetadata", "anthropic")).part("cacheCreationInputTokens")


_AI_SDK_ONLY: Final = (
    "cachedInputTokens",
    "inputTokenDetails",
    "outputTokenDetails",
    "reasoningTokens",
    "promptTokens",
)


def _is_ai_sdk(usage: Body, provider: str) -> bool:
    if states_any(usage, "cacheReadInputTokens", "cacheWriteInputTokens"):
        return False  # Bedrock Converse
    of_bedrock = provider in ("aws", "bedrock", "aws.bedrock")
    return states_any(usage, *_AI_SDK_ONLY) or (
        states_any(usage, "inputTokens", "outputTokens")
        and (not of_bedrock or isinstance(usage.get("inputTokens"), Mapping))
    )


AI_SDK: Final = Shape(
    name="ai-sdk",
    is_of=_is_ai_sdk,
    buckets=ai_sdk_buckets,
    tier=lambda usage, body: None,
    model_at=("response.modelId", "modelId", "model"),
    id_at=("response.id", "id"),
)


def pydantic_ai_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of Pydantic AI's usage: cache and audio inside the input, for every provider."""
    # the provider's own counts, which these were taken from; an estimate by list prices
    usage.ignore("details", "tool_calls", "cost")
    usage.unit("audio_seconds", usage.quantity("audio_seconds"))
    if unmeasured := usage.count("unmeasured_requests"):
        usage.reading.note(f"unmeasured_requests {unmeasured}: their counts are not known")
    if (requests := usage.count("requests")) > 1:
        usage.reading.note(f"the sum of {requests} requests: rates that depend on a call's length can't be applied")
    cached_audio, audio = usage.part("cache_audio_read_tokens"), usage.part("output_audio_tokens")
    reasoning = usage.part("output_reasoning_tokens")
    written, written_1h = usage.part("cache_write_tokens"), usage.part("cache_write_1h_tokens")
    return {
        **split_input(
            usage,
            usage.whole("input_tokens"),
            cached=usage.part("cache_read_tokens"),
            written=split_cache_writes(usage, written, NONE, written_1h),
            audio=usage.part("input_audio_tokens"),
            cached_audio=min(cached_audio.tokens, usage.count("input_audio_tokens")) or None,
        ),
        "output_tokens": usage.rest(usage.whole("output_tokens"), audio, reasoning),
        "reasoning_tokens": reasoning.tokens,
        "output_audio_tokens": audio.tokens,
    }


PYDANTIC_AI: Final = Shape(
    name="pydantic-ai",
    is_of=lambda usage, provider: (
        states_any(usage, "input_tokens", "output_tokens")
        and any(name in usage for name in ("tool_calls", "details", "unmeasured_requests"))
        and any(name in usage for name in ("cache_read_tokens", "cache_audio_read_tokens"))
    ),
    buckets=pydantic_ai_buckets,
    tier=lambda usage, body: None,
)


def claude_agent_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return what Claude's agent used of one model in a whole session, with the cache beside the input."""
    usage.ignore("costUSD", "contextWindow", "maxOutputTokens")  # its own estimate, and limits
    usage.reading.note("the sum of a session: rates that depend on a call's length can't be applied")
    return {
        "input_tokens": usage.whole("inputTokens").tokens,
        "cache_read_tokens": usage.count("cacheReadInputTokens"),
        "cache_write_tokens": usage.count("cacheCreationInputTokens"),
        "output_tokens": usage.whole("outputTokens").tokens,
        "web_searches": usage.count("webSearchRequests"),
    }


CLAUDE_AGENT: Final = Shape(
    name="claude-agent",
    is_of=lambda usage, provider: states_any(usage, "cacheCreationInputTokens", "costUSD"),
    buckets=claude_agent_buckets,
    tier=lambda usage, body: None,
)
