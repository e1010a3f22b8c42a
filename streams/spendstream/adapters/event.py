"""From a provider's response to the fields of a usage event, and to an event that is ready to publish."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final
from uuid import UUID, uuid5

from pydantic_core import from_json, to_json, to_jsonable_python

from spendstream.adapters.anthropic import ANTHROPIC
from spendstream.adapters.bedrock import BEDROCK
from spendstream.adapters.gemini import GEMINI
from spendstream.adapters.libraries import AI_SDK, CLAUDE_AGENT, LANGCHAIN, PYDANTIC_AI
from spendstream.adapters.openai import OPENAI
from spendstream.adapters.others import COHERE, NATIVE, UNITS, embedded_tokens, made_units
from spendstream.adapters.shape import (
    BesideCall,
    Body,
    Counts,
    MissingUsage,
    Reading,
    SeveralCalls,
    Shape,
    UnknownProvider,
    geo_fields,
    leaves,
    nested,
    objects,
    plain,
    tier_fields,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from spendstream.schemas.usage import UsageEvent

# fmt: off
ALIASES: Final = {
    "xai": "x-ai", "vertex": "vertex_ai", "google-vertex": "vertex_ai", "google_vertexai": "vertex_ai",
    "google_genai": "google", "amazon-bedrock": "bedrock", "amazon_bedrock": "bedrock", "bedrock_converse": "bedrock",
    "together_ai": "together", "together-ai": "together", "togetherai": "together", "fireworks_ai": "fireworks",
    "fireworks-ai": "fireworks", "azure_openai": "azure", "azure-openai": "azure", "azure_ai": "azure",
    "mistralai": "mistral", "cohere_chat": "cohere", "text-completion-openai": "openai",
}
"""What SDKs and libraries call a provider → our name of it, for how it counts. The event keeps the name given."""

PROVIDERS: Final = frozenset({
    *ALIASES,
    "openai", "openai-compatible", "mistral", "mistral_ai", "deepseek", "x-ai", "x_ai", "groq", "together", "fireworks",
    "cerebras", "openrouter", "perplexity", "moonshotai", "moonshot_ai", "zai", "novita", "baseten", "huggingface",
    "databricks", "vllm", "sglang", "ollama", "self-hosted", "azure", "azure.ai.openai", "azure.ai.inference",
    "anthropic", "google", "gemini", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "vertex_ai", "aws", "bedrock",
    "aws.bedrock", "cohere", "voyageai", "voyage", "minimax", "cloudflare", "github-copilot", "ovhcloud", "litellm",
    "arcee", "avian", "cursor", "deepinfra", "doubleword", "elevenlabs", "meta", "modal", "nebius", "nvidia",
    "openai-decisions", "quicksilverpro", "sambanova", "typesafe", "zhipuai", "alibaba", "dashscope",
    "jina", "vercel", "watsonx",
    *(f"huggingface_{host}" for host in (
        "cerebras", "fireworks-ai", "groq", "hyperbolic", "nebius", "novita", "nscale", "ovhcloud", "publicai",
        "sambanova", "together",
    )),
})
# fmt: on
"""The providers that have an adapter, by our name or OpenTelemetry's."""

SHAPES: Final = (
    NATIVE,
    GEMINI,
    COHERE,
    PYDANTIC_AI,
    CLAUDE_AGENT,
    LANGCHAIN,
    AI_SDK,
    BEDROCK,
    ANTHROPIC,
    OPENAI,
    UNITS,
)
"""In the order they are tried: each by its whole signature, whichever provider is named."""

UNKNOWN: Final = Shape(
    name="unknown",
    is_of=lambda usage, provider: any(number for _, number in leaves(usage, ())),
    buckets=lambda usage, body: {"input_tokens": 0, "output_tokens": 0},
    tier=lambda usage, body: None,
)
"""A usage object of no known shape: its numbers are named in the notes, so that they are not lost silently."""

UNSTATED: Final = Shape(
    name="unstated",
    is_of=lambda usage, provider: False,
    buckets=lambda usage, body: {},
    tier=lambda usage, body: body.get("service_tier"),
)
"""A response without usage, which is billed by what it holds, or by what the caller counted."""

_HELD_AT: Final[tuple[tuple[str, ...], ...]] = (
    ("usageMetadata",),
    ("usage_metadata",),
    ("usage",),
    ("message", "usage"),
    ("message", "usage_metadata"),
    ("response", "usage"),
    ("response", "body", "usage"),
    ("response", "usageMetadata"),
    ("response", "usage_metadata"),
    ("result", "message", "usage"),
    ("modelOutput", "usage"),
    ("modelOutput",),
    ("body", "usage"),
    ("body",),
    ("metadata", "usage"),
    ("x_groq", "usage"),
    ("usage_info",),
    ("extra_info",),
    ("raw", "usage"),
    ("meta", "usage"),
    ("meta",),
    ("response_metadata", "token_usage"),
    ("response_metadata", "usage"),
    ("llm_output", "token_usage"),
    ("totalUsage",),
    ("amazon-bedrock-invocationMetrics",),
    ("svg_usage",),
)
"""Paths to the usage object inside a response, a chunk of a stream, or a line of a batch's results."""

_IN_BATCH: Final = (("response", "body"), ("result", "message"), ("modelOutput",), ("modelOutput", "usage"))

_HEADERS: Final = {
    "x-amzn-bedrock-input-token-count": "inputTokens",
    "x-amzn-bedrock-output-token-count": "outputTokens",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokens",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokens",
}
"""Bedrock's InvokeModel counts in headers, whatever the model's own body states."""

TAG_PREFIX: Final = "usage."
"""Prefix of the tags that hold the provider's own counts: ``usage.prompt_tokens_details.cached_tokens``."""

OMITTED: Final = "usage.omitted"
"""The tag that counts what the event had no room for."""

UNSTATED_MODEL: Final = "unstated"
"""The model of a call that another's response holds without naming one. It has no price."""

MAX_NOTES: Final = 16
MAX_NOTE_LENGTH: Final = 256
"""Notes of one event, and letters of each: see ``spendstream.schemas.usage``."""

MAX_TAGS: Final = 32
"""Tags of one event, the caller's own included: see ``spendstream.schemas.usage``."""

_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_TAG_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}", re.ASCII)
_MAX_DIGITS: Final = 32


def usage_fields(provider: str, response_or_usage: object) -> dict[str, Any]:
    """Return ``UsageEvent`` fields for what a provider answered: token buckets, web searches, units, service tier.

    Buckets are disjoint and sum to the provider's total. ``input_tokens`` and ``output_tokens`` are always present,
    other counts where they are not 0; ``service_tier``, ``capacity`` and ``inference_geo`` where the provider states
    them. ``usage_quality`` is partial where a number was not read or counts contradict each other; ``usage_notes`` say
    which.

    Pass the response: a mapping, or the SDK's object. If you pass only its usage object, the tier and the searches that
    the response states outside of it are missed.

    Raises: UnknownProvider; MissingUsage, when no usage is stated; InconsistentUsage, when a count is no whole number;
    SeveralCalls, when the response holds several priced calls.
    """
    response = as_mapping(provider, response_or_usage)
    calls = [call for part in _parts(response) for call in read(provider, part).calls]
    if len(calls) > 1:
        raise _several([call.model for call in calls])
    return calls[0].fields


def usage_event(
    provider: str,
    response: object,
    *,
    service: str,
    model: str | None = None,
    occurred_at: datetime | None = None,
    keep_usage: bool = False,
    **fields: Any,
) -> dict[str, Any]:
    """Return the usage event of one call, as JSON types, valid under ``UsageEvent``.

    ``response`` is the SDK's object, or a mapping. ``model`` is the one requested; the one that served is taken from
    the response. ``occurred_at`` defaults to now. ``fields`` are any other fields of the event (team, feature, task_id
    …) and override what the response states; ``units`` are added to its own.
    ``keep_usage`` also keeps the provider's own counts, as tags (``usage.prompt_tokens``) that the ledger stores and
    no sum includes: to check a bill, or our reading of it. It is off because an event with tags costs the meter
    several times as much to read.
    Call this once per call, and publish the same event again when you retry: its ``event_id`` makes retries free.

        event = usage_event("openai", response, service="search", team="growth")
        key, value = as_record(event)

    Some answers state nothing, such as speech. Count what is billed yourself:

        usage_event("openai", None, service="reader", model="tts-1", units={"characters": len(text)})

    Where the reading is in doubt, ``usage_quality`` is partial and ``usage_notes`` say why.

    Raises: AdapterError, for a response without usage that can be read, or with several priced calls; TypeError, for a
    field that events don't have; ValueError, for a value that has no JSON form; pydantic.ValidationError, for a value
    that the event refuses.
    """
    events = usage_events(
        provider,
        response,
        service=service,
        model=model,
        occurred_at=occurred_at,
        keep_usage=keep_usage,
        **fields,
    )
    if len(events) > 1:
        raise _several([event.get("model_served") for event in events])
    if not events:
        raise MissingUsage(f"{provider}: the call failed, so it is not billed. usage_events returns no event.")
    return events[0]


def usage_events(
    provider: str,
    response: object,
    *,
    service: str,
    model: str | None = None,
    occurred_at: datetime | None = None,
    keep_usage: bool = False,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Return the usage events of a response, one for each priced call that it holds. See ``usage_event``.

    Most responses hold one. An image that OpenAI's tool made, or an advisor that Claude asked, is a call of another
    model, with a price of its own, and an event after the response's own. The result of an agent in LangChain or the
    AI SDK holds a call for each step. A line of a batch's results for a request that failed holds none.

    If you pass an ``event_id``, it is the first event's; ids of the others follow from it, so that a repeated call of
    this function repeats them all. Of a conversation, pass the answers that are new: each call mints new ids.
    """
    check_fields(fields)
    is_counted = any(fields.get(field) is not None for field in _COUNTED)
    try:
        parts = _parts(as_mapping(provider, response))
    except MissingUsage:  # such as a file of speech
        if not is_counted:
            raise
        parts = ({},)
    events: list[dict[str, Any]] = []
    for position, part in enumerate(parts):
        if _failed(part):
            continue
        own = dict(fields)
        if position and fields.get("event_id") is not None:
            own["event_id"] = uuid5(UUID(str(fields["event_id"])), f"step {position}")
        found = read(provider, part, is_counted=is_counted)
        events += make_events(provider, found, service, model, occurred_at, keep_usage, own)
    return events


_COUNTED: Final = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "units", "gpu_seconds")
"""The fields of what was used; at least one of them makes an event."""


def as_mapping(provider: str, response: object) -> dict[str, Any]:
    """Return a response as JSON types: an SDK's object by its ``model_dump()`` or ``to_dict()``, None as empty.

    Raises: MissingUsage, for anything else.
    """
    mapping = {} if response is None else plain(response)
    if not isinstance(mapping, dict):
        raise MissingUsage(
            f"{provider}: expected a response, got {type(response).__name__}. Pass the SDK's object, or a mapping."
        )
    if isinstance(body := mapping.get("body"), str | bytes):  # Bedrock's InvokeModel, once its body was read
        try:
            mapping["body"] = from_json(body)
        except ValueError:
            pass
    return mapping


def _parts(response: Body) -> Sequence[Body]:
    """Return the answers that a library's result holds; else the response.

    They are the AI SDK's steps, LangChain's messages, and what Claude's agent sums by model.
    """
    by_model = response.get("modelUsage") or response.get("model_usage")
    if isinstance(by_model, dict) and by_model and all(isinstance(usage, dict) for usage in by_model.values()):
        return [{"model": model, "usage": usage, "type": "result"} for model, usage in by_model.items()]
    if steps := [step for step in objects(response.get("steps")) if step.get("usage")]:
        return steps
    prompts = response.get("generations")  # a list of candidates for each, which all repeat the usage of the call
    messages = [*objects(response.get("messages"))]
    messages += [nested(of[0], "message") for of in map(objects, prompts if isinstance(prompts, list) else ()) if of]
    return [message for message in messages if message.get("usage_metadata")] or [response]


def _failed(line: Body) -> bool:
    """Whether a line of a batch's results is of a request that failed, which is not billed."""
    if nested(line, "result").get("type") in ("errored", "canceled", "expired"):
        return True
    answer = nested(line, "response")
    status = answer.get("status_code")
    is_line = "custom_id" in line or "key" in line or "recordId" in line
    has_failed = bool(line.get("error")) or (isinstance(status, int) and status >= 400)
    return is_line and has_failed and "usageMetadata" not in answer


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raise TypeError for a field that events don't have, with the closest name that they have."""
    for name in fields.keys() - UsageEvent.model_fields.keys():
        near = get_close_matches(name, UsageEvent.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "put your own fields into tags."
        raise TypeError(f"A usage event has no field {name!r}; {hint}")


def make_events(
    provider: str,
    found: "Found",
    service: str,
    model: str | None,
    occurred_at: datetime | None,
    keep_usage: bool,
    fields: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return an event for each call that a response states. See ``usage_events``."""
    at = occurred_at or datetime.now(UTC)
    events = []
    for position, call in enumerate(found.calls):
        requested = model if position == 0 else None if call.model else UNSTATED_MODEL
        event = {
            "event_id": mint_event_id(at),
            "occurred_at": at,
            "service": service,
            "provider": provider,
            "model_requested": requested,
            "model_served": call.model,
            "region": _region(call.model) or _region(requested),
            "provider_response_id": _first(found.body, found.shape.id_at),
            "latency_ms": _latency_ms(found.body),
            **call.fields,
            **(found.cost if position == 0 else {}),
            **fields,
        }
        if fields.get("units") and call.fields.get("units"):
            event["units"] = {**call.fields["units"], **fields["units"]}
        if position:
            for field in _COUNTED:  # what the caller counted is the first call's
                if field in fields:
                    event[field] = call.fields.get(field)
            if fields.get("event_id") is not None:
                event["event_id"] = uuid5(UUID(str(fields["event_id"])), str(position))
        if keep_usage and position == 0:
            own_tags = fields.get("tags") or {}
            event["tags"] = {**usage_tags(found.usage, MAX_TAGS - len(own_tags)), **own_tags} or None
        stated: dict[str, Any] = to_jsonable_python({name: value for name, value in event.items() if value is not None})
        UsageEvent.model_validate_json(to_json(stated))
        events.append(stated)
    return events


def _region(model: str | None) -> str | None:
    """Return the region that a model's full name states: an ARN of Bedrock, a resource of Vertex AI."""
    found = re.match(r"arn:aws[a-z-]*:bedrock:([a-z0-9-]+):|(?:projects/[^/]+/)?locations/([a-z0-9-]+)/", model or "")
    return found and (found[1] or found[2])


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


@dataclass(frozen=True, slots=True)
class _Call:
    """A call's fields, the model that served it, and what is in doubt about the reading."""

    fields: dict[str, Any]
    model: str | None
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Found:
    """What a response states: its usage object, the object that holds it, and the priced calls with what they cost."""

    shape: Shape
    usage: Body
    body: Body
    calls: list[_Call]
    cost: dict[str, str]


def read(provider: str, response: Mapping[str, Any], notes: Sequence[str] = (), is_counted: bool = False) -> Found:
    """Find a response's usage and read it. ``notes`` say what is in doubt beforehand.

    ``is_counted``: the caller counted what is billed, so that the response need not state it. Raises: AdapterError.
    """
    name = provider.lower()
    if name not in PROVIDERS:
        near = get_close_matches(name, PROVIDERS, n=1)
        raise UnknownProvider(
            f"No adapter for provider {provider!r}{f', did you mean {near[0]!r}?' if near else '.'} "
            f"Known: {', '.join(sorted(PROVIDERS))}. For an API that answers as OpenAI does, use 'openai-compatible'."
        )
    name = ALIASES.get(name, name)
    reading = Reading(name, notes=list(notes))
    shape, usage, body, is_of_batch = _find(name, response, is_counted)
    counts = Counts(reading, shape.spell(usage))
    buckets = shape.buckets(counts, body)
    if shape is UNSTATED:
        reading.units.update(made_units(Counts(reading, response)))
    outer = response.get("serviceTier")  # InvokeModel's, beside the model's own body
    tier = "batch" if is_of_batch else shape.tier(counts, body) or (outer if isinstance(outer, str) else None)
    common = tier_fields(tier, reading) | geo_fields(usage.get("inference_geo"))
    others = shape.beside(counts, body)
    if response.get("type") == "message_start":
        reading.note("message_start alone: output not final")
    cost = stated_cost(name, usage, body)
    counts.note_unread()
    if searches := int(reading.units.pop("web_searches", 0)):  # they have a field of their own
        buckets = {**buckets, "web_searches": buckets.get("web_searches", 0) + searches}
    model = _first(body, shape.model_at) or _first(usage, ("model",)) or _first(body, LANGCHAIN.model_at)
    main = BesideCall(model, buckets, reading)
    if others and not any(tokens for field, tokens in buckets.items() if field.endswith("_tokens")):
        main = _merged(others.pop(0), main)  # its tokens are stated as those of the models that it asked
    calls = [_Call(_event_fields(call, common), call.model, call.reading.notes) for call in (main, *others)]
    return Found(shape, usage, body, calls, cost)


def _merged(call: BesideCall, other: BesideCall) -> BesideCall:
    """Return a call with the searches, units and notes of another."""
    searches = call.buckets.get("web_searches", 0) + other.buckets.get("web_searches", 0)
    for unit, quantity in other.reading.units.items():
        call.reading.units[unit] = call.reading.units.get(unit, Decimal(0)) + quantity
    for note in other.reading.notes:
        call.reading.note(note)
    return BesideCall(call.model, {**call.buckets, "web_searches": searches}, call.reading)


def _event_fields(call: BesideCall, common: Mapping[str, str]) -> dict[str, Any]:
    stated: dict[str, Any] = {
        field: n for field, n in call.buckets.items() if n or field in ("input_tokens", "output_tokens")
    }
    if call.reading.units:
        stated["units"] = {unit: _number(quantity) for unit, quantity in call.reading.units.items()}
    stated |= common
    if notes := call.reading.notes:
        room = MAX_NOTES if len(notes) <= MAX_NOTES else MAX_NOTES - 1
        more = [f"{len(notes) - room} more"] if len(notes) > room else []
        stated |= {"usage_quality": "partial", "usage_notes": [*map(_storable, notes[:room]), *more]}
    return stated


def _number(quantity: Decimal) -> int | str:
    return int(quantity) if quantity == quantity.to_integral_value() else str(quantity)


def _storable(note: str) -> str:
    text = note.replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_NOTE_LENGTH else text[: MAX_NOTE_LENGTH - 1] + "…"


def _find(provider: str, response: Body, is_counted: bool) -> tuple[Shape, Body, Body, bool]:
    """Return (shape, usage, the object that holds it, whether a batch's results hold that). Raises: MissingUsage."""
    unknown: tuple[Shape, Body, Body, bool] | None = None
    for path in ((), *_HELD_AT):
        holder: Any = response
        for step in path[:-1]:
            holder = holder.get(step) if isinstance(holder, Mapping) else None
        usage = holder.get(path[-1]) if path and isinstance(holder, Mapping) else holder
        if not isinstance(usage, Mapping):
            continue
        shape = next((shape for shape in SHAPES if shape.is_of(usage, provider)), None)
        held = holder if path and path != ("body",) else {}
        if shape is not None:
            return shape, usage, held, _is_of_batch(path, response)
        if path and path[-1] in _NAMES_OF_USAGE and unknown is None and UNKNOWN.is_of(usage, provider):
            unknown = UNKNOWN, usage, held, _is_of_batch(path, response)
    if headers := _header_counts(response):
        return BEDROCK, headers, response, False
    if tokens := embedded_tokens(response):
        return OPENAI, {"prompt_tokens": tokens}, response, False
    if isinstance(about := response.get("metadata"), Mapping) and UNITS.is_of(about, provider):
        return UNITS, about, response, False
    if unknown is not None:
        return unknown
    if is_counted or made_units(Counts(Reading(provider), response)):
        return UNSTATED, {}, response, response.get("object") == "batch"
    raise MissingUsage(
        f"{provider}: no usage in the response; its fields are {', '.join(map(str, response)) or 'none'}. "
        "A streamed call states its usage in the last chunk, if asked to: for OpenAI, set "
        'stream_options={"include_usage": true}. If the answer states nothing, pass what you counted, such as '
        'units={"characters": 1200}.'
    )


_NAMES_OF_USAGE: Final = ("usage", "usageMetadata", "usage_metadata", "usage_info", "token_usage", "totalUsage")


def _header_counts(response: Body) -> dict[str, int]:
    """Return the counts of Bedrock's response headers, which boto3 keeps in ``ResponseMetadata``."""
    headers = nested(response, "ResponseMetadata", "HTTPHeaders") or nested(response, "headers")
    found = {str(name).lower(): value for name, value in headers.items()}
    return {field: int(found[name]) for name, field in _HEADERS.items() if str(found.get(name, "")).isdecimal()}


def _is_of_batch(path: tuple[str, ...], response: Body) -> bool:
    """Whether a path leads into a line of a batch's results, which is billed as such wherever it says otherwise."""
    if path in _IN_BATCH or path[:-1] in _IN_BATCH:
        return True
    is_gemini = path in (("response", "usageMetadata"), ("response", "usage_metadata"))
    return is_gemini and bool(response.keys() & {"key", "request", "custom_id", "metadata"})


def _several(models: Sequence[object]) -> SeveralCalls:
    return SeveralCalls(
        f"The response holds {len(models)} priced calls, of {', '.join(map(str, models))}; one event would drop "
        f"{len(models) - 1}. Use usage_events, which returns an event for each."
    )


def stated_cost(provider: str, usage: Body, body: Body) -> dict[str, str]:
    """Return ``provider_cost`` and ``currency`` where the provider states what it charged, in USD.

    OpenRouter's ``cost`` (plus what the upstream provider charges, with a key of your own), xAI's ticks of 1e-10 USD,
    and Perplexity's total. Of others, a number named cost may not be dollars. Rounded to 12 decimals, halves to even.
    """
    amounts: list[object] = []
    if provider == "openrouter":
        details = usage.get("cost_details")
        amounts.append(usage.get("cost"))
        if usage.get("is_byok") and isinstance(details, Mapping):
            amounts.append(details.get("upstream_inference_cost"))
    elif provider in ("x-ai", "x_ai") and usage.get("cost_in_usd_ticks") is not None:
        ticks = usage["cost_in_usd_ticks"]
        amounts.append(Decimal(ticks) / 10**10 if isinstance(ticks, int) else None)
    elif provider == "perplexity" and isinstance(stated := usage.get("cost"), Mapping):
        amounts.append(stated.get("total_cost"))
    total = sum((Decimal(str(n)) for n in amounts if _is_amount(n)), Decimal(0))
    if not any(map(_is_amount, amounts)) or not 0 <= total <= 1_000_000:
        return {}
    return {"provider_cost": f"{round(total, 12).normalize():f}", "currency": "USD"}


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and Decimal(str(value)).is_finite()


def _first(body: Mapping[str, Any], paths: tuple[str, ...]) -> str | None:
    """Return the first text among the values at some dotted paths."""
    for path in paths:
        value: Any = body
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if isinstance(value, str) and value:
            return value
    return None


def _latency_ms(body: Mapping[str, Any]) -> int | None:
    """Return the latency that Bedrock measured; with other providers the caller measures it."""
    measured = nested(body, "metrics").get("latencyMs")
    return measured if isinstance(measured, int) else None


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
