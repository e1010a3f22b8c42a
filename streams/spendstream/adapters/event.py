"""From a provider's answer to a usage event that is ready to publish."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final
from uuid import UUID

import msgspec

from spendstream.adapters import find_usage, usage_fields
from spendstream.adapters.raw import MAX_TAGS, usage_tags
from spendstream.schemas.usage import UsageEvent

_JSON: Final = msgspec.json.Encoder(decimal_format="string")


def mint_event_id(at: datetime) -> UUID:
    """Return a UUID of version 7: 48 bits of Unix milliseconds, 74 random bits. They sort by time."""
    ms = int(at.timestamp() * 1000)
    return UUID(int=(ms << 80) | (0x7 << 76) | (secrets.randbits(12) << 64) | (0b10 << 62) | secrets.randbits(62))


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

    ``model`` is the one requested; the one served is taken from the response. ``occurred_at`` is now unless given.
    ``fields`` are any other fields of the event (team, feature, task_id …) and win over what the response says.
    ``keep_usage`` keeps the provider's own counts too, as tags (``usage.prompt_tokens``) that end in the ledger and
    take part in no sum: to check a bill, or our reading of it. It is off because an event with tags costs the meter
    several times as much to read.
    Call it once a call, and publish the same event again when a publish is retried: its ``event_id`` makes that free.

        event = usage_event("openai", response.model_dump(), service="search", team="growth")
        key, value = as_record(event)

    Raises: AdapterError, for a response without consistent usage; TypeError, for a field that an event doesn't have;
    pydantic.ValidationError, for a value that the event refuses.
    """
    _check_names(fields)
    shape, usage, body = find_usage(provider, response)
    at = occurred_at or datetime.now(UTC)
    event = {
        "event_id": mint_event_id(at),
        "occurred_at": at,
        "service": service,
        "provider": provider,
        "model_requested": model,
        "model_served": _first(body, shape.model_at),
        "provider_response_id": _first(body, shape.id_at),
        "latency_ms": _latency_ms(body),
        **usage_fields(provider, response),
        **fields,
    }
    if keep_usage:
        own = fields.get("tags") or {}
        event["tags"] = {**usage_tags(usage, MAX_TAGS - len(own)), **own} or None
    stated: dict[str, Any] = msgspec.to_builtins(
        {name: str(v) if isinstance(v, Decimal) else v for name, v in event.items() if v is not None}
    )
    UsageEvent.model_validate_json(_JSON.encode(stated))
    return stated


def as_record(event: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return (key, value) of the Kafka record of an event. The key brings retries of a task to one partition.

    Raises: pydantic.ValidationError.
    """
    value = _JSON.encode(event)
    return UsageEvent.model_validate_json(value).partition_key, value


def _check_names(fields: Mapping[str, Any]) -> None:
    for name in fields.keys() - UsageEvent.model_fields.keys():
        near = get_close_matches(name, UsageEvent.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "what is yours belongs in tags."
        raise TypeError(f"A usage event has no field {name!r}; {hint}")


def _first(body: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if isinstance(value := body.get(name), str)), None)


def _latency_ms(body: Mapping[str, Any]) -> int | None:
    """Return the latency that Bedrock measured; the others leave it to the caller's clock."""
    metrics = body.get("metrics")
    measured = metrics.get("latencyMs") if isinstance(metrics, Mapping) else None
    return measured if isinstance(measured, int) else None
