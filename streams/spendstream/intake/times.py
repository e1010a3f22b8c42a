"""Times as files write them → RFC 3339 with a zone. A format that could be read two ways must be stated."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

_WRITTEN: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<minute>\d\d:\d\d)(?P<second>:\d\d)?"
    r"(?:[.,](?P<fraction>\d{1,9}))? ?(?P<zone>Z|UTC|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII | re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"\d{1,19}(\.\d{1,9})?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UNITS_US: Final = {"epoch-s": 1_000_000, "epoch-ms": 1_000, "epoch-us": 1}

TimeReader = Callable[[str], str]
"""Text of a cell → RFC 3339. Raises: ValueError, saying what is expected."""


def time_reader(time_format: str = "iso", *, assume_utc: bool = True) -> TimeReader:
    """Return a reader for ``iso``, ``epoch-s``, ``epoch-ms``, ``epoch-us`` or a strptime pattern as ``%d/%m/%Y %H:%M``.

    ``iso`` reads "2023-11-16 18:17:03.9799600" as 2023-11-16T18:17:03.979960Z: 1 to 9 digits of a second (those
    beyond microseconds are cut off), a T or a space, a zone or none. A time without a zone is UTC, unless
    ``assume_utc`` is False: then it is refused.

    Raises: ValueError, for a format that is none of these.
    """
    if time_format == "iso":
        return lambda text: _read_iso(text, assume_utc)
    if time_format in _EPOCH_UNITS_US:
        return lambda text: _read_epoch(text, time_format)
    if "%" in time_format:
        return lambda text: _read_pattern(text, time_format, assume_utc)
    known = ", ".join(("iso", *_EPOCH_UNITS_US))
    raise ValueError(f"Unknown time format {time_format!r}; give one of {known}, or a pattern as %d/%m/%Y %H:%M:%S")


def _read_iso(text: str, assume_utc: bool) -> str:
    written = _WRITTEN.fullmatch(text)
    if written is None:
        if _NUMBER.fullmatch(text):
            raise ValueError(f"{text!r} is a number: state its unit with a time format, epoch-s or epoch-ms")
        raise ValueError(f"{text!r} is no time such as 2026-01-31 12:00:00.5; state the time format")
    day, minute, second, fraction, zone = written.groups()
    if zone is None and not assume_utc:
        raise ValueError(_no_zone(text))
    digits = f".{fraction[:6]}" if fraction else ""
    return f"{day}T{minute}{second or ':00'}{digits}{_offset(zone)}"


def _offset(zone: str | None) -> str:
    if zone is None or zone.upper() in ("Z", "UTC"):
        return "Z"
    return f"{zone[:3]}:{zone[-2:] if len(zone) > 3 else '00'}"


def _read_epoch(text: str, time_format: str) -> str:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no number of {time_format}")
    microseconds = int(Decimal(text) * _EPOCH_UNITS_US[time_format])
    try:
        return _rfc3339(_EPOCH + timedelta(microseconds=microseconds))
    except OverflowError:
        raise ValueError(f"{text!r} read as {time_format} is beyond the year 9999; is the unit right?") from None


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
    return f"{text!r} has no zone; write it with one (a trailing Z for UTC), or let times without a zone be UTC"
