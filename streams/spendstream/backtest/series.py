"""Rows to steps: how long a step is, and what a row stands for.

A row is a call of its own, or the total of a step. Totals that come every five minutes make steps of five minutes. A
total says nothing of the calls behind it; they are taken to be in proportion to it, many and alike, so that no rule
mistakes a large total for a single huge call.
"""

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spendstream.backtest.errors import BacktestError
from spendstream.backtest.feed import MINUTE_S, Part, Step
from spendstream.backtest.rows import Quantity, Rows
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.measures import COLUMN, COST, SUMS
from spendstream.schemas.watch import Measure

Meaning = Literal["calls", "totals"]
"""What a row of a table stands for."""

REGULAR: Final = 0.8
"""So many of the distances between rows must be alike, for them to be the series' step."""
POINTS_S: Final = (15, 30, 45, 60)
"""Seconds of a running minute at which what has come so far is looked at, where rows are calls."""
USUAL_CALLS: Final = 1000
"""Calls in a step of median value, where a row is a total."""

_MEASURED: Final[dict[Quantity, tuple[str, Measure, Measure]]] = {
    "cost": (COST, "cost", "cost_per_call"),
    "calls": ("calls", "calls", "calls"),
    "tokens": ("input_tokens", "tokens", "tokens_per_call"),
}

Ints = NDArray[np.int64]


class SeriesFeed:
    """The rows of a table, as steps. See ``spendstream.backtest.feed.Feed``.

    ``step_s``: None finds it out. ``meaning``: None takes rows for calls where several of a group share a minute.
    Raises: BacktestError, where a step is no whole minutes, or a minute's total is beyond 64 bits.
    """

    has_reasons = False

    def __init__(
        self,
        rows: Rows,
        dimensions: tuple[str, ...],
        *,
        quantity: Quantity = "cost",
        step_s: int | None = None,
        meaning: Meaning | None = None,
    ) -> None:
        if step_s is not None and (step_s < MINUTE_S or step_s % MINUTE_S):
            raise BacktestError("a step is whole minutes: 1m, 5m, 1h")
        self.dimensions = dimensions
        self.meaning: Meaning = meaning or _meaning(rows)
        self._rows = rows
        self._column, measure, by_call = _MEASURED[quantity]
        found = MINUTE_S if self.meaning == "calls" else _step_s(rows)
        self.step_us = (step_s or found) * US
        knows_calls = self.meaning == "calls" or rows.calls is not None or quantity == "calls"
        self.measures: frozenset[Measure] = frozenset({measure, "calls", by_call} if knows_calls else {measure})
        self._opens = self._opens_of(rows.times_us)
        self._calls = self._calls_of(rows)
        self.start_us = int(self._opens[0])
        self.end_us = int(self._opens[-1]) + self.step_us
        _refuse_overflow(rows.values, self._opens)

    def steps(self) -> Iterator[Step]:
        """Yield the steps that have rows."""
        turns = np.flatnonzero(np.diff(self._opens)) + 1
        ends = np.append(turns, len(self._opens)).tolist()
        begin = 0
        for end in ends:
            yield Step(int(self._opens[begin]), tuple(self._parts(slice(begin, end))))
            begin = end

    def _parts(self, rows: slice) -> Iterator[Part]:
        if self.meaning == "totals":
            yield self._part(np.arange(rows.start, rows.stop), MINUTE_S)
            return
        known_s = (self._rows.times_us[rows] - self._opens[rows]) // US
        points = np.searchsorted(POINTS_S, known_s, side="right")
        for point in np.unique(points).tolist():
            yield self._part(rows.start + np.flatnonzero(points == point), POINTS_S[point])

    def _part(self, rows: Ints, known_s: int) -> Part:
        members, where = np.unique(self._rows.members[rows], return_inverse=True)
        sums = np.zeros((len(members), len(SUMS)), dtype=np.int64)
        np.add.at(sums[:, COLUMN["calls"]], where, self._calls[rows])
        if self._column != "calls":
            np.add.at(sums[:, COLUMN[self._column]], where, self._rows.values[rows])
        return Part(known_s, [self._rows.combinations[at] for at in members.tolist()], sums)

    def _opens_of(self, times_us: Ints) -> Ints:
        """Return each row's step. Totals lie around the same phase of it, and may be off by less than half a step."""
        if self.meaning == "calls":
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
        if self.meaning == "calls":
            return np.ones(len(rows.values), dtype=np.int64)
        calls = np.zeros(len(rows.values), dtype=np.int64)
        for member in range(len(rows.combinations)):
            mine = np.flatnonzero((rows.members == member) & (rows.values > 0))
            if len(mine):
                values = rows.values[mine].astype(np.float64)
                calls[mine] = np.maximum(np.rint(values / np.median(values) * USUAL_CALLS), 1)
        return calls


def _meaning(rows: Rows) -> Meaning:
    """Rows are calls where more than one in ten shares a minute with another of its group."""
    if rows.calls is not None:
        return "totals"
    minutes = rows.times_us // MINUTE_US
    cells = np.unique(np.stack([minutes, rows.members]), axis=1).shape[1]
    return "calls" if len(minutes) > 1.1 * cells else "totals"


def _step_s(rows: Rows) -> int:
    """Return the distance between the rows of a group, where most are alike and a minute or more; else a minute."""
    order = np.lexsort((rows.times_us, rows.members))
    same = np.diff(rows.members[order]) == 0
    minutes = np.rint(np.diff(rows.times_us[order])[same] / MINUTE_US).astype(np.int64)
    if len(minutes) < 3:
        return MINUTE_S
    known, counts = np.unique(minutes, return_counts=True)
    usual = int(known[np.argmax(counts)])
    return usual * MINUTE_S if usual > 1 and counts.max() >= REGULAR * len(minutes) else MINUTE_S


def _refuse_overflow(values: Ints, opens: Ints) -> None:
    _, where = np.unique(opens, return_inverse=True)
    if np.bincount(where, weights=values.astype(np.float64)).max() >= 2**63:
        raise BacktestError("the total of one step is above $9.2 million: beyond what is counted exactly")
