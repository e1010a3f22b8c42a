"""Reading files of usage: JSONL as it stands, CSV through a mapping. Each row is an event or an error by its line."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import BinaryIO, Literal

from streams.intake.csv import read_csv
from streams.intake.jsonl import read_jsonl
from streams.intake.mapping import MappingError, TableMapping
from streams.intake.row import Row, RowError, UsageRow

__all__ = ["MappingError", "Row", "RowError", "TableMapping", "UsageRow", "format_of", "read_usage"]

Format = Literal["jsonl", "csv"]


def format_of(name: str, mapping: TableMapping) -> Format:
    """Return what a file holds: CSV by its ending, or where a mapping of columns is given (as for stdin, ``-``)."""
    ending = PurePath(name).suffix.lower()
    if ending in (".csv", ".tsv"):
        return "csv"
    if ending in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    return "csv" if mapping.columns or mapping.constants else "jsonl"


def read_usage(
    source: BinaryIO,
    name: str,
    mapping: TableMapping | None = None,
    *,
    file_format: Format | None = None,
    id_namespace: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of a file of usage, opened in binary; ``name`` is its path, or ``-``.

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
