"""From a provider's response to the fields of a usage event, and to an event that is ready to publish."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Final
from uuid import UUID

from pydantic_core import to_json, to_jsonable_python

from spendstream.adapters.anthropic import ANTHROPIC, HOSTED_CLAUDE
from spendstream.adapters.bedrock import BEDROCK
from spendstream.adapters.gemini import GEMINI
from spendstream.adapters.openai import OPENAI
from spendstream.adapters.shape import Body, Counts, MissingUsage, Shape, UnknownProvider, tier_fields
from spendstream.schemas.usage import UsageEvent

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
"""A provider's name, ours or OpenTelemetry's → the shapes of its APIs' usage, in the order they are tried."""

TAG_PREFIX: Final = "usage."
"""Prefix of the tags that hold the provider's own counts: ``usage.prompt_tokens_details.cached_tokens``."""

OMITTED: Final = "usage.omitted"
"""The tag that counts what the event had no room for."""

MAX_TAGS: Final = 32
"""Tags of one event, the caller's own included: see ``spendstream.schemas.usage``."""

_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_TAG_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}", re.ASCII)
_MAX_DIGITS: Final = 32


def usage_fields(provider: str, response_or_usage: Mapping[str, Any]) -> dict[str, int | str]:
    """Return ``UsageEvent`` fields for what a provider answered: token buckets, web searches, service tier.

    Buckets are disjoint and sum to the provider's total. ``input_tokens`` and ``output_tokens`` are always present,
    other counts where they are not 0; ``service_tier`` where the provider states one. An unknown tier sets
    ``usage_quality`` to partial, so that it isn't priced as standard unnoticed.

    Pass the response as a mapping (``response.model_dump()`` for an SDK's object). If you pass only its usage object,
    the tier and the searches that the response states outside of it are missed.

    Raises: UnknownProvider; MissingUsage, when there are no counts; InconsistentUsage, when they contradict each other.
    """
    shape, usage, body = _find_usage(provider, response_or_usage)
    return _fields(provider, shape, usage, body)


def usage_event(
    provider: str,
    response: Mapping[str, Any],
    *,
    service: str,
    model: str | None = None,
    occurred_at: datetime | None = None,
    keep_usage: bool = False,
    **fields: Any,
) -> dict[str, Any]:
    """Return the usage event of one call, as JSON types, valid under ``UsageEvent``.

    ``model`` is the one requested; the one that served is taken from the response. ``occurred_at`` defaults to now.
    ``fields`` are any other fields of the event (team, feature, task_id …) and override what the response states.
    ``keep_usage`` also keeps the provider's own counts, as tags (``usage.prompt_tokens``) that the ledger stores and
    no sum includes: to check a bill, or our reading of it. It is off because an event with tags costs the meter
    several times as much to read.
    Call this once per call, and publish the same event again when you retry: its ``event_id`` makes retries free.

        event = usage_event("openai", response.model_dump(), service="search", team="growth")
        key, value = as_record(event)

    Raises: AdapterError, for a response without consistent usage; TypeError, for a field that events don't have;
    ValueError, for a value that has no JSON form; pydantic.ValidationError, for a value that the event refuses.
    """
    for name in fields.keys() - UsageEvent.model_fields.keys():
        near = get_close_matches(name, UsageEvent.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "put your own fields into tags."
        raise TypeError(f"A usage event has no field {name!r}; {hint}")
    shape, usage, body = _find_usage(provider, response)
    at = occurred_at or datetime.now(UTC)
    metrics = body.get("metrics")  # Bedrock measures the latency; with other providers the caller does
    measured = metrics.get("latencyMs") if isinstance(metrics, Mapping) else None
    event = {
        "event_id": mint_event_id(at),
        "occurred_at": at,
        "service": service,
        "provider": provider,
        "model_requested": model,
        "model_served": _first(body, shape.model_at),
        "provider_response_id": _first(body, shape.id_at),
        "latency_ms": measured if isinstance(measured, int) else None,
        **_fields(provider, shape, usage, body),
        **fields,
    }
    if keep_usage:
        own = fields.get("tags") or {}
        event["tags"] = {**usage_tags(usage, MAX_TAGS - len(own)), **own} or None
    stated: dict[str, Any] = to_jsonable_python({name: value for name, value in event.items() if value is not None})
    UsageEvent.model_validate_json(to_json(stated))
    return stated


def as_record(event: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return (key, value) of an event's Kafka record. The key brings all retries of a task to one partition.

    Raises: pydantic.ValidationError, for an event that the contract refuses; ValueError, for one that has no JSON form.
    """
    value = to_json(event)
    return UsageEvent.model_validate_json(value).partition_key, value


def mint_event_id(at: datetime) -> UUID:
    """Return a UUID of version 7: 48 bits of Unix milliseconds, 74 random bits. They sort by time."""
    ms = int(at.timestamp() * 1000)
    random = int.from_bytes(os.urandom(10), "big")
    return UUID(int=(ms << 80) | (0x7 << 76) | (random >> 68 << 64) | (0b10 << 62) | random & (2**62 - 1))


def _find_usage(provider: str, response: Mapping[str, Any]) -> tuple[Shape, Body, Body]:
    """Return (shape, usage object, the object that holds it). Raises: UnknownProvider, MissingUsage."""
    shapes = PROVIDERS.get(provider.lower())
    if shapes is None:
        near = get_close_matches(provider.lower(), PROVIDERS, n=1)
        raise UnknownProvider(
            f"No adapter for provider {provider!r}{f', did you mean {near[0]!r}?' if near else '.'} "
            f"Known: {', '.join(sorted(PROVIDERS))}. For an API that answers as OpenAI does, use 'openai-compatible'."
        )
    if not isinstance(response, Mapping):
        raise MissingUsage(
            f"{provider}: expected a mapping, got {type(response).__name__}. Pass response.model_dump()."
        )
    for shape in shapes:
        found = shape.find(response)
        if found is not None:
            return shape, *found
    raise MissingUsage(
        f"{provider}: no usage in the response; its fields are {', '.join(map(str, response)) or 'none'}. "
        "A streamed call states its usage in the last chunk, if asked to: for OpenAI, set "
        'stream_options={"include_usage": true}.'
    )


def _fields(provider: str, shape: Shape, usage: Body, body: Body) -> dict[str, int | str]:
    counts = shape.buckets(Counts(provider, usage), body)
    kept = {field: n for field, n in counts.items() if n or field in ("input_tokens", "output_tokens")}
    return {**kept, **tier_fields(shape.tier(usage, body))}


def _first(body: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if isinstance(value := body.get(name), str)), None)


def usage_tags(usage: Mapping[str, Any], room: int = MAX_TAGS) -> dict[str, str]:
    """Return a provider's usage object as at most ``room`` tags: its numbers that are not 0, by their paths.

    ``{"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 400}}`` becomes ``usage.prompt_tokens: 1000``
    and ``usage.prompt_tokens_details.cached_tokens: 400``. Text is never kept. Where there are more numbers than room,
    the outermost are kept. ``usage.omitted`` counts those left out, for lack of room or because their name or size
    can't be a provider's.
    """
    found = sorted(_numbers(usage, ()), key=lambda leaf: len(leaf[0]))
    named = ((TAG_PREFIX + ".".join(path), number) for path, number in found)
    tags = {name: number for name, number in named if _TAG_NAME.fullmatch(name) and len(number) <= _MAX_DIGITS}
    if len(tags) == len(found) <= room:
        return tags
    if room < 1:
        return {}
    kept = dict(list(tags.items())[: room - 1])
    return {**kept, OMITTED: str(len(found) - len(kept))}


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, (*path, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for name, inner in zip(_names(value), value, strict=True):
            yield from _numbers(inner, (*path, name))
    elif isinstance(value, int | float) and not isinstance(value, bool) and value:
        yield path, str(value)


def _names(items: Sequence[Any]) -> list[str]:
    """Return what distinguishes the items of a list: a word that is different in each (AUDIO), else the position."""
    for field in ("modality", "type"):
        words = [item.get(field) if isinstance(item, Mapping) else None for item in items]
        if all(isinstance(word, str) and _WORD.fullmatch(word) for word in words) and len(set(words)) == len(words):
            return [str(word) for word in words]
    return [str(position) for position in range(len(items))]
