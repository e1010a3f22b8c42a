"""OpenAI's usage (chat completions, responses, realtime, images, embeddings), and that of the many compatible APIs.

Cached tokens are inside the prompt count, reasoning inside the completion count. Some compatible APIs
(xAI; Gemini's compatible endpoint) keep reasoning beside the completion count: the total shows which.
"""

from collections.abc import Mapping
from typing import Final

from spendstream.adapters.shape import Body, Counts, InconsistentUsage, Part, Shape, split_input

# Gemini's compatible endpoint counts thoughts only in the total, under no name.
HIDES_THOUGHTS: Final = frozenset({"google", "gemini", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "vertex_ai"})


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a chat completion's or a response's usage.

    1,000 prompt tokens with 400 cached are 600 input and 400 cache read; 300 completion tokens with
    120 of reasoning are 180 output and 120 reasoning.

    Raises: InconsistentUsage, when cached > prompt, reasoning > completion, or the total fits no reading.
    """
    prompt, completion = ("prompt", "completion") if usage.states("prompt_tokens") else ("input", "output")
    searches = {"web_searches": web_searches(body)}
    return _input(usage, prompt) | _output(usage, prompt, completion, body) | searches


def _details(usage: Counts, side: str) -> str:
    """Return the field with a side's details: the realtime and transcription APIs call it ``input_token_details``."""
    singular = f"{side}_token_details"
    return singular if usage.states(singular) else f"{side}_tokens_details"


def _input(usage: Counts, prompt: str) -> dict[str, int]:
    details = _details(usage, prompt)
    inner = usage.inner(details)
    by_kind = inner.inner("cached_tokens_details")
    return split_input(
        usage,
        usage.part(f"{prompt}_tokens"),
        cached=_cached(usage, details),
        written=usage.part(details, "cache_write_tokens"),
        audio=usage.part(details, "audio_tokens"),
        image=usage.part(details, "image_tokens"),
        cached_audio=by_kind.count("audio_tokens") if inner.states("cached_tokens_details") else None,
        cached_image=by_kind.count("image_tokens"),
    )


def _cached(usage: Counts, details: str) -> Part:
    if usage.inner(details).states("cached_tokens"):
        return usage.part(details, "cached_tokens")
    # DeepSeek and Moonshot state it beside the prompt count, under their own names.
    for elsewhere in ("prompt_cache_hit_tokens", "cached_tokens"):
        if usage.states(elsewhere):
            return usage.part(elsewhere)
    return Part(f"{details}.cached_tokens", 0)


def _output(usage: Counts, prompt: str, completion: str, body: Body) -> dict[str, int]:
    details = _details(usage, completion)
    whole = usage.part(f"{completion}_tokens")
    reasoning = usage.part(details, "reasoning_tokens")
    audio = usage.part(details, "audio_tokens")
    image = usage.part(details, "image_tokens")
    beside = _beside(usage, usage.count(f"{prompt}_tokens"), whole.tokens, reasoning.tokens)
    if beside:
        visible, hidden = usage.rest(whole, audio, image), beside
    else:
        visible, hidden = usage.rest(whole, reasoning, audio, image), reasoning.tokens
    data = body.get("data")
    made_images = isinstance(data, list) and any(
        isinstance(item, Mapping) and ("b64_json" in item or "url" in item) for item in data
    )
    if made_images and not usage.states(details):  # the images API gives no details: all of its output is images
        return {"output_image_tokens": visible, "reasoning_tokens": hidden}
    return {
        "output_tokens": visible,
        "reasoning_tokens": hidden,
        "output_audio_tokens": audio.tokens,
        "output_image_tokens": image.tokens,
    }


def _beside(usage: Counts, prompt: int, completion: int, reasoning: int) -> int:
    """Return the reasoning tokens that the completion count leaves out, by the total; 0 where it includes them."""
    total = usage.count("total_tokens")
    if not usage.states("total_tokens") or total == prompt + completion:
        return 0
    unnamed = total - prompt - completion
    if unnamed == reasoning or (unnamed > 0 and not reasoning and usage.provider in HIDES_THOUGHTS):
        return unnamed
    raise InconsistentUsage(
        usage.provider,
        "total_tokens",
        f"{total} is neither prompt + completion ({prompt} + {completion}) nor that plus {reasoning} of reasoning",
    )


def web_searches(body: Body) -> int:
    """Count the web searches among a response's output items; opening a page that was found is not a search."""
    count = 0
    for item in body.get("output") or ():
        if isinstance(item, Mapping) and item.get("type") == "web_search_call":
            action = item.get("action")
            kind = action.get("type") if isinstance(action, Mapping) else None
            count += kind in (None, "search")
    return count


OPENAI: Final = Shape(
    name="openai",
    marks=frozenset({"prompt_tokens", "input_tokens"}),
    held_at=(("usage",), ("response", "usage"), ("response", "body", "usage")),
    buckets=buckets,
    tier=lambda usage, body: body.get("service_tier") or usage.get("service_tier"),
)
