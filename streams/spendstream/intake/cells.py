"""The text of a foreign file's cells, and the values that it stands for: times, counts, amounts, and nothing."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, Final

from spendstream.schemas.units import PLACES
from spendstream.schemas.usage import UsageEvent

PROPERTIES: Final[dict[str, Any]] = UsageEvent.model_json_schema()["properties"]

Reader = Callable[[str], Any]
"""Text of a cell, trimmed and not empty → the field's JSON value; None: absent. Raises: ValueError, with the fix."""

TimeReader = Callable[[str], str]
"""Text of a cell → RFC 3339. Raises: ValueError, saying what is expected."""

EXACT: Final = Context(prec=80)
"""Decimal arithmetic that rounds nothing that a cell can hold."""

_ABSENT_TEXT: Final = frozenset({"null", "NULL", "Null", "None", "<null>", "\\N"})
_ABSENT: Final = _ABSENT_TEXT | {"nan", "NaN", "NAN", "NA", "N/A", "n/a", "<NA>", "-", "–"}
"""How tables write that there is no value. In a column of text, NA may be a name (North America)."""

_NUMBER: Final = re.compile(r"([+-]?)(\d{1,18}|\d{1,3}(?:,\d{3}){1,5})(\.\d{1,40})?([eE][+-]?\d{1,3})?", re.ASCII)
_DOLLARS: Final = re.compile(r"(?P<sign>[+-]?)(?:US)?\$ ?(?P<amount>\d.*)|(?P<plain>.*\d) ?USD", re.ASCII)
_IN_BRACKETS: Final = re.compile(r"\(([^()+-]+)\)", re.ASCII)
_COMMA_DECIMALS: Final = re.compile(r"[+-]?\d+(\.\d{3})*,\d+", re.ASCII)

_ISO: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<minute>\d\d:\d\d)(?P<second>:\d\d)?"
    r"(?:[.,](?P<fraction>\d{1,9}))? ?(?P<zone>Z|UTC|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII | re.IGNORECASE,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UNITS_US: Final = {"epoch-s": 1_000_000, "epoch-ms": 1_000, "epoch-us": 1}
_RELATIVE_UNITS_US: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}


def number(text: str) -> Decimal | None:
    """Return the number that a cell holds, exactly; None if it says that there is none.

    ``1024``, ``1,024``, ``374.0`` and ``8E-7`` are numbers, so are the amount ``$15.82`` and the credit ``($15.82)``.
    ``1,5`` could mean two things.

    Raises: ValueError.
    """
    if text.isdigit() and text.isascii() and len(text) <= 18:
        return Decimal(text)
    if text in _ABSENT:
        return None
    if credit := _IN_BRACKETS.fullmatch(text):
        text = f"-{credit[1].strip()}"
    dollars = _DOLLARS.fullmatch(text)
    if dollars is not None:
        text = dollars["plain"] or dollars["sign"] + dollars["amount"]
    if _NUMBER.fullmatch(text) is None:
        if _COMMA_DECIMALS.fullmatch(text):
            raise ValueError(f"{text[:40]!r} is ambiguous: write decimals with a point, and thousands as 1,024")
        raise ValueError(f"{text[:40]!r} is not a number; expected e.g. 1024 or 1,024.5")
    return Decimal(text.replace(",", ""))


def reader_of(name: str, times: TimeReader) -> Reader:
    """Return how the text of a cell becomes a value of a field, by the field's type in the contract's JSON Schema."""
    kind = kind_of(name)
    if kind == "time":
        return lambda text: None if text in _ABSENT else times(text)
    return {"text": _read_text, "whole": _read_whole, "exact": _read_exact, "number": _read_number}[kind]


def kind_of(name: str) -> str:
    """Return what a field holds: ``time``, ``text``, ``whole``, ``number`` or ``exact``. Tags are text, units exact."""
    if name == "provider_cost" or name.startswith("units."):
        return "exact"
    typed = PROPERTIES.get(name, {"type": "string"})  # tags have no schema of their own
    kinds = {kind[key] for kind in typed.get("anyOf", [typed]) for key in ("type", "format") if key in kind}
    if "date-time" in kinds:
        return "time"
    if kinds & {"string", "array"}:  # a list of texts of which a cell holds one
        return "text"
    return "whole" if "integer" in kinds else "number"


def _read_text(text: str) -> str | None:
    return None if text in _ABSENT_TEXT else text


def _read_whole(text: str) -> int | None:
    """Return a whole number; "374.0", as tables with gaps have it, is 374. Raises: ValueError."""
    if text.isdigit() and text.isascii() and len(text) <= 18:
        return int(text)
    if "$" in text or "USD" in text:
        raise ValueError(f"{text[:40]!r} is an amount of money; this field is a whole number")
    try:
        value = number(text)
    except ValueError as error:
        raise ValueError(str(error).replace("is not a number; expected", "is not a whole number; expected")) from None
    if value is None:
        return None
    if abs(value) >= Decimal("1e18") or value != value.to_integral_value():
        raise ValueError(f"{text[:40]!r} is not a whole number; expected e.g. 1024 or 1,024")
    return int(value)


def _read_number(text: str) -> float | None:
    value = number(text)
    return None if value is None else float(value)


def _read_exact(text: str) -> str | None:
    """Return an amount or a quantity as text, rounded half-even to 12 decimals: floats have noise after that."""
    value = number(text)
    if value is None:
        return None
    try:
        return f"{value.quantize(PLACES, ROUND_HALF_EVEN, EXACT).normalize(EXACT):f}"
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is too large for an amount or a quantity") from None


def time_reader(time_format: str = "iso", *, assume_utc: bool = True, base: datetime | None = None) -> TimeReader:
    """Return a reader for ``iso``, ``epoch-s``, ``epoch-ms``, ``epoch-us`` or a strptime pattern (``%d/%m/%Y %H:%M``).

    ``iso`` reads "2023-11-16 18:17:03.9799600" as 2023-11-16T18:17:03.979960Z: 1 to 9 decimals (those beyond
    microseconds are cut off), a T or a space, a zone or none. A time without a zone is UTC, or refused if
    ``assume_utc`` is False. A format that could be read two ways must be given.

    With a ``base``, times are numbers counted from it: ``s``, ``ms`` or ``us``. 3000 in ms is three seconds after it.

    Raises: ValueError, for any other format, or a unit without its base.
    """
    unit_us = _RELATIVE_UNITS_US.get(time_format)
    if base is not None:
        unit_us = unit_us or _EPOCH_UNITS_US.get(time_format)
        if unit_us is None:
            raise ValueError(f"times since a base need their unit, and {time_format!r} is none: use s, ms or us")
        return lambda text: _read_count(text, time_format, unit_us, base)
    if unit_us is not None:
        raise ValueError(
            f"times in {time_format} count from a start: give it as the time base, e.g. 2026-01-31T12:00Z. "
            f"If they count from 1970, the format is epoch-{time_format}"
        )
    if time_format == "iso":
        return lambda text: _read_iso(text, assume_utc)
    if time_format in _EPOCH_UNITS_US:
        return lambda text: _read_count(text, time_format, _EPOCH_UNITS_US[time_format], _EPOCH)
    if "%" in time_format:
        return lambda text: _read_pattern(text, time_format, assume_utc)
    known = ", ".join(("iso", *_EPOCH_UNITS_US, *_RELATIVE_UNITS_US))
    raise ValueError(f"unknown time format {time_format!r}: use one of {known}, or a pattern such as %d/%m/%Y %H:%M:%S")


def _read_iso(text: str, assume_utc: bool) -> str:
    written = _ISO.fullmatch(text)
    if written is None:
        if _NUMBER.fullmatch(text):
            raise ValueError(
                f"{text!r} is a number: give its unit as the time format, e.g. epoch-s or epoch-ms; "
                "if it counts from the start of a trace, s or ms and the time base"
            )
        raise ValueError(
            f"{text!r} is not a valid time; expected e.g. 2026-01-31 12:00:00.5, or give the time format, e.g. %Y-%m-%d"
        )
    day, minute, second, fraction, zone = written.groups()
    if zone is None and not assume_utc:
        raise ValueError(_no_zone(text))
    digits = f".{fraction[:6]}" if fraction else ""
    is_utc = zone is None or zone.upper() in ("Z", "UTC")
    offset = "Z" if is_utc else f"{zone[:3]}:{zone[-2:] if len(zone) > 3 else '00'}"
    return f"{day}T{minute}{second or ':00'}{digits}{offset}"


def _read_count(text: str, time_format: str, unit_us: int, since: datetime) -> str:
    if _NUMBER.fullmatch(text) is None or (since is _EPOCH and text.startswith("-")):
        raise ValueError(f"{text!r} is not a number, as the time format {time_format} expects")
    try:
        return _rfc3339(since + timedelta(microseconds=int(Decimal(text.replace(",", "")) * unit_us)))
    except OverflowError:
        raise ValueError(f"{text!r} read as {time_format} is beyond the year 9999: check the unit") from None


def _read_pattern(text: str, pattern: str, assume_utc: bool) -> str:
    try:
        at = datetime.strptime(text, pattern)  # noqa: DTZ007 - the zone is given below
    except ValueError:
        raise ValueError(f"{text!r} does not fit the time format {pattern!r}") from None
    if at.tzinfo is None:
        if not assume_utc:
            raise ValueError(_no_zone(text))
        at = at.replace(tzinfo=UTC)
    return _rfc3339(at)


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _no_zone(text: str) -> str:
    return f"{text!r} has no zone: add one (Z for UTC), or allow times without a zone to be read as UTC"
