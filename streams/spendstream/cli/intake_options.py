"""The options shared by every command that reads a file of usage, and how they become rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO, Final, cast

import typer

from spendstream.cli.console import refuse
from spendstream.intake import Line, MappingError, Row, RowError, TableMapping, check, read_lines

INVALID_EXIT: Final = 1
SHOWN_ERRORS: Final = 20


class FileFormat(StrEnum):
    """The format of a file of usage."""

    JSONL = "jsonl"
    CSV = "csv"


FileArgument = Annotated[str, typer.Argument(metavar="FILE|-", help="A file of usage, or - for standard input.")]
FormatOption = Annotated[
    FileFormat | None, typer.Option("--format", help="Default: from the file's extension; csv if columns are mapped.")
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FIELD=COLUMN", help="Read a field from this CSV column; repeatable."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set a field in every row; repeatable."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--id-namespace", help="Derive missing event ids from this. Default: the file's name."),
]
TimeFormatOption = Annotated[
    str, typer.Option("--time-format", help="iso, epoch-s, epoch-ms, epoch-us, or a pattern such as '%d/%m/%Y %H:%M'.")
]
DelimiterOption = Annotated[str | None, typer.Option("--delimiter", help="Of a CSV. Default: a comma; a tab for .tsv.")]
AssumeUtcOption = Annotated[
    bool, typer.Option("--assume-utc/--no-assume-utc", help="Read times without a zone as UTC, or reject them.")
]


@dataclass(frozen=True)
class Intake:
    """A file of usage, and how to read it."""

    file: str
    file_format: FileFormat | None
    maps: list[str] | None
    sets: list[str] | None
    id_namespace: str | None
    time_format: str
    delimiter: str | None
    assume_utc: bool

    @property
    def size_bytes(self) -> int | None:
        """The file's size; None for standard input."""
        return None if self.file == "-" else Path(self.file).stat().st_size

    @contextmanager
    def open(self) -> Iterator[Counted]:
        """Open the file. Exits with status 2 if it does not exist."""
        if self.file == "-":
            yield Counted(sys.stdin.buffer)
            return
        path = Path(self.file)
        if not path.is_file():
            refuse(f"{self.file}: no such file")
        with path.open("rb") as opened:
            yield Counted(opened)

    def rows(self, source: Counted) -> Iterator[Row]:
        """Return the file's rows, each validated. Exits with status 2 if the mapping is wrong."""
        return map(check, self.lines(source))

    def lines(self, source: Counted) -> Iterator[Line | RowError]:
        """Return the file's rows, not validated yet. Exits with status 2 if the mapping is wrong."""
        try:
            if self.delimiter is not None and len(self.delimiter) != 1:
                raise MappingError(f"--delimiter {self.delimiter!r} must be one character")
            mapping = TableMapping.from_pairs(
                self.maps or (), self.sets or (), time_format=self.time_format, assume_utc=self.assume_utc
            )
            return read_lines(
                cast(BinaryIO, source),
                self.file,
                mapping,
                file_format=None if self.file_format is None else self.file_format.value,
                id_namespace=self.id_namespace,
                delimiter=self.delimiter,
            )
        except ValueError as error:  # MappingError, or an invalid time format
            refuse(str(error))


class Counted:
    """A binary source that counts the bytes read from it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.bytes_read = 0

    def readline(self, limit: int = -1) -> bytes:
        """Read a line of at most ``limit`` bytes."""
        line = self._source.readline(limit)
        self.bytes_read += len(line)
        return line


class RowErrors:
    """Reports invalid rows on stderr: each of the first ones, then a count of the rest."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: RowError) -> None:
        self.count += 1
        if self.count <= SHOWN_ERRORS:
            typer.echo(str(error), err=True)

    def close(self) -> None:
        """Report how many were not shown."""
        if self.count > SHOWN_ERRORS:
            typer.echo(f"and {self.count - SHOWN_ERRORS:,} more invalid rows", err=True)
