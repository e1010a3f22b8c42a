"""A row of a file of usage: not judged yet, an event, or what is wrong with it and in which line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from spendstream.core.decode import Rejection, explain
from spendstream.schemas.usage import UsageEvent

MAX_LINE_BYTES: Final = 1_000_000
"""Longest line that is read: a Kafka record holds no more, and a file without line ends must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row not judged yet. ``value``: the JSON record that it is or was made into. ``line`` counts from 1."""

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
    """A row that is no event. ``field`` is the event's field at fault, None where the whole line is."""

    line: int
    field: str | None
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


Row = UsageRow | RowError


def check(row: Line | RowError) -> Row:
    """Return the row that a JSON value makes, by the contract of ``UsageEvent``. An error stays one."""
    if isinstance(row, RowError):
        return row
    verdict = explain(row.value, MAX_LINE_BYTES)
    if isinstance(verdict, Rejection):
        return RowError(row.line, verdict.field, verdict.message)
    return UsageRow(row.line, verdict, row.value)


def lines(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file or of an iterable, with their ends; of a longer one than is read, its beginning."""
    readline = getattr(source, "readline", None)
    if readline is None:
        yield from source
        return
    while line := readline(MAX_LINE_BYTES + 2):
        rest = line
        while not rest.endswith(b"\n") and len(rest) == MAX_LINE_BYTES + 2:
            rest = readline(MAX_LINE_BYTES + 2)
        yield line
