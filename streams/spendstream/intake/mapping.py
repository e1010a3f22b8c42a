"""Which column or path of a foreign file is which field of an event."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final

from spendstream.intake.cells import PROPERTIES, Reader, TimeReader, kind_of, reader_of, time_reader
from spendstream.intake.json_records import Record
from spendstream.intake.sources import MISSING, POSITIONS, Lookup, Source, member, parse
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from spendstream.schemas.usage import UsageEvent

COUNTED: Final = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "units", "gpu_seconds")
_REQUIRED: Final = (("occurred_at",), ("service",), ("provider",), ("model_requested", "model_served"), COUNTED)
_SHOWN_NAMES: Final = 40
_GROUPS: Final = {"tags": "tags.experiment", "units": "units.pages"}
"""Fields that are sets of names and values, with an example."""
_LISTS: Final = ("usage_notes",)
"""Fields that are lists of texts; a cell holds one."""


class MappingError(ValueError):
    """A mapping that can't be applied: an unknown field or column, or a required field without a source."""


@dataclass(frozen=True)
class TableMapping:
    """``columns``: field → column, path or arithmetic, see ``spendstream.intake.sources``; ``constants``: field → text.

    A tag of your own is the field ``tags.NAME``, a billable unit ``units.NAME``. A column or member with a field's
    exact name needs no mapping; a constant overrides it. ``values``: field → {text in the file → text to read in its
    place}, ``*`` for any characters; text that is not there stays. ``skips``: (column or path, text) of rows that are
    left out. ``each``: the path to the rows of a JSON document. Times without a zone are UTC, unless ``assume_utc`` is
    False. For ``time_format`` and ``time_base`` see ``time_reader``.

    Raises: MappingError, for a field that events don't have, or that has both a column and a constant.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    skips: Sequence[tuple[str, str]] = ()
    each: str = ""
    time_format: str = "iso"
    time_base: datetime | None = None
    assume_utc: bool = True

    def __post_init__(self) -> None:
        for name in (*self.columns, *self.constants, *self.values):
            if name in _GROUPS:
                example = f"{_GROUPS[name]}=COLUMN"
                raise MappingError(f"{name} is a set of names and values: give one at a time, e.g. {example}")
            if not _is_field(name):
                raise MappingError(f"Events have no field {name!r}{_closest(name, UsageEvent.model_fields)}")
        for name in self.columns.keys() & self.constants.keys():
            raise MappingError(
                f"{name} has both a column ({self.columns[name]}) and a value ({self.constants[name]!r}): remove one"
            )
        if "event_id" in self.constants:
            raise MappingError("event_id can't be the same in every row: map a column, or leave it out to mint ids")

    @classmethod
    def from_pairs(
        cls,
        maps: Iterable[str] = (),
        sets: Iterable[str] = (),
        values: Iterable[str] = (),
        skips: Iterable[str] = (),
        **options: Any,
    ) -> "TableMapping":
        """Make a mapping of command-line pairs: ``occurred_at=TIMESTAMP`` to map, ``service=api`` to set.

        ``values`` are ``model_requested:GPT 5 (high)=gpt-5``, ``skips`` are ``type=subagent``.

        Raises: MappingError, for a pair without ``=``, or a field given twice.
        """
        replaced: dict[str, dict[str, str]] = {}
        for given in values:
            whole, equals, text = given.rpartition("=")
            name, colon, old = whole.partition(":")
            if not equals or not colon or not old:
                raise MappingError(f"{given!r} doesn't have the form --value field:TEXT=value")
            replaced.setdefault(name.strip(), {})[old] = text
        return cls(
            _pairs(maps, "--map field=COLUMN"),
            _pairs(sets, "--set field=value"),
            replaced,
            tuple(_pair(given, "--skip COLUMN=text") for given in skips),
            **options,
        )

    @property
    def is_given(self) -> bool:
        """Whether rows are made into events at all: without a mapping, JSON is published unchanged."""
        return bool(self.columns or self.constants or self.values or self.skips)

    def bind(self, header: Sequence[str]) -> "BoundMapping":
        """Return the mapping applied to a table's header.

        Raises: MappingError, for a column that the table lacks or has twice, or a required field without a source.
        """
        named = {name: name for name in header if _is_field(name) and name not in self.constants}
        sources = self._sources(header, {**named, **self.columns})
        _check_required(sources.keys() | self.constants.keys(), header)
        times = self._times()
        plain, computed = [], []
        for name, source in sources.items():
            reader = self._reader(name, times)
            at = [_place(column, name, header, source) for column in source.names]
            if source.steps or source.text in POSITIONS:
                computed.append((name, source, reader))
            elif at[0] is not None:
                plain.append((name, source.text, at[0], reader))
        skips = self._skips(header)
        for skip, _ in skips:
            _place(skip.text, "--skip", header, skip)
        places = {column: at for at, column in enumerate(header)}
        return BoundMapping(
            tuple(plain), tuple(computed), skips, self._constants(times), len(header), places, self._by_name(named)
        )

    def bind_records(self, sample: Sequence[Record]) -> "BoundPaths":
        """Return the mapping applied to JSON objects, of which ``sample`` has the first.

        Raises: MappingError, for a path that leads nowhere in every one of them, or a required field without a source.
        """
        names = list(dict.fromkeys(name for record in sample for name in _paths(record.value)))
        named = {
            name: name
            for name in dict.fromkeys(name for record in sample for name in record.value)
            if _is_field(name) and name not in self.constants
        }
        sources = self._sources(dict.fromkeys(name for record in sample for name in record.value), self.columns)
        skips = self._skips(names)
        read = [(f"mapped to {name}", source) for name, source in sources.items()]
        for use, source in (*read, *(("of --skip", source) for source, _ in skips)):
            for path in source.names:
                if not source.optional and all(_at(record, path) is MISSING for record in sample):
                    raise MappingError(
                        f"None of the first {len(sample)} objects has {path!r}, {use}{_closest(path, names)} "
                        f"If few have it, write {path}? with a question mark. They have: {_listed(names)}"
                        if len(sample) > 1
                        else f"The first object has no {path!r}, {use}{_closest(path, names)} "
                        f"If others have it, write {path}? with a question mark. It has: {_listed(names)}"
                    )
        _check_required({**named, **sources}.keys() | self.constants.keys(), names)
        times = self._times()
        cells = tuple((name, source, self._reader(name, times)) for name, source in sources.items())
        readers = {name: self._reader(name, times) for name in UsageEvent.model_fields if name not in _GROUPS}
        own = {name: reader for name, reader in readers.items() if name not in (*sources, *self.constants)}
        return BoundPaths(cells, own, skips, self._constants(times), "event_id" in sources, self._by_name(named))

    def _sources(self, known: Iterable[str], columns: Mapping[str, str]) -> dict[str, Source]:
        names = {*known, *POSITIONS}
        found = {}
        for name, text in columns.items():
            try:
                found[name] = parse(text, names.__contains__, may_calculate=kind_of(name) != "text")
            except ValueError as error:
                raise MappingError(f"--map {name}: {error}") from None
        return found

    def _by_name(self, named: Iterable[str]) -> list[str]:
        """Return the counts that are read by their names although others are mapped: they may be parts of those."""
        if not any(name in COUNTED for name in self.columns):
            return []
        return [name for name in named if name in COUNTED and name not in self.columns]

    def _skips(self, known: Iterable[str]) -> tuple[tuple[Source, re.Pattern[str]], ...]:
        names = {*known, *POSITIONS}
        return tuple(
            (parse(text, names.__contains__, may_calculate=False), _pattern(value)) for text, value in self.skips
        )

    def _times(self) -> TimeReader:
        try:
            return time_reader(self.time_format, assume_utc=self.assume_utc, base=self.time_base)
        except ValueError as error:
            raise MappingError(str(error)) from None

    def _reader(self, name: str, times: TimeReader) -> Reader:
        read = reader_of(name, times)
        replaced = self.values.get(name)
        if not replaced:
            return read
        patterns = [(_pattern(old), new) for old, new in replaced.items() if "*" in old]

        def read_replaced(text: str) -> Any:
            new = replaced.get(text)
            if new is None:
                new = next((other for pattern, other in patterns if pattern.fullmatch(text)), text)
            return read(new) if new else None

        return read_replaced

    def _constants(self, times: TimeReader) -> dict[str, Any]:
        constants: dict[str, Any] = {}
        for name, text in self.constants.items():
            try:
                _put(constants, name, reader_of(name, times)(text))
            except ValueError as error:
                raise MappingError(f"--set {name}: {error}") from None
        return constants


class CellError(ValueError):
    """A cell whose text is not a value of its field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True)
class BoundMapping:
    """A mapping applied to a header. ``cells``: (field, column, position, reader); ``computed`` are not one column.

    ``by_name`` are counts read by their own names beside those that are mapped.
    """

    cells: tuple[tuple[str, str, int, Reader], ...]
    computed: tuple[tuple[str, Source, Reader], ...]
    skips: tuple[tuple[Source, re.Pattern[str]], ...]
    constants: Mapping[str, Any]
    width: int
    places: Mapping[str, int]
    by_name: Sequence[str]

    @property
    def gives_ids(self) -> bool:
        """Whether the table has event ids of its own."""
        return any(name == "event_id" for name, *_ in (*self.cells, *self.computed))

    def event(self, row: Sequence[str], file: str, line: int) -> dict[str, Any] | None:
        """Return the event of a row of ``width`` cells; an empty cell is absent. None: skipped. Raises: CellError."""
        event = _copied(self.constants)
        if self.computed or self.skips:

            def lookup(name: str) -> str | None:
                if (at := self.places.get(name)) is not None:
                    return row[at].strip() or None
                return {"@file": file, "@line": str(line)}.get(name)

            if _is_skipped(self.skips, lookup):
                return None
            _fill(event, self.computed, lookup, "column")
        for name, column, at, read in self.cells:
            text = row[at].strip()
            if text:
                try:
                    value = read(text)
                except ValueError as error:
                    raise CellError(name, f"{name}, column {column}: {error}") from None
                if value is None:
                    continue
                if name in PROPERTIES and name not in _LISTS:
                    event[name] = value
                else:
                    _put(event, name, value)
        return event


@dataclass(frozen=True)
class BoundPaths:
    """A mapping applied to JSON objects. ``own``: the fields that an object may have under their own names."""

    cells: tuple[tuple[str, Source, Reader], ...]
    own: Mapping[str, Reader]
    skips: tuple[tuple[Source, re.Pattern[str]], ...]
    constants: Mapping[str, Any]
    maps_ids: bool
    by_name: Sequence[str]

    def lacks_id(self, record: Record) -> bool:
        """Whether an object has no event id of its own, and none is mapped."""
        return not self.maps_ids and record.value.get("event_id") in (None, "")

    def event(self, record: Record, file: str) -> dict[str, Any] | None:
        """Return the event of an object; null and empty text are absent. None: skipped. Raises: CellError."""

        def lookup(path: str) -> str | None:
            if path == "@file":
                return file
            return _text(_at(record, path))

        if _is_skipped(self.skips, lookup):
            return None
        event = _copied(self.constants)
        for group in _GROUPS:
            if isinstance(stated := record.value.get(group), dict):
                try:
                    own_names = {name: _text(value) or "" for name, value in stated.items()}
                except ValueError as error:
                    raise CellError(group, f"{group}: a {group[:-1]} {error}") from None
                event[group] = {**own_names, **event.get(group, {})}
        listed = {name: value for name, value in record.value.items() if name in self.own and isinstance(value, list)}
        event.update(listed)
        own = ((name, Source(name), self.own[name]) for name in record.value if name in self.own and name not in listed)
        _fill(event, (*own, *self.cells), lookup, "path")
        return event


def _fill(event: dict[str, Any], cells: Iterable[tuple[str, Source, Reader]], lookup: Lookup, what: str) -> None:
    for name, source, read in cells:
        try:
            text = source.read(lookup)
            value = None if text is None else read(text)
            if isinstance(value, int) and value < 0 and source.steps:
                shown = ", ".join(f"{each} is {lookup(each)}" for each in source.names)
                raise ValueError(f"comes to {value}, and a count can't be negative: {shown}")
        except ValueError as error:
            raise CellError(name, f"{name}, {what} {source.text}: {error}") from None
        if value is not None:
            _put(event, name, value)


def _is_skipped(skips: Iterable[tuple[Source, re.Pattern[str]]], lookup: Lookup) -> bool:
    return any(pattern.fullmatch(lookup(source.text) or "") for source, pattern in skips)


def _at(record: Record, path: str) -> Any:
    if path == "@key":
        return record.key
    if path == "@line":
        return str(record.line)
    if path == "@file":
        return ""
    up = len(path) - len(path.lstrip("^"))
    if up == 0 or path in record.value:
        return member(record.value, path)
    return member(record.enclosing[up - 1], path[up:]) if up <= len(record.enclosing) else MISSING


def _text(value: Any) -> str | None:
    """Return a JSON value as the text of a cell. Raises: ValueError, for an object or a list."""
    if value is None or value is MISSING:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.strip() or None
    what, inner = ("an object", ".name") if isinstance(value, dict) else ("a list", ".0")
    raise ValueError(f"is {what}, not a value: map one of its members, as {inner} after it")


def _paths(value: Any, depth: int = 4) -> Iterable[str]:
    """Yield the dotted paths of an object's values, for messages."""
    for name, inner in value.items():
        if isinstance(inner, dict) and inner and depth:
            yield from (f"{name}.{path}" for path in _paths(inner, depth - 1))
        else:
            yield name


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _copied(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event that may change without the constants changing."""
    return {name: dict(value) if name in _GROUPS else value for name, value in constants.items()}


def _put(event: dict[str, Any], name: str, value: Any) -> None:
    group, _, inner = name.partition(".")
    if inner:
        event.setdefault(group, {})[inner] = value
    else:
        event[name] = [value] if name in _LISTS else value


def _pairs(given: Iterable[str], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given:
        name, value = _pair(pair, form)
        if name in pairs:
            raise MappingError(f"{name} is given twice, as {pairs[name]!r} and {value!r}: remove one")
        pairs[name] = value
    return pairs


def _pair(given: str, form: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    name = name.strip()
    if not equals or not name or not value:
        raise MappingError(f"{given!r} doesn't have the form {form}")
    return name, value


def _is_field(name: str) -> bool:
    group, _, inner = name.partition(".")
    return (group in _GROUPS) == bool(inner) and group in UsageEvent.model_fields


def _place(column: str, name: str, header: Sequence[str], source: Source) -> int | None:
    found = [at for at, title in enumerate(header) if title == column]
    if len(found) == 1:
        return found[0]
    if found:
        raise MappingError(f"The table has {len(found)} columns {column!r}, which is mapped to {name}: rename one")
    if source.optional or column in ("@file", "@line"):
        return None
    raise MappingError(f"No column {column!r} to map to {name}{_closest(column, header)} Columns: {_listed(header)}")


def _closest(name: str, known: Iterable[str]) -> str:
    by_folded = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), by_folded, n=1, cutoff=0.0)
    return f"; the closest is {by_folded[near[0]]!r}." if near else "."


def _check_required(given: Iterable[str], header: Sequence[str]) -> None:
    names = {"units" if name.startswith("units.") else name for name in given}
    for required in _REQUIRED:
        if names.isdisjoint(required):
            what = "count (e.g. input_tokens)" if required is COUNTED else " or ".join(required)
            raise MappingError(
                f"No {what}, which every event needs: use --map {required[0]}=COLUMN or --set {required[0]}=value. "
                f"The file has: {_listed(header)}"
            )
