"""Which column of a foreign table is which field of an event, and how the text of its cells becomes values."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final

from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from spendstream.schemas.usage import UsageEvent

COUNTED: Final = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "gpu_seconds")
_REQUIRED: Final = (("occurred_at",), ("service",), ("provider",), ("model_requested", "model_served"), COUNTED)
_WHOLE: Final = re.compile(r"[+-]?\d{1,18}(\.0{1,9})?", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,3})?", re.ASCII)

_PROPERTIES: Final[dict[str, Any]] = UsageEvent.model_json_schema()["properties"]

Reader = Callable[[str], Any]
"""Text of a cell, trimmed and not empty → the field's JSON value. Raises: ValueError, saying what is expected."""

_ISO: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<minute>\d\d:\d\d)(?P<second>:\d\d)?"
    r"(?:[.,](?P<fraction>\d{1,9}))? ?(?P<zone>Z|UTC|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII | re.IGNORECASE,
)
_EPOCH_NUMBER: Final = re.compile(r"\d{1,19}(\.\d{1,9})?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UNITS_US: Final = {"epoch-s": 1_000_000, "epoch-ms": 1_000, "epoch-us": 1}

TimeReader = Callable[[str], str]
"""Text of a cell → RFC 3339. Raises: ValueError, saying what is expected."""


class MappingError(ValueError):
    """A mapping that can't be applied: an unknown field or column, or a required field without a source."""


@dataclass(frozen=True)
class TableMapping:
    """``columns``: field → column; ``constants``: field → text. A tag of your own is the field ``tags.NAME``.

    A column with a field's exact name needs no mapping; a constant overrides it. Times without a zone are UTC, unless
    ``assume_utc`` is False. For ``time_format`` see ``time_reader``.

    Raises: MappingError, for a field that events don't have, or that has both a column and a constant.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    time_format: str = "iso"
    assume_utc: bool = True

    def __post_init__(self) -> None:
        for name in (*self.columns, *self.constants):
            if name == "tags":
                example = "tags.experiment=COLUMN"
                raise MappingError(f"tags is a set of names and values: give one tag at a time, e.g. {example}")
            if not _is_field(name):
                raise MappingError(f"Events have no field {name!r}{_closest(name, UsageEvent.model_fields)}")
        for name in self.columns.keys() & self.constants.keys():
            raise MappingError(
                f"{name} has both a column ({self.columns[name]}) and a value ({self.constants[name]!r}): remove one"
            )
        if "event_id" in self.constants:
            raise MappingError("event_id can't be the same in every row: map a column, or leave it out to mint ids")

    @classmethod
    def from_pairs(cls, maps: Iterable[str] = (), sets: Iterable[str] = (), **options: Any) -> "TableMapping":
        """Make a mapping of command-line pairs: ``occurred_at=TIMESTAMP`` to map, ``service=api`` to set.

        Raises: MappingError, for a pair without ``=``, or a field given twice.
        """
        return cls(_pairs(maps, "--map field=COLUMN"), _pairs(sets, "--set field=value"), **options)

    def bind(self, header: Sequence[str]) -> "BoundMapping":
        """Return the mapping applied to a table's header.

        Raises: MappingError, for a column that the table lacks or has twice, or a required field without a source.
        """
        named = {name: name for name in header if _is_field(name) and name not in self.constants}
        columns = {**named, **self.columns}
        places = {name: _place(column, name, header) for name, column in columns.items()}
        _check_required(places.keys() | self.constants.keys(), header)
        times = time_reader(self.time_format, assume_utc=self.assume_utc)
        constants: dict[str, Any] = {}
        for name, text in self.constants.items():
            try:
                _put(constants, name, _reader_of(name, times)(text))
            except ValueError as error:
                raise MappingError(f"--set {name}: {error}") from None
        cells = tuple((name, header[at], at, _reader_of(name, times)) for name, at in places.items())
        return BoundMapping(cells, constants, len(header))


class CellError(ValueError):
    """A cell whose text is not a value of its field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True)
class BoundMapping:
    """A mapping applied to a header. ``cells``: (field, column, position, reader)."""

    cells: tuple[tuple[str, str, int, Reader], ...]
    constants: Mapping[str, Any]
    width: int

    @property
    def gives_ids(self) -> bool:
        """Whether the table has event ids of its own."""
        return any(name == "event_id" for name, *_ in self.cells)

    def event(self, row: Sequence[str]) -> dict[str, Any]:
        """Return the event of a row of ``width`` cells; an empty cell is absent. Raises: CellError."""
        event = dict(self.constants)
        if "tags" in event:
            event["tags"] = dict(event["tags"])
        for name, column, at, read in self.cells:
            text = row[at].strip()
            if text:
                try:
                    value = read(text)
                except ValueError as error:
                    raise CellError(name, f"{name}, column {column}: {error}") from None
                if name in _PROPERTIES:
                    event[name] = value
                else:
                    _put(event, name, value)
        return event


def _put(event: dict[str, Any], name: str, value: Any) -> None:
    if name.startswith("tags."):
        event.setdefault("tags", {})[name.removeprefix("tags.")] = value
    else:
        event[name] = value


def _reader_of(name: str, times: TimeReader) -> Reader:
    """Return how the text of a cell becomes a value of a field, by the field's type in the contract's JSON Schema."""
    typed = _PROPERTIES.get(name, {"type": "string"})  # tags have no schema of their own
    kinds = {kind[key] for kind in typed.get("anyOf", [typed]) for key in ("type", "format") if key in kind}
    if "date-time" in kinds:
        return times
    if "string" in kinds:  # money too: its text is exact
        return str
    return _read_whole if "integer" in kinds else _read_number


def _read_whole(text: str) -> int:
    """Return a whole number; "374.0", as tables with gaps have it, is 374. Raises: ValueError."""
    if text.isdigit() and text.isascii() and len(text) <= 18:
        return int(text)
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text.partition(".")[0])


def _read_number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a number")
    return float(text)


def _pairs(given: Iterable[str], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name or not value:
            raise MappingError(f"{pair!r} doesn't have the form {form}")
        if name in pairs:
            raise MappingError(f"{name} is given twice, as {pairs[name]!r} and {value!r}: remove one")
        pairs[name] = value
    return pairs


def _is_field(name: str) -> bool:
    if name.startswith("tags."):
        return len(name) > len("tags.")
    return name in UsageEvent.model_fields and name != "tags"


def _place(column: str, name: str, header: Sequence[str]) -> int:
    found = [at for at, title in enumerate(header) if title == column]
    if len(found) == 1:
        return found[0]
    if found:
        raise MappingError(f"The table has {len(found)} columns {column!r}, which is mapped to {name}: rename one")
    raise MappingError(f"No column {column!r} to map to {name}{_closest(column, header)} Columns: {', '.join(header)}")


def _closest(name: str, known: Iterable[str]) -> str:
    by_folded = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), by_folded, n=1, cutoff=0.0)
    return f"; the closest is {by_folded[near[0]]!r}." if near else "."


def _check_required(given: Iterable[str], header: Sequence[str]) -> None:
    names = set(given)
    for required in _REQUIRED:
        if names.isdisjoint(required):
            what = "count (e.g. input_tokens)" if required is COUNTED else " or ".join(required)
            raise MappingError(
                f"No {what}, which every event needs: use --map {required[0]}=COLUMN or --set {required[0]}=value. "
                f"Columns: {', '.join(header)}"
            )


def time_reader(time_format: str = "iso", *, assume_utc: bool = True) -> TimeReader:
    """Return a reader for ``iso``, ``epoch-s``, ``epoch-ms``, ``epoch-us`` or a strptime pattern (``%d/%m/%Y %H:%M``).

    ``iso`` reads "2023-11-16 18:17:03.9799600" as 2023-11-16T18:17:03.979960Z: 1 to 9 decimals (those beyond
    microseconds are cut off), a T or a space, a zone or none. A time without a zone is UTC, or refused if
    ``assume_utc`` is False. A format that could be read two ways must be given.

    Raises: ValueError, for any other format.
    """
    if time_format == "iso":
        return lambda text: _read_iso(text, assume_utc)
    if time_format in _EPOCH_UNITS_US:
        return lambda text: _read_epoch(text, time_format)
    if "%" in time_format:
        return lambda text: _read_pattern(text, time_format, assume_utc)
    known = ", ".join(("iso", *_EPOCH_UNITS_US))
    raise ValueError(f"unknown time format {time_format!r}: use one of {known}, or a pattern such as %d/%m/%Y %H:%M:%S")


def _read_iso(text: str, assume_utc: bool) -> str:
    written = _ISO.fullmatch(text)
    if written is None:
        if _EPOCH_NUMBER.fullmatch(text):
            raise ValueError(f"{text!r} is a number: give its unit as the time format, e.g. epoch-s or epoch-ms")
        raise ValueError(f"{text!r} is not a valid time; expected e.g. 2026-01-31 12:00:00.5, or give the time format")
    day, minute, second, fraction, zone = written.groups()
    if zone is None and not assume_utc:
        raise ValueError(_no_zone(text))
    digits = f".{fraction[:6]}" if fraction else ""
    is_utc = zone is None or zone.upper() in ("Z", "UTC")
    offset = "Z" if is_utc else f"{zone[:3]}:{zone[-2:] if len(zone) > 3 else '00'}"
    return f"{day}T{minute}{second or ':00'}{digits}{offset}"


def _read_epoch(text: str, time_format: str) -> str:
    if _EPOCH_NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a number, as the time format {time_format} expects")
    microseconds = int(Decimal(text) * _EPOCH_UNITS_US[time_format])
    try:
        return _rfc3339(_EPOCH + timedelta(microseconds=microseconds))
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
