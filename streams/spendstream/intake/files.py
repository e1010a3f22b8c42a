"""Opening a file of usage: its format, its compression, its lines. What is in them is for ``rows``."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import BinaryIO, Final, Literal, cast

from spendstream.intake.mapping import MappingError, TableMapping

Format = Literal["jsonl", "json", "csv"]

MAX_LINE_BYTES: Final = 1_000_000
"""Longest line that is read. A Kafka record holds no more, and a file without line ends must not fill the memory."""

MAX_DOCUMENT_BYTES: Final = 512_000_000
"""Largest JSON document, which is held in memory. JSON lines have no limit."""

BOM: Final = b"\xef\xbb\xbf"


_FOREIGN: Final = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet: unpack it, or export it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it, e.g. zstd -dc FILE | spendstream price -",
    b"BZh": "compressed with bzip2: unpack it, e.g. bzip2 -dc FILE | spendstream price -",
    b"\xfd7zX": "compressed with xz: unpack it, e.g. xz -dc FILE | spendstream price -",
    b"PAR1": "a Parquet file: export it as CSV or JSON lines",
    b"\xff\xfe": "UTF-16: convert it, e.g. iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "UTF-16: convert it, e.g. iconv -f utf-16 -t utf-8",
}


class Damaged(Exception):
    """The file's compression is broken from here on."""


def format_of(name: str, mapping: TableMapping) -> Format:
    """Return a file's format: by its ending, else CSV if a mapping is given (as for stdin, ``-``)."""
    ending = ending_of(name)
    if ending in (".csv", ".tsv"):
        return "csv"
    if ending in (".jsonl", ".ndjson"):
        return "jsonl"
    if ending == ".json" or mapping.each:
        return "json"
    return "csv" if mapping.is_given else "jsonl"


def ending_of(name: str) -> str:
    return PurePath(without_gz(name)).suffix.lower()


def without_gz(name: str) -> str:
    return name[: -len(".gz")] if name.lower().endswith(".gz") else name


class _Gunzipped:
    """The text of a gzip file. Raises: Damaged, where the file is cut off or broken."""

    def __init__(self, source: BinaryIO) -> None:
        self._file = gzip.GzipFile(fileobj=source)

    def readline(self, limit: int = -1) -> bytes:
        return self._read(self._file.readline, limit)

    def read(self, limit: int = -1) -> bytes:
        return self._read(self._file.read, limit)

    def peek(self, limit: int) -> bytes:
        return self._read(self._file.peek, limit)

    def _read(self, method: Callable[[int], bytes], limit: int) -> bytes:
        try:
            return method(limit)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Damaged(f"the gzip file is damaged ({str(error).rstrip('.')}): get it again") from None


def unpacked(source: BinaryIO, name: str) -> tuple[BinaryIO, bytes]:
    """Return the source, decompressed if it is gzip, and its first bytes. Raises: MappingError, for another format."""
    start = _peek(source)
    if start.startswith(b"\x1f\x8b"):
        source = cast(BinaryIO, _Gunzipped(source))
        start = _peek(source)
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise MappingError(f"{name} is {what}")
    return source, start.removeprefix(BOM).lstrip()


def _peek(source: BinaryIO) -> bytes:
    peek = getattr(source, "peek", None)
    if peek is not None:
        return bytes(peek(64))
    start = source.read(64)
    source.seek(-len(start), 1)
    return start


def json_or_lines(source: BinaryIO, needed: int) -> tuple[Format, list[bytes]]:
    """Return what a ``.json`` file holds, and the lines read to find out.

    It is JSON lines if the first of ``needed`` lines is a whole object. A feed must not have to wait for a second line.
    """
    seen: list[bytes] = []
    whole = 0
    while whole < needed and (line := source.readline(MAX_DOCUMENT_BYTES)):
        seen.append(line)
        text = line.removeprefix(BOM).strip()
        if not text:
            continue
        if not (text.startswith(b"{") and (whole or text.endswith(b"}"))):
            break
        whole += 1
    return "jsonl" if whole == needed else "json", seen


def lines_of(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
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
