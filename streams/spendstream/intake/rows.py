"""Rows of a file of usage: JSON as it is or mapped, CSV mapped. Each row is an event, or an error by its line.

Files may be compressed with gzip, whatever their name.
"""

import csv
import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import Any, BinaryIO, Final

import msgspec

from spendstream.core.decode import Rejection, explain
from spendstream.intake.files import (
    BOM,
    MAX_DOCUMENT_BYTES,
    MAX_LINE_BYTES,
    Damaged,
    Format,
    ending_of,
    format_of,
    json_or_lines,
    lines_of,
    unpacked,
    without_gz,
)
from spendstream.intake.json_records import JsonRecords, Left, Malformed, Record
from spendstream.intake.mapping import BoundMapping, BoundPaths, CellError, MappingError, TableMapping
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.usage import UsageEvent

ROW_IDS: Final = uuid.UUID("6f2b0f4e-0c0a-5d0b-9a43-7c6f1f6f3c55")
"""Namespace of minted ids. A change would give every row a new id, and count repeated imports again."""

_VARIANT: Final = {digit: f"{int(digit, 16) & 3 | 8:x}" for digit in "0123456789abcdef"}
"""The two leading bits of this digit mark a UUID of RFC 9562."""


_SAMPLE_ROWS: Final = 1_000
"""A path that none of the first objects has is taken for a mistake, before anything is published."""

_IN_LINE: Final = re.compile(r" at line 1 column (\d+)$")


@dataclass(frozen=True, slots=True)
class Line:
    """A row not validated yet. ``value``: the JSON record that it is, or was made into. ``line`` counts from 1.

    ``file`` is the path as it was given; ``place`` the row's path in a JSON document, ``.[2].results[0]``, else empty.
    """

    line: int
    value: bytes
    file: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A valid event. ``value`` is the record to publish: without a mapping the row's own bytes. Else as ``Line``."""

    line: int
    usage: UsageEvent
    value: bytes
    file: str = ""
    place: str = ""

    @property
    def key(self) -> bytes:
        """The record's Kafka key, ``UsageEvent.partition_key``."""
        return self.usage.partition_key


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that is not an event. ``field`` is the wrong field of the event, None if the whole line is wrong.

    ``column`` counts characters from 1, 0 if unknown. ``place`` is as in ``Line``.
    """

    line: int
    field: str | None
    message: str
    file: str = ""
    place: str = ""
    column: int = 0

    def __str__(self) -> str:
        if not self.file:
            return f"line {self.line}: {self.message}"
        file = "<stdin>" if self.file == "-" else self.file
        column = f":{self.column}" if self.column else ""
        return f"{file}:{self.line}{column}: {f'{self.place}: ' if self.place else ''}{self.message}"


Row = UsageRow | RowError


def read_lines(
    source: BinaryIO,
    name: str,
    mapping: TableMapping | None = None,
    *,
    file_format: Format | None = None,
    id_namespace: str | None = None,
    delimiter: str | None = None,
    left: Left | None = None,
) -> Iterator[Line | RowError]:
    """Yield the rows of a file of usage, opened in binary, not validated yet; ``name`` is its path, or ``-``.

    A row that can't be made into a record is an error: a CSV's row with missing cells, or text in place of a number.
    What the mapping leaves out is counted in ``left``.

    JSON without a mapping is read as events; a ``.json`` file may hold JSON lines. Minted ids are in the namespace
    ``id_namespace``, by default the file's name without its folder and ``.gz``; stdin has no name, so foreign rows from
    there need a namespace. ``delimiter`` defaults to a tab for ``.tsv``, else to a comma.

    Raises: MappingError, before the first row, if the mapping doesn't fit, or the file is in no format that is read.
    """
    mapping = mapping or TableMapping()
    namespace = id_namespace or ("" if name == "-" else PurePath(without_gz(name)).name)
    chosen = file_format or format_of(name, mapping)
    try:
        source, start = unpacked(source, name)
        if file_format is None and chosen == "csv" and ending_of(name) not in (".csv", ".tsv"):
            chosen = "json" if start[:1] in (b"{", b"[") else chosen
        if chosen == "csv":
            if mapping.each:
                raise MappingError(f"{name} is a table, and --each is a path in JSON: remove it, or use --format json")
            tab = ending_of(name) == ".tsv"
            rows: Iterator[Line | RowError] = read_csv(
                source,
                mapping,
                id_namespace=namespace,
                delimiter=delimiter or ("\t" if tab else ","),
                file=name,
                left=left,
            )
        else:
            seen: list[bytes] = []
            if chosen == "json" and file_format is None:
                chosen, seen = json_or_lines(source, 1 if name == "-" else 2)
            if chosen == "jsonl" and not mapping.is_given and not mapping.each:
                rows = read_jsonl(chain(seen, lines_of(source)), name)
            else:
                documents = _documents(chain(seen, lines_of(source))) if chosen == "jsonl" else _document(seen, source)
                rows = _read_json(documents, mapping, name, namespace, Left() if left is None else left)
    except Damaged as error:
        raise MappingError(f"{name}: {error}") from None
    return _until_damaged(rows, name)


Document = tuple[int, bytes]
"""The line on which it begins, and its text."""


def _documents(lines: Iterable[bytes]) -> Iterator[Document]:
    """Yield each line that is not blank."""
    return ((line.line, line.value) for line in read_jsonl(lines))


def _document(seen: list[bytes], source: BinaryIO) -> Iterator[Document]:
    """Yield what is left of a file, and what was seen before, as one document."""
    size, parts, damage = 0, seen, None
    try:
        while size <= MAX_DOCUMENT_BYTES and (part := source.read(1_000_000)):
            parts.append(part)
            size += len(part)
    except Damaged as error:
        damage = error
    yield 1, b"".join(parts).removeprefix(BOM)
    if damage is not None:
        raise damage


def _read_json(
    documents: Iterator[Document], mapping: TableMapping, file: str, id_namespace: str, left: Left
) -> Iterator[Line | RowError]:
    found = _records(documents, mapping.each, file, left)
    if not mapping.is_given:
        return _as_they_are(found, file)
    sample: list[Record | RowError] = []
    records: list[Record] = []
    damage: Damaged | None = None
    try:
        for row in found:
            sample.append(row)
            if isinstance(row, Record):
                records.append(row)
            if len(records) == (1 if file == "-" else _SAMPLE_ROWS):
                break
    except Damaged as error:
        damage = error
    if not records:
        return _then(iter([row for row in sample if isinstance(row, RowError)]), damage)
    bound = mapping.bind_records(records)
    if not id_namespace and any(bound.lacks_id(record) for record in records):
        raise MappingError("The rows have neither event_ids nor a name to mint ids from: give an --id-namespace")
    left.by_name.update(dict.fromkeys(bound.by_name))
    return _mapped(_then(chain(sample, found), damage), bound, file, id_namespace, left)


def _then(rows: Iterator[Any], damage: Damaged | None) -> Iterator[Any]:
    yield from rows
    if damage is not None:
        raise damage


def _records(documents: Iterator[Document], each: str, file: str, left: Left) -> Iterator[Record | RowError]:
    for line, value in documents:
        limit = MAX_DOCUMENT_BYTES
        if len(value) > limit:
            message = f"the document is longer than {limit:,} bytes: convert it to JSON lines, e.g. jq -c '.[]'"
            yield RowError(line, None, message, file)
            continue
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            before = value.count(b"\n", 0, error.start)
            message = "not UTF-8: convert the file, e.g. with iconv -f latin1 -t utf-8"
            yield RowError(line + before, None, message, file)
            continue
        for row in JsonRecords(text, each, left, line):
            if isinstance(row, Malformed):
                yield RowError(row.line, None, row.message, file, row.place, row.column)
            else:
                yield row


def _as_they_are(rows: Iterator[Record | RowError], file: str) -> Iterator[Line | RowError]:
    for row in rows:
        yield row if isinstance(row, RowError) else Line(row.line, row.text.encode(), file, _place(row))


def _mapped(
    rows: Iterator[Record | RowError], bound: BoundPaths, file: str, id_namespace: str, left: Left
) -> Iterator[Line | RowError]:
    encode = msgspec.json.Encoder().encode
    for row in rows:
        if isinstance(row, RowError):
            yield row
            continue
        place = _place(row)
        try:
            event = bound.event(row, file)
            if event is None:
                left.skipped += 1
                continue
            if bound.lacks_id(row):
                text = row.text if not place and not row.document else f"{row.document}{place}\n{row.text}"
                event["event_id"] = row_id(id_namespace, row.line, text)
            yield Line(row.line, encode(event), file, place)
        except CellError as error:
            yield RowError(row.line, error.field, error.message, file, place)
        except UnicodeEncodeError:
            yield RowError(
                row.line, None, "text holds unpaired surrogates (\\ud800 to \\udfff): remove them", file, place
            )


def _place(record: Record) -> str:
    return "" if record.place == "." else record.place


def _until_damaged(rows: Iterator[Line | RowError], file: str) -> Iterator[Line | RowError]:
    line = 0
    try:
        for row in rows:
            line = row.line
            yield row
    except Damaged as error:
        yield RowError(line + 1, None, f"{error}; the rows up to here are read", file)


def read_usage(source: BinaryIO, name: str, mapping: TableMapping | None = None, **options: Any) -> Iterator[Row]:
    """Yield the rows of a file of usage, each an event or an error. Arguments are those of ``read_lines``.

    Raises: MappingError, as ``read_lines``.
    """
    return map(check, read_lines(source, name, mapping, **options))


def check(row: Line | RowError) -> Row:
    """Validate a row by the contract of ``UsageEvent``. An error stays an error."""
    if isinstance(row, RowError):
        return row
    verdict = explain(row.value, MAX_LINE_BYTES)
    if isinstance(verdict, Rejection):
        return rejected(row, verdict)
    return UsageRow(row.line, verdict, row.value, row.file, row.place)


def rejected(row: Line, why: Rejection) -> RowError:
    """Return the contract's rejection of a row as an error of its line, and of its column where it is not JSON."""
    message, column = why.message, 0
    if why.reason is Reason.NOT_JSON:
        if at := _IN_LINE.search(message):
            message, column = message[: at.start()], int(at[1])
        message += "; a line must be one JSON object. For a document over several lines use --format json"
    return RowError(row.line, why.field, message, row.file, row.place, column)


def read_jsonl(source: BinaryIO | Iterable[bytes], file: str = "") -> Iterator[Line]:
    """Yield each line that is not blank, trimmed and not validated. Never raises."""
    for number, text in enumerate(lines_of(source), start=1):
        value = text.removeprefix(BOM).strip() if number == 1 else text.strip()
        if value:
            yield Line(number, value, file)


def row_id(id_namespace: str, line: int, text: str) -> str:
    """Return an id for a row without one: a UUID of version 5 over the namespace, the line and the row's own text.

    The same row on the same line of the same namespace has the same id, however its columns are mapped: importing a
    file twice counts once. To count it again, after a mistaken import, give another namespace.
    """
    row = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    # as uuid.uuid5 and str do, in a third of the time
    name = hashlib.sha1(ROW_IDS.bytes + f"{id_namespace}\n{line}\n{row}".encode(), usedforsecurity=False).hexdigest()
    return f"{name[:8]}-{name[8:12]}-5{name[13:16]}-{_VARIANT[name[16]]}{name[17:20]}-{name[20:32]}"


def read_csv(
    source: BinaryIO | Iterable[bytes],
    mapping: TableMapping,
    *,
    id_namespace: str,
    delimiter: str = ",",
    file: str = "",
    left: Left | None = None,
) -> Iterator[Line | RowError]:
    """Yield a record or an error for each row of a CSV table with a header line, by the row's first line.

    Cells are trimmed, an empty one is absent. Rows without an ``event_id`` get a minted one, see ``row_id``;
    ``id_namespace`` is the file's name unless the user gives another. UTF-8, with or without a byte-order mark.

    Raises: MappingError, before the first row, if the mapping doesn't fit the header.
    """
    records = _Records(source, delimiter, file)
    header = next(iter(records), None)
    if header is None:
        raise MappingError("The table is empty: expected a header line with the names of its columns")
    if isinstance(header, RowError):
        raise MappingError(f"The header can't be read: {header.message}")
    bound = mapping.bind([title.strip() for title in header])
    if not bound.gives_ids and not id_namespace:
        raise MappingError("The table has neither event_ids nor a name to mint ids from: give an --id-namespace")
    left = Left() if left is None else left
    left.by_name.update(dict.fromkeys(bound.by_name))
    return _rows(records, bound, id_namespace, left)


def _rows(records: "_Records", bound: BoundMapping, id_namespace: str, left: Left) -> Iterator[Line | RowError]:
    mints = not bound.gives_ids
    encode = msgspec.json.Encoder().encode
    for record in records:
        if isinstance(record, RowError):
            yield record
            continue
        if not record:
            continue
        line = records.line
        if len(record) != bound.width:
            message = f"{len(record)} cells, but the header has {bound.width} columns"
            hint = ": quote cells that hold the delimiter, or give another --delimiter"
            yield RowError(line, None, message + hint, records.file)
            continue
        try:
            event = bound.event(record, records.file, line)
        except CellError as error:
            yield RowError(line, error.field, error.message, records.file)
            continue
        if event is None:
            left.skipped += 1
            continue
        if mints:
            event["event_id"] = row_id(id_namespace, line, records.text)
        yield Line(line, encode(event), records.file)


class _Records:
    """Records of a CSV, each with its own text and the line it starts on."""

    def __init__(self, source: BinaryIO | Iterable[bytes], delimiter: str, file: str = "") -> None:
        self.file = file
        self.line = 0
        self._ahead = 1
        self._texts: list[str] = []
        self._reader = csv.reader(self._decoded(source), delimiter=delimiter, strict=True)

    @property
    def text(self) -> str:
        """The last record's own text, without its line end, so that a file with converted line ends keeps its ids."""
        return "".join(self._texts).replace("\r\n", "\n").rstrip("\n")

    def __iter__(self) -> Iterator[list[str] | RowError]:
        while True:
            self.line = self._ahead
            self._texts.clear()
            try:
                record = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                hidden = len(self._texts) - 1
                more = f"{hidden} more line{'s' if hidden > 1 else ''}"
                cause = f": a quote on this line is never closed, and hides {more}" if hidden else ""
                yield RowError(self.line, None, f"the row can't be read: {error}{cause}", self.file)
                continue
            finally:
                self._ahead = self.line + len(self._texts)
            problem = self._problem()
            yield record if problem is None else RowError(self.line, None, problem, self.file)

    def _problem(self) -> str | None:
        for text in self._texts:
            if len(text) > MAX_LINE_BYTES:
                return f"the line is longer than {MAX_LINE_BYTES} bytes"
            try:
                text.encode()
            except UnicodeEncodeError:  # what _decoded could not decode
                return "not UTF-8: convert the file, e.g. with iconv -f latin1 -t utf-8"
        return None

    def _decoded(self, source: BinaryIO | Iterable[bytes]) -> Iterator[str]:
        for number, line in enumerate(lines_of(source)):
            text = line.decode("utf-8", "surrogateescape")
            text = text if number else text.removeprefix("\ufeff")
            self._texts.append(text)
            yield text
