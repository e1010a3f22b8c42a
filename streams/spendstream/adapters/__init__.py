"""Providers' usage objects → the event's disjoint token buckets.

Pure: no Kafka, no network. A service calls this on what its provider answered, and publishes the result.
Providers disagree on what includes what; here, and only here, their words become ours.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from spendstream.adapters.anthropic import ANTHROPIC, HOSTED_CLAUDE
from spendstream.adapters.bedrock import BEDROCK
from spendstream.adapters.counts import AdapterError, Counts, InconsistentUsage, MissingUsage, UnknownProvider
from spendstream.adapters.gemini import GEMINI
from spendstream.adapters.openai import OPENAI
from spendstream.adapters.shape import Body, Shape, tier_fields

__all__ = ["PROVIDERS", "AdapterError", "InconsistentUsage", "MissingUsage", "UnknownProvider", "usage_fields"]

# fmt: off
_LIKE_OPENAI: Final = (
    "openai", "openai-compatible", "mistral", "mistral_ai", "deepseek", "x-ai", "x_ai", "groq", "together", "fireworks",
    "cerebras", "openrouter", "perplexity", "moonshotai", "zai", "novita", "baseten", "huggingface", "databricks",
    "vllm", "sglang", "ollama", "self-hosted",
)
# fmt: on

PROVIDERS: Final[Mapping[str, tuple[Shape, ...]]] = {
    **dict.fromkeys(_LIKE_OPENAI, (OPENAI,)),
    **dict.fromkeys(("azure", "azure.ai.openai", "azure.ai.inference"), (HOSTED_CLAUDE, OPENAI)),
    "anthropic": (ANTHROPIC,),
    **dict.fromkeys(
        ("google", "gemini", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "vertex_ai"), (GEMINI, HOSTED_CLAUDE, OPENAI)
    ),
    **dict.fromkeys(("aws", "bedrock", "aws.bedrock"), (BEDROCK, HOSTED_CLAUDE, OPENAI)),
}
"""A provider's name, ours or OpenTelemetry's → the shapes its APIs speak, tried in order."""


def usage_fields(provider: str, response_or_usage: Mapping[str, Any]) -> dict[str, int | str]:
    """Return ``UsageEvent`` fields for what a provider answered: token buckets, web searches, service tier.

    Buckets are disjoint and sum to the provider's total. ``input_tokens`` and ``output_tokens`` are always there,
    other counts where they are not 0; ``service_tier`` where the provider states one. A tier that is not known
    sets ``usage_quality`` to partial, so that it doesn't pass for the standard price unseen.

    Pass the response as a mapping (``response.model_dump()`` for an SDK's object), or only its usage object:
    then the tier and the searches that stand outside of it are not seen.

    Raises: UnknownProvider; MissingUsage, when there are no counts; InconsistentUsage, when they contradict each other.
    """
    shape, usage, body = find_usage(provider, response_or_usage)
    counts = shape.buckets(Counts(provider, usage), body)
    kept = {field: n for field, n in counts.items() if n or field in ("input_tokens", "output_tokens")}
    return {**kept, **tier_fields(shape.tier(usage, body))}


def find_usage(provider: str, response: Mapping[str, Any]) -> tuple[Shape, Body, Body]:
    """Return (shape, usage object, the object that holds it). Raises: UnknownProvider, MissingUsage."""
    shapes = PROVIDERS.get(provider.lower())
    if shapes is None:
        near = get_close_matches(provider.lower(), PROVIDERS, n=1)
        raise UnknownProvider(
            f"No adapter for provider {provider!r}{f', did you mean {near[0]!r}?' if near else '.'} "
            f"Known: {', '.join(sorted(PROVIDERS))}. One that answers as OpenAI does can use 'openai-compatible'."
        )
    if not isinstance(response, Mapping):
        raise MissingUsage(
            f"{provider}: a mapping is expected, not {type(response).__name__}. Pass response.model_dump()."
        )
    for shape in shapes:
        found = shape.find(response)
        if found is not None:
            return shape, *found
    raise MissingUsage(
        f"{provider}: no usage in the response; its fields are {', '.join(map(str, response)) or 'none'}. "
        "A streamed call states it in its last chunk, where asked for: OpenAI needs "
        'stream_options={"include_usage": true}.'
    )
