"""Records one by one: a strict reader for those that the fast reader can't prove, and the contract's own verdict.

``read_strict``  tags, escapes, unknown fields; still into columns
``explain``      slow and final: the event that a record holds, or why it is rejected
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec
import polars as pl
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from spendstream.core.decode.columns import (
    CALL_SCHEMA,
    COUNTS,
    DEFAULTED_TEXT,
    OBJECTS,
    OPTIONAL_NUMBERS,
    OPTIONAL_TEXT,
    RAW_SCHEMA,
    REQUIRED_NAMES,
)
from spendstream.core.timestamps import epoch_us
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.units import MAX_QUANTITY, WEB_SEARCHES, read_units, rounded, units_text
from spendstream.schemas.usage import EARLIEST, LATEST, UsageEvent

_PYTHON_TYPES: dict[pl.DataType, Any] = {pl.String(): str | None, pl.Int64(): int | None, pl.Float64(): float | None}
_OBJECT_TYPES: dict[str, Any] = {
    "units": dict[str, Decimal] | None,
    "usage_notes": list[str] | None,
    "tags": dict[str, str] | None,
}
_STRICT_SCHEMA = {**RAW_SCHEMA, **dict.fromkeys(OBJECTS, pl.String())}
_Record = msgspec.defstruct(
    "_Record",
    [(field, _PYTHON_TYPES[kind], None) for field, kind in RAW_SCHEMA.items()]
    + [(field, _OBJECT_TYPES[field], None) for field in OBJECTS],
    gc=False,
)
_decoder = msgspec.json.Decoder(_Record)
_MAX_DEPTH = 64
_LONG_NUMBER = re.compile(rb"[0-9]{1000}")
_INT64 = range(-(2**63), 2**63)
_integer_fields = [field for field, kind in RAW_SCHEMA.items() if kind == pl.Int64()]

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
_MAX_SHOWN: Final = 80
"""Characters of a rejected value that a message quotes."""


@dataclass(frozen=True)
class Rejection:
    """Why a record is not a usage event: a stable reason code, the field, and a message that says how to fix it."""

    reason: Reason
    field: str | None
    message: str
    event_id: str | None = None
    service: str | None = None
    stage: str | None = None


def read_strict(values: Sequence[bytes]) -> tuple[pl.DataFrame, list[bool]]:
    """Read JSON records one by one.

    Returns: a frame of ``RAW_SCHEMA`` and ``OBJECTS``, one row a record; and for each whether it could be read.
    """
    rows: list[tuple[Any, ...]] = []
    readable: list[bool] = []
    empty = msgspec.structs.astuple(_Record())
    for value in values:
        row = _read(value)
        readable.append(row is not None)
        rows.append(row or empty)
    return pl.DataFrame(rows, schema=_STRICT_SCHEMA, orient="row"), readable


def _read(value: bytes) -> tuple[Any, ...] | None:
    if not _is_plain(value):
        return None
    try:
        record = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for field in _integer_fields:
        if (count := getattr(record, field)) is not None and count not in _INT64:
            return None
    if (tags := getattr(record, "tags", None)) is not None:
        if len(tags) > 32 or not all(0 < len(name) <= 256 and len(text) <= 256 for name, text in tags.items()):
            return None
        if any("\x00" in name + text for name, text in tags.items()):
            return None
        record.tags = msgspec.json.encode(tags, order="deterministic").decode()  # type: ignore[attr-defined]
    if (notes := getattr(record, "usage_notes", None)) is not None:
        if len(notes) > 16 or not all(len(note) <= 256 and "\x00" not in note for note in notes):
            return None
        record.usage_notes = notes_text(notes)  # type: ignore[attr-defined]
    if (units := getattr(record, "units", None)) is not None:
        if len(units) > 32 or not all(0 < len(name) <= 256 and "\x00" not in name for name in units):
            return None
        if not all(quantity.is_finite() and 0 <= quantity <= MAX_QUANTITY for quantity in units.values()):
            return None
        try:
            read = read_units({name: rounded(quantity) for name, quantity in units.items()})
        except PydanticCustomError:
            return None
        if WEB_SEARCHES in read:  # rare: the contract says what they mean
            return None
        record.units = units_text(read)  # type: ignore[attr-defined]
    row: tuple[Any, ...] = msgspec.structs.astuple(record)
    return row


def _is_plain(value: bytes) -> bool:
    """Whether the contract surely reads the unknown fields too, which the decoder skips unread."""
    if value.count(b"[") + value.count(b"{") > _MAX_DEPTH:
        return False
    if len(value) > 1000 and _LONG_NUMBER.search(value):
        return False
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def explain(value: bytes | None, max_bytes: int = 1_000_000) -> UsageEvent | Rejection:
    """Return the event that a record holds, or why it is rejected. Never raises, whatever the bytes."""
    if not value:
        return Rejection(Reason.EMPTY, None, "the record has no value; publish a usage event as a JSON object")
    if len(value) > max_bytes:
        return Rejection(Reason.TOO_LARGE, None, f"the record has {len(value)} bytes; an event has at most {max_bytes}")
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
    out_of_range = kind.startswith(("greater_than", "less_than"))
    reason = _REASONS.get(kind, Reason.OUT_OF_RANGE if out_of_range else Reason.WRONG_TYPE)
    field = where or (first.get("ctx") or {}).get("field")
    message = f"{field}: {first['msg']}"
    for bound in (EARLIEST, LATEST):
        message = message.replace(repr(bound), bound.isoformat())
    if kind != "missing":
        message += f"; got {_shortened(first.get('input'))}"
    more = error.error_count() - 1
    if more:
        message += f" (and {more} more error{'s' if more > 1 else ''})"
    return Rejection(reason, field, message, *_sender(value))


def _shortened(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits has no decimal text
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _sender(value: bytes) -> tuple[str | None, str | None]:
    """Return the ``event_id`` and ``service`` that a rejected record states."""
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


def notes_text(notes: Sequence[str]) -> str | None:
    """Return notes as one text; None for none."""
    return "; ".join(notes) or None


def call_row(event: UsageEvent) -> dict[str, Any]:
    """Return an event as a row of ``CALL_SCHEMA`` (without ``row``)."""
    number = event.event_id.int
    row: dict[str, Any] = {
        "id_hi": number >> 64,
        "id_lo": number & (2**64 - 1),
        "occurred_at_us": epoch_us(event.occurred_at),
        "requested_at_us": None if event.requested_at is None else epoch_us(event.requested_at),
        "attempt": event.attempt,
        "gpu_us": None if event.gpu_seconds is None else round(event.gpu_seconds * 1e6),
        "provider_cost": None if event.provider_cost is None else f"{event.provider_cost:f}",
        "units": None if event.units is None else units_text(event.units),
        "usage_notes": None if event.usage_notes is None else notes_text(event.usage_notes),
        "tags": None
        if event.tags is None
        else json.dumps(event.tags, ensure_ascii=False, sort_keys=True, separators=(",", ":")),
    }
    for field in (*REQUIRED_NAMES, *OPTIONAL_TEXT, *DEFAULTED_TEXT):
        row[field] = str(getattr(event, field) or "")
    for field in OPTIONAL_NUMBERS:
        row[field] = getattr(event, field)
    for field in COUNTS:
        row[field] = getattr(event, field) or 0
    return {name: row[name] for name in CALL_SCHEMA if name != "row"}
