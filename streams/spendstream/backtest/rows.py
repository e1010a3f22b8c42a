"""The rows of a CSV: when, how much, in which combination of dimensions. What can't be read is named by its line."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spendstream.backtest.errors import BacktestError
from spendstream.core.detect.finding import Values
from spendstream.core.money import PUSD
from spendstream.core.timestamps import epoch_us
from spendstream.intake import RowError, time_reader

Quantity = Literal["cost", "calls", "tokens"]
"""What the value column counts: USD, calls or tokens."""

_MOST_USD: Final = 9_000_000
_MOST: Final = 2**62

OnError = Callable[[RowError], None]


@dataclass(frozen=True)
class Columns:
    """Which columns are read. ``groups``: dimension to column. ``zone``: of times that are written without one."""

    time: str
    value: str
    groups: Mapping[str, str]
    calls: str | None = None
    quantity: Quantity = "cost"
    time_format: str = "iso"
    zone: tzinfo = UTC
    delimiter: str = ","


@dataclass(frozen=True)
class Rows:
    """Rows in order of time. ``values``: pico-dollars, calls or tokens. ``members``: positions in ``combinations``."""

    times_us: NDArray[np.int64]
    values: NDArray[np.int64]
    members: NDArray[np.int64]
    calls: NDArray[np.int64] | None
    combinations: list[Values]


def read_rows(path: Path, columns: Columns, on_error: OnError) -> Rows:
    """Read a table with a header line. Rows that can't be read are left out and told to ``on_error``.

    Raises: BacktestError, where a column isn't there, or no row can be read.
    """
    times, values, members, calls = [], [], [], []
    numbers: dict[Values, int] = {}
    for found in _read(path, columns):
        if isinstance(found, RowError):
            on_error(found)
            continue
        times.append(found.at_us)
        values.append(found.value)
        members.append(numbers.setdefault(found.members, len(numbers)))
        calls.append(found.calls)
    if not times:
        raise BacktestError(f"{path}: no row that can be read")
    at = np.array(times, dtype=np.int64)
    order = np.argsort(at, kind="stable")
    return Rows(
        at[order],
        np.array(values, dtype=np.int64)[order],
        np.array(members, dtype=np.int64)[order],
        np.array(calls, dtype=np.int64)[order] if columns.calls is not None else None,
        list(numbers),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    at_us: int
    value: int
    calls: int
    members: Values


class _BadCell(ValueError):
    """A cell that can't be read. ``column``: its name."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def _read(path: Path, columns: Columns) -> Iterator[_Row | RowError]:
    with path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as opened:
        lines = csv.reader(opened, delimiter=columns.delimiter)
        header = [title.strip() for title in next(lines, [])]
        if not header:
            raise BacktestError(f"{path} is empty: a header line with the names of its columns is expected")
        reader = _RowReader(path, header, columns)
        while True:
            line = lines.line_num + 1
            try:
                cells = next(lines)
                if cells:
                    yield reader.row(cells)
            except StopIteration:
                return
            except csv.Error as error:
                yield RowError(line, None, f"the row can't be read: {error}")
            except _BadCell as error:
                yield RowError(line, error.column or None, str(error))


class _RowReader:
    """Reads rows of one header."""

    def __init__(self, path: Path, header: Sequence[str], columns: Columns) -> None:
        self._width = len(header)
        self._columns = columns
        self._time = _position(path, header, columns.time)
        self._value = _position(path, header, columns.value)
        self._calls = None if columns.calls is None else _position(path, header, columns.calls)
        self._groups = [_position(path, header, column) for column in columns.groups.values()]
        self._read_time = _time_us(columns)

    def row(self, cells: list[str]) -> _Row:
        if len(cells) != self._width:
            raise _BadCell("", f"{len(cells)} cells, but the header has {self._width} columns")
        at_us = self._at(cells[self._time].strip())
        value = _amount(cells[self._value].strip(), self._columns.value, self._columns.quantity)
        calls = 0 if self._calls is None else _amount(cells[self._calls].strip(), self._columns.calls or "", "calls")
        return _Row(at_us, value, calls, tuple(cells[at].strip() for at in self._groups))

    def _at(self, text: str) -> int:
        try:
            return self._read_time(text)
        except ValueError as error:
            raise _BadCell(self._columns.time, str(error)) from None


def _position(path: Path, header: Sequence[str], column: str) -> int:
    if column not in header:
        raise BacktestError(f"{path} has no column {column!r}; it has {', '.join(header)}")
    return list(header).index(column)


def _time_us(columns: Columns) -> Callable[[str], int]:
    """Return what reads a time as µs since 1970. Raises: BacktestError, where the format is none."""
    try:
        as_utc, strict = time_reader(columns.time_format), time_reader(columns.time_format, assume_utc=False)
    except ValueError as error:
        raise BacktestError(str(error)) from None

    def read(text: str) -> int:
        at = datetime.fromisoformat(as_utc(text))
        if columns.zone is not UTC and not columns.time_format.startswith("epoch"):
            try:
                strict(text)
            except ValueError:  # written without a zone
                at = at.replace(tzinfo=columns.zone)
        return epoch_us(at)

    return read


def _amount(text: str, column: str, quantity: Quantity) -> int:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise _BadCell(column, f"{text!r} is no number" if text else "the value is missing") from None
    if not amount.is_finite() or amount < 0:
        raise _BadCell(column, f"{text!r} is no amount: 0 or more is expected")
    if quantity != "cost":
        if amount >= _MOST:
            raise _BadCell(column, f"{text} is beyond 64 bits")
        return round(amount)
    if amount > _MOST_USD:
        raise _BadCell(column, f"${text} in one row; what is no money is read with --measure tokens")
    return round(amount * PUSD)
