"""Rows of a file of usage: JSONL as it is, CSV through a mapping. Each row is an event, or an error by its line."""

import csv
import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO, Final, Literal

import msgspec

from spendstream.core.decode import Rejection, explain
from spendstream.intake.mapping import BoundMapping, CellError, MappingError, TableMapping
from spendstream.schemas.usage import UsageEvent

Format = Literal["jsonl", "csv"]

MAX_LINE_BYTES: Final = 1_000_000
"""Longest line that is read. A Kafka record holds no more, and a file without line ends must not fill the memory."""

ROW_IDS: Final = uuid.UUID("6f2b0f4e-0c0a-5d0b-9a43-7c6f1f6f3c55")
"""Namespace of minted ids. A change would give every row a new id, and count repeated imports again."""

_VARIANT: Final = {digit: f"{int(digit, 16) & 3 | 8:x}" for digit in "0123456789abcdef"}
"""The two leading bits of this digit mark a UUID of RFC 9562."""

_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A row not validated yet. ``value``: the JSON record that it is, or was made into. ``line`` counts from 1."""

    line: int
    value: bytes


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A valid event. ``value`` is the record to publish: for JSONL the line's own bytes. ``line`` counts from 1."""

    line: int
    usage: UsageEvent
    value: bytes

    @property
    def key(self) -> bytes:
        """The record's Kafka key, ``UsageEvent.partition_key``."""
        return self.usage.partition_key


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that is not an event. ``field`` is the wrong field of the event, None if the whole line is wrong."""

    line: int
    field: str | None
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


Row = UsageRow | RowError


def format_of(name: str, mapping: TableMapping) -> Format:
    """Return a file's format: by its ending, else CSV if a mapping is given (as for stdin, ``-``)."""
    ending = PurePath(name).suffix.lower()
    if ending in (".csv", ".tsv"):
        return "csv"
    if ending in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    return "csv" if mapping.columns or mapping.constants else "jsonl"


def read_lines(
    source: BinaryIO,
    name: str,
    mapping: TableMapping | None = None,
    *,
    file_format: Format | None = None,
    id_namespace: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Line | RowError]:
    """Yield the rows of a file of usage, opened in binary, not validated yet; ``name`` is its path, or ``-``.

    A row that can't be made into a record is an error: a CSV's row with missing cells, or text in place of a number.

    Minted ids are in the namespace ``id_namespace``, by default the file's name without its folder; stdin has no name,
    so a table from there needs a namespace. ``delimiter`` defaults to a tab for ``.tsv``, else to a comma.

    Raises: MappingError, before the first row, if the mapping doesn't fit, or is given for JSONL.
    """
    mapping = mapping or TableMapping()
    if (file_format or format_of(name, mapping)) == "csv":
        namespace = id_namespace or ("" if name == "-" else PurePath(name).name)
        return read_csv(
            source,
            mapping,
            id_namespace=namespace,
            delimiter=delimiter or ("\t" if name.lower().endswith(".tsv") else ","),
        )
    if mapping.columns or mapping.constants:
        raise MappingError(f"{name} holds JSON lines, which are published unchanged: use a mapping only for CSV")
    return read_jsonl(source)


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
        return RowError(row.line, verdict.field, verdict.message)
    return UsageRow(row.line, verdict, row.value)


def read_jsonl(source: BinaryIO | Iterable[bytes]) -> Iterator[Line]:
    """Yield each line that is not blank, trimmed and not validated. Never raises."""
    for number, text in enumerate(_lines(source), start=1):
        value = text.removeprefix(_BOM).strip() if number == 1 else text.strip()
        if value:
            yield Line(number, value)


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
    source: BinaryIO | Iterable[bytes], mapping: TableMapping, *, id_namespace: str, delimiter: str = ","
) -> Iterator[Line | RowError]:
    """Yield a record or an error for each row of a CSV table with a header line, by the row's first line.

    Cells are trimmed, an empty one is absent. Rows without an ``event_id`` get a minted one, see ``row_id``;
    ``id_namespace`` is the file's name unless the user gives another. UTF-8, with or without a byte-order mark.

    Raises: MappingError, before the first row, if the mapping doesn't fit the header.
    """
    records = _Records(source, delimiter)
    header = next(iter(records), None)
    if header is None:
        raise MappingError("The table is empty: expected a header line with the names of its columns")
    if isinstance(header, RowError):
        raise MappingError(f"The header can't be read: {header.message}")
    bound = mapping.bind([title.strip() for title in header])
    if not bound.gives_ids and not id_namespace:
        raise MappingError("The table has neither event_ids nor a name to mint ids from: give an --id-namespace")
    return _rows(records, bound, id_namespace)


def _rows(records: "_Records", bound: BoundMapping, id_namespace: str) -> Iterator[Line | RowError]:
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
            yield RowError(line, None, f"{len(record)} cells, but the header has {bound.width} columns")
            continue
        try:
            event = bound.event(record)
        except CellError as error:
            yield RowError(line, error.field, error.message)
            continue
        if mints:
            event["event_id"] = row_id(id_namespace, line, records.text)
        yield Line(line, encode(event))


class _Records:
    """Records of a CSV, each with its own text and the line it starts on."""

    def __init__(self, source: BinaryIO | Iterable[bytes], delimiter: str) -> None:
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
                yield RowError(self.line, None, f"the row can't be read: {error}{cause}")
                continue
            finally:
                self._ahead = self.line + len(self._texts)
            problem = self._problem()
            yield record if problem is None else RowError(self.line, None, problem)

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
        for number, line in enumerate(_lines(source)):
            text = line.decode("utf-8", "surrogateescape")
            text = text if number else text.removeprefix("\ufeff")
            self._texts.append(text)
            yield text


def _lines(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file or an iterable with their ends; of a line that is too long, its beginning."""
    readline = getattr(source, "readline", None)
    if readline is None:
        yield from source
        return
    while line := readline(MAX_LINE_BYTES + 2):
        rest = line
        while not rest.endswith(b"\n") and len(rest) == MAX_LINE_BYTES + 2:
            rest = readline(MAX_LINE_BYTES + 2)
        yield line
