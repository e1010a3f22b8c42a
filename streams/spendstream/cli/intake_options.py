"""The options shared by every command that reads a file of usage, and how they become rows."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Annotated, BinaryIO, Final, cast

import typer

from spendstream.cli.console import refuse, utc_time
from spendstream.intake import Left, Line, MappingError, Row, RowError, TableMapping, check, read_lines

INVALID_EXIT: Final = 1
SHOWN_ERRORS: Final = 20


class FileFormat(StrEnum):
    """The format of a file of usage."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"


FilesArgument = Annotated[
    list[str],
    typer.Argument(metavar="FILE|-...", help="Files of usage, gzipped or not, or - for standard input."),
]
FormatOption = Annotated[
    FileFormat | None,
    typer.Option("--format", help="Default: from the file's extension; of standard input, from its start."),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=SOURCE",
        help="Read a field from a column, a path (usage.total) or arithmetic (total-cached); repeatable.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set a field in every row; repeatable."),
]
ValueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--value",
        metavar="FIELD:TEXT=VALUE",
        help="Read VALUE where the file has TEXT, * for any characters: 'model_served:prod-*=gpt-5'; repeatable.",
    ),
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option("--skip", metavar="SOURCE=TEXT", help="Leave out rows with this text in a column; repeatable."),
]
EachOption = Annotated[
    str,
    typer.Option("--each", metavar="PATH", help="The path to the rows in JSON: data.results; * for any name."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--id-namespace", help="Derive missing event ids from this. Default: the file's name."),
]
TimeFormatOption = Annotated[
    str, typer.Option("--time-format", help="iso, epoch-s, epoch-ms, epoch-us, or a pattern such as '%d/%m/%Y %H:%M'.")
]
TimeBaseOption = Annotated[
    datetime | None,
    typer.Option(
        "--time-base",
        parser=utc_time,
        metavar="TIME",
        help="Times are numbers since this one, in the unit of --time-format: s, ms or us.",
    ),
]
DelimiterOption = Annotated[str | None, typer.Option("--delimiter", help="Of a CSV. Default: a comma; a tab for .tsv.")]
AssumeUtcOption = Annotated[
    bool, typer.Option("--assume-utc/--no-assume-utc", help="Read times without a zone as UTC, or reject them.")
]


@dataclass
class Intake:
    """Files of usage, and how to read them. ``bytes_read`` and ``rows_read`` count as they are read."""

    files: list[str]
    file_format: FileFormat | None
    maps: list[str] | None
    sets: list[str] | None
    values: list[str] | None
    skips: list[str] | None
    each: str
    id_namespace: str | None
    time_format: str
    time_base: datetime | None
    delimiter: str | None
    assume_utc: bool
    bytes_read: int = 0
    rows_read: int = 0
    left: Left = field(default_factory=Left)

    @property
    def size_bytes(self) -> int | None:
        """The size of all files; None if one is standard input."""
        return None if "-" in self.files else sum(Path(file).stat().st_size for file in self.files)

    def rows(self) -> Iterator[Row]:
        """Return the rows of all files, each validated. Exits with status 2 as ``lines``."""
        return map(check, self.lines())

    def lines(self) -> Iterator[Line | RowError]:
        """Return the rows of all files, not validated yet.

        Exits with status 2, before the first row, if a file does not exist or the mapping does not fit one.
        """
        for file, times in Counter(self.files).items():
            if times > 1:
                refuse(f"{file} is given {times} times: its rows would count once or {times} times; name it once")
            if file != "-" and not Path(file).is_file():
                refuse(f"{file}: {'a folder; name the files in it' if Path(file).is_dir() else 'no such file'}")
        try:
            if self.delimiter is not None and len(self.delimiter) != 1:
                raise MappingError(f"--delimiter {self.delimiter!r} must be one character")
            mapping = TableMapping.from_pairs(
                self.maps or (),
                self.sets or (),
                self.values or (),
                self.skips or (),
                each=self.each,
                time_format=self.time_format,
                time_base=self.time_base,
                assume_utc=self.assume_utc,
            )
            names = Counter(PurePath(file).name for file in self.files)
            opened = {}
            for file in self.files:  # every file is checked before a row of the first is published
                source = Counted(file)
                stays = file == "-" or len(self.files) == 1
                rows = self._read(source, mapping, names, self.left if stays else Left())
                if stays:
                    opened[file] = source, rows
                else:
                    source.close()
        except ValueError as error:  # MappingError, or an invalid time format
            refuse(str(error))
        return self._chained(opened, mapping, names)

    def _chained(
        self, opened: dict[str, tuple[Counted, Iterator[Line | RowError]]], mapping: TableMapping, names: Counter[str]
    ) -> Iterator[Line | RowError]:
        before = 0
        for file in self.files:
            source, rows = opened.get(file) or (None, None)
            if source is None or rows is None:
                source = Counted(file)
                rows = self._read(source, mapping, names, self.left)
            for row in rows:
                self.bytes_read = before + source.bytes_read
                self.rows_read += 1
                yield row
            before += source.bytes_read
            source.close()

    def _read(
        self, source: Counted, mapping: TableMapping, names: Counter[str], left: Left
    ) -> Iterator[Line | RowError]:
        return read_lines(
            cast(BinaryIO, source),
            source.file,
            mapping,
            file_format=None if self.file_format is None else self.file_format.value,
            id_namespace=self._namespace(source.file, names),
            delimiter=self.delimiter,
            left=left,
        )

    def _namespace(self, file: str, names: Counter[str]) -> str | None:
        """Return what minted ids derive from: the file's name; its path where several files have that name."""
        if len(self.files) == 1 or file == "-":
            return self.id_namespace
        path = PurePath(file)
        name = path.name if names[path.name] == 1 else path.as_posix()
        name = name.removesuffix(".gz")
        return name if self.id_namespace is None else f"{self.id_namespace}/{name}"

    def report_left(self) -> None:
        """Say on stderr what was left out, and what was read by its name. Exits with status 2 if no row was found."""
        left = self.left
        if left.without and not self.rows_read:
            name, names = next(iter(left.names.items()))
            refuse(f"No rows at --each {self.each}: no object has {name!r}. The first has: {', '.join(names[:40])}")
        if left.skipped:
            typer.echo(f"{left.skipped:,} rows left out by --skip", err=True)
        for name, count in left.without.items():
            typer.echo(f"{count:,} objects without {name!r}, where --each {self.each} looks for rows", err=True)
        if left.by_name:
            typer.echo(
                f"{', '.join(left.by_name)}: read by name, beside the counts that are mapped. "
                "For one that another includes, add --set NAME=0",
                err=True,
            )


class Counted:
    """A file, or standard input, that counts the bytes read from it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.bytes_read = 0
        self._source = cast(BufferedReader, sys.stdin.buffer if file == "-" else Path(file).open("rb"))  # noqa: SIM115

    def readline(self, limit: int = -1) -> bytes:
        """Read a line of at most ``limit`` bytes."""
        line = self._source.readline(limit)
        self.bytes_read += len(line)
        return line

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes."""
        data = self._source.read(size)
        self.bytes_read += len(data)
        return data

    def peek(self, size: int) -> bytes:
        """Return the bytes that come next, without reading them."""
        return self._source.peek(size)

    def close(self) -> None:
        """Close the file."""
        if self.file != "-":
            self._source.close()


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
