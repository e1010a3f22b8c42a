"""Reading files of usage: JSONL as it stands, CSV through a mapping. Each row is an event or an error by its line."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, BinaryIO, Literal

from spendstream.intake.csv import read_csv
from spendstream.intake.jsonl import read_jsonl
from spendstream.intake.mapping import MappingError, TableMapping
from spendstream.intake.row import Line, Row, RowError, UsageRow, check

__all__ = [
    "Line",
    "MappingError",
    "Row",
    "RowError",
    "TableMapping",
    "UsageRow",
    "format_of",
    "read_lines",
    "read_usage",
]

Format = Literal["jsonl", "csv"]


def format_of(name: str, mapping: TableMapping) -> Format:
    """Return what a file holds: CSV by its ending, or where a mapping of columns is given (as for stdin, ``-``)."""
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
    """Yield the rows of a file of usage, opened in binary, not judged yet; ``name`` is its path, or ``-``.

    An error is what could not even be made into a record: a CSV's row with cells missing, a cell that is no number.

    Minted ids are in the namespace ``id_namespace``, by default the file's name without its folder; stdin has no name,
    so a table from there needs one. ``delimiter`` is a tab for ``.tsv``, else a comma, unless given.

    Raises: MappingError, before the first row, when the mapping doesn't fit, or is given for JSONL.
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
        raise MappingError(f"{name} holds usage events as JSON lines, which are published as they stand; map only CSV")
    return read_jsonl(source)


def read_usage(source: BinaryIO, name: str, mapping: TableMapping | None = None, **options: Any) -> Iterator[Row]:
    """Yield the rows of a file of usage, judged one by one: events or errors. Arguments are those of ``read_lines``.

    Raises: MappingError, as ``read_lines``.
    """
    return map(check, read_lines(source, name, mapping, **options))
