"""The explainer: the contract's own word on one record. Slow, and final."""

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from spendstream.core.decode.columns import CALL_SCHEMA, COUNTS, DEFAULTED_TEXT, OPTIONAL_TEXT, REQUIRED_NAMES
from spendstream.core.timestamps import epoch_us
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.usage import EARLIEST, LATEST, UsageEvent

_REASONS: Final = {
    "missing": Reason.MISSING_FIELD,
    "inconsistent_usage": Reason.INCONSISTENT_USAGE,
    "timestamp": Reason.WRONG_TYPE,
    "uuid": Reason.WRONG_TYPE,
    "nil_uuid": Reason.INVALID_VALUE,
    "timezone_aware": Reason.INVALID_VALUE,
    "literal_error": Reason.INVALID_VALUE,
    "unstorable_text": Reason.INVALID_VALUE,
    "string_pattern_mismatch": Reason.INVALID_VALUE,
    "string_too_short": Reason.OUT_OF_RANGE,
    "string_too_long": Reason.OUT_OF_RANGE,
    "too_long": Reason.OUT_OF_RANGE,
    "finite_number": Reason.OUT_OF_RANGE,
    "int_parsing_size": Reason.OUT_OF_RANGE,
    "decimal_max_digits": Reason.OUT_OF_RANGE,
    "decimal_max_places": Reason.OUT_OF_RANGE,
    "decimal_whole_digits": Reason.OUT_OF_RANGE,
}
_RANGE_ERRORS: Final = ("greater_than", "less_than")
_SHOWN: Final = 80


@dataclass(frozen=True)
class Rejection:
    """Why a record is not an event: a stable reason, the field, and words that say how to mend it."""

    reason: Reason
    field: str | None
    message: str
    event_id: str | None = None
    service: str | None = None


def explain(value: bytes | None, max_bytes: int = 1_000_000) -> UsageEvent | Rejection:
    """Return the event that a record holds, or why it holds none. Never raises, whatever the bytes."""
    if not value:
        return Rejection(Reason.EMPTY, None, "the record has no value; publish a usage event as a JSON object")
    if len(value) > max_bytes:
        return Rejection(Reason.TOO_LARGE, None, f"{len(value)} bytes; an event has at most {max_bytes}")
    try:
        return UsageEvent.model_validate_json(value)
    except ValidationError as error:
        return _rejection(error, value)


def _rejection(error: ValidationError, value: bytes) -> Rejection:
    first = error.errors(include_url=False)[0]
    kind, where = first["type"], ".".join(str(part) for part in first["loc"]) or None
    if kind == "json_invalid":
        return Rejection(Reason.NOT_JSON, None, first["msg"])
    if kind in ("model_type", "model_attributes_type"):
        return Rejection(Reason.NOT_AN_OBJECT, None, "the record is JSON but not an object; publish {...}")
    field = where or (first.get("ctx") or {}).get("field")
    told = "" if kind == "missing" else f"; got {_shown(first.get('input'))}"
    message = f"{field}: {_said(first)}{told}"
    more = error.error_count() - 1
    if more:
        message += f" (and {more} more fault{'s' if more > 1 else ''})"
    event_id, service = _identify(value)
    return Rejection(_reason(kind), field, message, event_id, service)


def _said(error: ErrorDetails) -> str:
    words = error["msg"]
    for bound in (EARLIEST, LATEST):
        words = words.replace(repr(bound), bound.isoformat())
    return words


def _reason(kind: str) -> Reason:
    if kind in _REASONS:
        return _REASONS[kind]
    return Reason.OUT_OF_RANGE if kind.startswith(_RANGE_ERRORS) else Reason.WRONG_TYPE


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits has no decimal text
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _identify(value: bytes) -> tuple[str | None, str | None]:
    try:
        record = json.loads(value)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(record, dict):
        return None, None
    return _short_text(record.get("event_id")), _short_text(record.get("service"))


def _short_text(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return value[:256].encode("utf-8", "replace").decode()


def call_row(event: UsageEvent) -> dict[str, Any]:
    """Return an event as a row of ``CALL_SCHEMA`` (without ``row``)."""
    number = event.event_id.int
    row: dict[str, Any] = {
        "id_hi": number >> 64,
        "id_lo": number & (2**64 - 1),
        "occurred_at_us": epoch_us(event.occurred_at),
        "requested_at_us": None if event.requested_at is None else epoch_us(event.requested_at),
        "attempt": event.attempt,
        "latency_ms": event.latency_ms,
        "gpu_us": None if event.gpu_seconds is None else round(event.gpu_seconds * 1e6),
        "provider_cost": None if event.provider_cost is None else f"{event.provider_cost:f}",
        "tags": None
        if event.tags is None
        else json.dumps(event.tags, ensure_ascii=False, sort_keys=True, separators=(",", ":")),
    }
    for field in (*REQUIRED_NAMES, *OPTIONAL_TEXT, *DEFAULTED_TEXT):
        row[field] = getattr(event, field) or ""
    for field in COUNTS:
        row[field] = getattr(event, field) or 0
    return {name: row[name] for name in CALL_SCHEMA if name != "row"}
