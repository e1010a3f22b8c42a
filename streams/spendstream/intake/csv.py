"""CSV: a foreign table of calls, one a row, made into usage events by a mapping of its columns."""

import csv
import hashlib
import uuid
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import msgspec

from spendstream.intake.mapping import BoundMapping, CellError, MappingError, TableMapping
from spendstream.intake.row import MAX_LINE_BYTES, Line, RowError, lines

ROW_IDS: Final = uuid.UUID("6f2b0f4e-0c0a-5d0b-9a43-7c6f1f6f3c55")
"""Namespace of minted ids. Changing it would make every import anew."""

_VARIANT: Final = {digit: f"{int(digit, 16) & 3 | 8:x}" for digit in "0123456789abcdef"}
"""The two leading bits of this digit say that it is a UUID of RFC 9562."""


def row_id(id_namespace: str, line: int, text: str) -> str:
    """Return the id of a row that has none: a UUID of version 5 over the namespace, the line and the row's own text.

    The same row in the same line of the same namespace has the same id, however its columns are mapped: importing a
    file twice counts once. To count it once more, after a mistaken import, give another namespace.
    """
    row = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    # as uuid.uuid5 and str make it, in a third of their time
    name = hashlib.sha1(ROW_IDS.bytes + f"{id_namespace}\n{line}\n{row}".encode(), usedforsecurity=False).hexdigest()
    return f"{name[:8]}-{name[8:12]}-5{name[13:16]}-{_VARIANT[name[16]]}{name[17:20]}-{name[20:32]}"


def read_csv(
    source: BinaryIO | Iterable[bytes], mapping: TableMapping, *, id_namespace: str, delimiter: str = ","
) -> Iterator[Line | RowError]:
    """Yield a record to judge for each row of a CSV table with a header line, or an error, by the row's first line.

    Cells are trimmed, an empty one is absent. Rows without an ``event_id`` get a minted one, see ``row_id``;
    ``id_namespace`` is the file's name unless the user gives another. UTF-8, with a byte-order mark or without.

    Raises: MappingError, before the first row, when the mapping doesn't fit the header.
    """
    records = _Records(source, delimiter)
    header = next(iter(records), None)
    if header is None:
        raise MappingError("The table is empty: a header line with the names of its columns is expected")
    if isinstance(header, RowError):
        raise MappingError(f"The header can't be read: {header.message}")
    bound = mapping.bind([title.strip() for title in header])
    if not bound.gives_ids and not id_namespace:
        raise MappingError("The rows have no event_id and the table no name: give an --id-namespace to mint ids from")
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
    """Records of a CSV, each with its own text and the line it starts in."""

    def __init__(self, source: BinaryIO | Iterable[bytes], delimiter: str) -> None:
        self.line = 0
        self._ahead = 1
        self._texts: list[str] = []
        self._reader = csv.reader(self._decoded(source), delimiter=delimiter, strict=True)

    @property
    def text(self) -> str:
        """The last record's own text, without its line end, so that a converted file keeps its ids."""
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
                yield RowError(self.line, None, self._explained(error))
                continue
            finally:
                self._ahead = self.line + len(self._texts)
            fault = self._fault()
            yield record if fault is None else RowError(self.line, None, fault)

    def _fault(self) -> str | None:
        for text in self._texts:
            if len(text) > MAX_LINE_BYTES:
                return f"longer than {MAX_LINE_BYTES} bytes"
            if not text.isascii() and not _encodes(text):
                return "not UTF-8; convert the file, as with iconv -f latin1 -t utf-8"
        return None

    def _decoded(self, source: BinaryIO | Iterable[bytes]) -> Iterator[str]:
        for number, line in enumerate(lines(source)):
            text = line.decode("utf-8", "surrogateescape")
            text = text if number else text.removeprefix("\ufeff")
            self._texts.append(text)
            yield text

    def _explained(self, error: csv.Error) -> str:
        hidden = len(self._texts) - 1
        cause = f". A quotation mark of this line is never closed: it hid {hidden} more lines" if hidden else ""
        return f"the row can't be read: {error}{cause}"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
