"""A series to judge: steps of totals, and the rows of a CSV as such a series.

A row is a call of its own, or the total of a step. Totals that come every five minutes make steps of five minutes. A
total says nothing about the calls in it; they are assumed to be many, alike, and in proportion to it, so that no rule
mistakes a large total for a single huge call.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.finding import Values
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US, US, epoch_us
from spendstream.errors import SpendstreamError
from spendstream.intake import RowError, time_reader
from spendstream.schemas.measures import COLUMN, COST, SUMS
from spendstream.schemas.watch import Measure

MINUTE_S: Final = 60
"""Seconds in a minute: its totals are complete then."""

Ints = NDArray[np.int64]

Quantity = Literal["cost", "calls", "tokens"]
"""What the value column counts: USD, calls or tokens."""

_MAX_USD: Final = 9_000_000
_MAX_COUNT: Final = 2**62

OnError = Callable[[RowError], None]

RowKind = Literal["calls", "totals"]
"""What a row of a CSV stands for."""

MIN_REGULAR_SHARE: Final = 0.8
"""Share of the distances between rows that must be equal for that distance to be the step."""
POINTS_S: Final = (15, 30, 45, 60)
"""Seconds of a running minute at which it is judged, if rows are calls."""
ASSUMED_CALLS: Final = 1000
"""Calls in a step of median value, if rows are totals."""

_MEASURED: Final[dict[Quantity, tuple[str, Measure, Measure]]] = {
    "cost": (COST, "cost", "cost_per_call"),
    "calls": ("calls", "calls", "calls"),
    "tokens": ("input_tokens", "tokens", "tokens_per_call"),
}


class BacktestError(SpendstreamError):
    """The series can't be read, or no watch fits it."""


class Increment(NamedTuple):
    """What is known of a minute ``known_s`` seconds after its open, at most 60, and was not known before.

    Row i of ``sums`` (int64, in the order of ``SUMS``) is added to the combination ``members[i]``.
    """

    known_s: int
    members: list[Values]
    sums: NDArray[np.int64]


class Step(NamedTuple):
    """A step of the series, ``[open_us, open_us + step)``, and its increments in order of ``known_s``."""

    open_us: int
    increments: tuple[Increment, ...]


class Series(Protocol):
    """A series. ``steps`` omits empty steps, and can be iterated more than once.

    ``dimensions``: of its combinations. ``measures``: what watches can measure in it. ``start_us`` and ``end_us``: the
    whole span, end exclusive. ``step_us``: whole minutes. ``has_reasons``: it has tokens, models and prices, so that a
    change can be explained.
    """

    dimensions: tuple[str, ...]
    measures: frozenset[Measure]
    start_us: int
    end_us: int
    step_us: int
    has_reasons: bool

    def steps(self) -> Iterator[Step]:
        """Yield the steps that are not empty, in order of time."""
        ...


@dataclass(frozen=True)
class Columns:
    """Which columns are read. ``groups``: dimension to column. ``zone``: of times that have none."""

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
    """Read a CSV with a header line. Rows that can't be read are skipped and passed to ``on_error``.

    Raises: BacktestError, if a column is missing, or no row can be read.
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
        raise BacktestError(f"{path}: no row can be read")
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
            raise BacktestError(f"{path} is empty: expected a header line with the names of the columns")
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
        try:
            at_us = self._read_time(cells[self._time].strip())
        except ValueError as error:
            raise _BadCell(self._columns.time, str(error)) from None
        value = _amount(cells[self._value].strip(), self._columns.value, self._columns.quantity)
        calls = 0 if self._calls is None else _amount(cells[self._calls].strip(), self._columns.calls or "", "calls")
        return _Row(at_us, value, calls, tuple(cells[at].strip() for at in self._groups))


def _position(path: Path, header: Sequence[str], column: str) -> int:
    if column not in header:
        raise BacktestError(f"{path} has no column {column!r}; it has {', '.join(header)}")
    return list(header).index(column)


def _time_us(columns: Columns) -> Callable[[str], int]:
    """Return a function that reads a time as µs since 1970. Raises: BacktestError, for an unknown format."""
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
        raise _BadCell(column, f"{text!r} is not a number" if text else "the value is missing") from None
    if not amount.is_finite() or amount < 0:
        raise _BadCell(column, f"{text!r} is not an amount: expected 0 or more")
    if quantity != "cost":
        if amount >= _MAX_COUNT:
            raise _BadCell(column, f"{text} does not fit into 64 bits")
        return round(amount)
    if amount > _MAX_USD:
        raise _BadCell(column, f"${text} in one row: if it is not money, use --measure tokens")
    return round(amount * PUSD)


class CsvSeries:
    """The rows of a CSV as a ``Series``.

    ``step_s``: None detects it. ``row_kind``: None takes rows for calls if several of a group share a minute.
    Raises: BacktestError, if a step is not whole minutes, or a minute's total does not fit into 64 bits.
    """

    has_reasons = False

    def __init__(
        self,
        rows: Rows,
        dimensions: tuple[str, ...],
        *,
        quantity: Quantity = "cost",
        step_s: int | None = None,
        row_kind: RowKind | None = None,
    ) -> None:
        if step_s is not None and (step_s < MINUTE_S or step_s % MINUTE_S):
            raise BacktestError("the step must be whole minutes, e.g. 1m, 5m or 1h")
        self.dimensions = dimensions
        self.row_kind: RowKind = row_kind or _row_kind(rows)
        self._rows = rows
        self._column, measure, by_call = _MEASURED[quantity]
        found = MINUTE_S if self.row_kind == "calls" else _step_s(rows)
        self.step_us = (step_s or found) * US
        knows_calls = self.row_kind == "calls" or rows.calls is not None or quantity == "calls"
        self.measures: frozenset[Measure] = frozenset({measure, "calls", by_call} if knows_calls else {measure})
        self._opens = self._opens_of(rows.times_us)
        self._calls = self._calls_of(rows)
        self.start_us = int(self._opens[0])
        self.end_us = int(self._opens[-1]) + self.step_us
        _, where = np.unique(self._opens, return_inverse=True)
        if np.bincount(where, weights=rows.values.astype(np.float64)).max() >= 2**63:
            raise BacktestError("the total of one step is above $9.2 million, the most that can be counted exactly")

    def steps(self) -> Iterator[Step]:
        """Yield the steps that have rows."""
        turns = np.flatnonzero(np.diff(self._opens)) + 1
        ends = np.append(turns, len(self._opens)).tolist()
        begin = 0
        for end in ends:
            yield Step(int(self._opens[begin]), tuple(self._increments(slice(begin, end))))
            begin = end

    def _increments(self, rows: slice) -> Iterator[Increment]:
        if self.row_kind == "totals":
            yield self._increment(np.arange(rows.start, rows.stop), MINUTE_S)
            return
        known_s = (self._rows.times_us[rows] - self._opens[rows]) // US
        points = np.searchsorted(POINTS_S, known_s, side="right")
        for point in np.unique(points).tolist():
            yield self._increment(rows.start + np.flatnonzero(points == point), POINTS_S[point])

    def _increment(self, rows: Ints, known_s: int) -> Increment:
        members, where = np.unique(self._rows.members[rows], return_inverse=True)
        sums = np.zeros((len(members), len(SUMS)), dtype=np.int64)
        np.add.at(sums[:, COLUMN["calls"]], where, self._calls[rows])
        if self._column != "calls":
            np.add.at(sums[:, COLUMN[self._column]], where, self._rows.values[rows])
        return Increment(known_s, [self._rows.combinations[at] for at in members.tolist()], sums)

    def _opens_of(self, times_us: Ints) -> Ints:
        """Return the open of each row's step. Totals share a phase, and may be off it by less than half a step."""
        if self.row_kind == "calls":
            return times_us - times_us % self.step_us
        phases = (times_us % self.step_us) // MINUTE_US * MINUTE_US
        known, counts = np.unique(phases, return_counts=True)
        phase = int(known[np.argmax(counts)])
        slack = 0 if self.step_us == MINUTE_US else self.step_us // 2 // MINUTE_US * MINUTE_US
        opens: Ints = (times_us - phase + slack) // self.step_us * self.step_us + phase
        return opens

    def _calls_of(self, rows: Rows) -> Ints:
        if self._column == "calls":
            return rows.values
        if rows.calls is not None:
            return rows.calls
        if self.row_kind == "calls":
            return np.ones(len(rows.values), dtype=np.int64)
        calls = np.zeros(len(rows.values), dtype=np.int64)
        for member in range(len(rows.combinations)):
            mine = np.flatnonzero((rows.members == member) & (rows.values > 0))
            if len(mine):
                values = rows.values[mine].astype(np.float64)
                calls[mine] = np.maximum(np.rint(values / np.median(values) * ASSUMED_CALLS), 1)
        return calls


def _row_kind(rows: Rows) -> RowKind:
    """Take rows for calls if more than one in ten shares a minute with another row of its group."""
    if rows.calls is not None:
        return "totals"
    minutes = rows.times_us // MINUTE_US
    cells = np.unique(np.stack([minutes, rows.members]), axis=1).shape[1]
    return "calls" if len(minutes) > 1.1 * cells else "totals"


def _step_s(rows: Rows) -> int:
    """Return the usual distance between rows of a group, if most are equal and at least a minute; else a minute."""
    order = np.lexsort((rows.times_us, rows.members))
    same = np.diff(rows.members[order]) == 0
    minutes = np.rint(np.diff(rows.times_us[order])[same] / MINUTE_US).astype(np.int64)
    if len(minutes) < 3:
        return MINUTE_S
    known, counts = np.unique(minutes, return_counts=True)
    usual = int(known[np.argmax(counts)])
    return usual * MINUTE_S if usual > 1 and counts.max() >= MIN_REGULAR_SHARE * len(minutes) else MINUTE_S
