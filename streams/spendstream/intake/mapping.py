"""Which column of a foreign table is which field of an event, and how its cells become values."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from spendstream.intake.times import TimeReader, time_reader
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from spendstream.schemas.usage import UsageEvent

COUNTED: Final = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "gpu_seconds")
_NEEDED: Final = (("occurred_at",), ("service",), ("provider",), ("model_requested", "model_served"), COUNTED)
_WHOLE: Final = re.compile(r"[+-]?\d{1,18}(\.0{1,9})?", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,3})?", re.ASCII)

_PROPERTIES: Final[dict[str, Any]] = UsageEvent.model_json_schema()["properties"]

Reader = Callable[[str], Any]
"""Text of a cell, trimmed and not empty → the field's JSON value. Raises: ValueError, saying what is expected."""


class MappingError(ValueError):
    """A mapping that can't be applied: an unknown field or column, or a field that an event needs and nothing gives."""


@dataclass(frozen=True)
class TableMapping:
    """``columns``: field → column; ``constants``: field → text. A tag of your own is the field ``tags.NAME``.

    A column that bears a field's very name is that field without being mapped; a constant wins over it.
    Times without a zone are UTC, unless ``assume_utc`` is False. For ``time_format`` see ``time_reader``.

    Raises: MappingError, for a field that events don't have, or that has both a column and a constant.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    time_format: str = "iso"
    assume_utc: bool = True

    def __post_init__(self) -> None:
        for name in (*self.columns, *self.constants):
            _check_field(name)
        for name in self.columns.keys() & self.constants.keys():
            raise MappingError(
                f"{name} has both a column ({self.columns[name]}) and a value ({self.constants[name]!r})"
            )
        if "event_id" in self.constants:
            raise MappingError("event_id differs from row to row: map a column, or leave it out to have ids minted")

    @classmethod
    def from_pairs(cls, maps: Iterable[str] = (), sets: Iterable[str] = (), **options: Any) -> "TableMapping":
        """Make a mapping of command-line pairs: ``occurred_at=TIMESTAMP`` to map, ``service=api`` to set.

        Raises: MappingError, for a pair without ``=``, or a field given twice.
        """
        return cls(_pairs(maps, "--map field=COLUMN"), _pairs(sets, "--set field=value"), **options)

    def bind(self, header: Sequence[str]) -> "BoundMapping":
        """Return the mapping applied to a table's header.

        Raises: MappingError, for a column the table lacks or has twice, or a field that events need and nothing gives.
        """
        named = {name: name for name in header if _is_field(name) and name not in self.constants}
        columns = {**named, **self.columns}
        places = {name: _place(column, name, header) for name, column in columns.items()}
        _check_needs(places.keys() | self.constants.keys(), header)
        times = time_reader(self.time_format, assume_utc=self.assume_utc)
        constants: dict[str, Any] = {}
        for name, text in self.constants.items():
            try:
                _put(constants, name, reader_of(name, times)(text))
            except ValueError as error:
                raise MappingError(f"--set {name}: {error}") from None
        cells = tuple((name, header[at], at, reader_of(name, times)) for name, at in places.items())
        return BoundMapping(cells, constants, len(header))


class CellError(ValueError):
    """A cell that its field can't take."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True)
class BoundMapping:
    """A mapping that knows where its columns are. ``cells``: (field, column, position, reader)."""

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


def reader_of(name: str, times: TimeReader) -> Reader:
    """Return how the text of a cell becomes a value of a field, as the contract's JSON Schema types it."""
    kinds = _kinds(name)
    if "date-time" in kinds:
        return times
    if "string" in kinds:  # an amount of money too: its text is exact
        return str
    return read_whole if "integer" in kinds else read_number


def _kinds(name: str) -> set[str]:
    """Return the JSON types and formats that a field takes: ``{"integer", "null"}``."""
    typed = _PROPERTIES.get(name, {"type": "string"})  # else a tag
    kinds = typed.get("anyOf", [typed])
    return {kind[key] for kind in kinds for key in ("type", "format") if key in kind}


def read_whole(text: str) -> int:
    """Return a whole number; "374.0", as tables with gaps write it, is 374. Raises: ValueError."""
    if text.isdigit() and text.isascii() and len(text) <= 18:
        return int(text)
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text.partition(".")[0])


def read_number(text: str) -> float:
    """Return a number. Raises: ValueError."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is no number")
    return float(text)


def _pairs(given: Iterable[str], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name or not value:
            raise MappingError(f"{pair!r} is not of the form {form}")
        if name in pairs:
            raise MappingError(f"{name} is given twice: {pairs[name]!r} and {value!r}")
        pairs[name] = value
    return pairs


def _is_field(name: str) -> bool:
    if name.startswith("tags."):
        return len(name) > len("tags.")
    return name in UsageEvent.model_fields and name != "tags"


def _check_field(name: str) -> None:
    if _is_field(name):
        return
    if name == "tags":
        raise MappingError("tags is a set of names and values: give one of them, as tags.experiment=COLUMN")
    raise MappingError(f"An event has no field {name!r}{_closest(name, UsageEvent.model_fields)}")


def _place(column: str, name: str, header: Sequence[str]) -> int:
    found = [at for at, title in enumerate(header) if title == column]
    if len(found) == 1:
        return found[0]
    if found:
        raise MappingError(f"Column {column!r}, mapped to {name}, is there {len(found)} times: rename one")
    raise MappingError(f"No column {column!r} to map to {name}{_closest(column, header)} Columns: {', '.join(header)}")


def _closest(name: str, known: Iterable[str]) -> str:
    by_folded = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), by_folded, n=1, cutoff=0.0)
    return f"; the closest is {by_folded[near[0]]!r}." if near else "."


def _check_needs(given: Iterable[str], header: Sequence[str]) -> None:
    names = set(given)
    for needed in _NEEDED:
        if names.isdisjoint(needed):
            one = needed[0] if needed is not COUNTED else "a count, as input_tokens"
            raise MappingError(
                f"Nothing gives {' or '.join(needed) if len(needed) < 3 else one}, which every event needs: "
                f"--map {needed[0]}=COLUMN or --set {needed[0]}=value. Columns: {', '.join(header)}"
            )
