"""What budgets that began within their period lack, from history: every aggregate once, to the pico-dollar.

    begin    the book forgets nothing from here on, and draws a boundary: it holds no aggregate before it
    history  ClickHouse's aggregates: those before the boundary summed, the others one by one
    finish   each budget starts over from all that the book holds, and from the history of all that it doesn't hold

Whether the book holds an aggregate is asked at one moment, when the round finishes. So each is counted from the stream
or from history, whatever was written, read or inserted meanwhile. That is exact because the caller waits twice: before
it reads history, until ClickHouse has all that the book had read at the beginning; before it finishes, until the book
has read all that history may hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget import BudgetEvaluator, period_of
from spendstream.core.detect.finding import Updates, Values
from spendstream.core.detect.measures import SPEND
from spendstream.core.detect.rollups import RollupBook, SeedBoundary, Source, digest
from spendstream.core.detect.watch_runner import WatchRunner
from spendstream.core.money import PUSD
from spendstream.core.rollup_record import AggregateKey, rollup_key
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import SUMS
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.schemas.watch import BudgetRule

SUMMED_US: Final = 15 * MINUTE_US
"""History is summed by this much time; periods open and close at whole quarters of an hour in every present zone."""

FINE_US: Final = 6 * 60 * MINUTE_US
"""The newest history is summed by the minute, so that burn rates see spend when it happened."""

_DOLLARS_A_ROW: Final = 9_000_000
_ROWS_AT_ONCE: Final = 20_000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Spent:
    """Spend of combinations in minutes. Row i: ``dollars[i]`` and ``pusd[i]`` pico-dollars of ``members[i]``."""

    members: Sequence[Values]
    minutes_us: Ints
    dollars: Ints
    pusd: Ints

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True)
class History:
    """What ClickHouse holds from ``Seeding.since_us`` on. Members are by ``Seeding.names``.

    ``summed``: what lies before the boundary. ``singles``: the other aggregates, one by one, except those that the
    book held already; ``digests[i]``: what the book may know the i-th by.
    """

    summed: Spent
    singles: Spent
    digests: Sequence[tuple[bytes, ...]]


class Seeding:
    """One round, from drawing the boundary until the budgets are seeded. Made, finished and abandoned by the detector's
    writer; the rest may be asked from another thread.

    ``boundaries``: what lies before them may be summed. ``since_us``: history is wanted from here on, from ``fine_us``
    on by the minute, before that by ``block_us``. ``names``: the dimensions to keep apart. None of them changes.
    Memory: while a round is open, the book forgets nothing, which is about 550 bytes an aggregate.
    """

    def __init__(self, book: RollupBook, runners: Sequence[WatchRunner], now_us: int) -> None:
        self._book = book
        self._runners = list(runners)
        rules = {
            runner.watch.name: runner.watch.rule for runner in runners if isinstance(runner.watch.rule, BudgetRule)
        }
        periods = {name: period_of(now_us, rule.period, rule.time_zone) for name, rule in rules.items()}
        self._opens = {name: opened_us for name, (opened_us, _) in periods.items()}
        self._layouts = book.layouts
        self.boundaries: Final[Mapping[Source, SeedBoundary]] = book.begin_seeding()
        self.since_us: Final = min(self._opens.values())
        self.fine_us: Final = (now_us - FINE_US) // SUMMED_US * SUMMED_US
        edges = [edge for period in periods.values() for edge in period]
        self.block_us: Final = SUMMED_US if all(edge % SUMMED_US == 0 for edge in edges) else MINUTE_US
        wanted = {name for runner in runners for name in (*runner.watch.scope, *runner.watch.group_by)}
        self.names: Final = tuple(name for name in book.dimensions if name in wanted)

    @property
    def watches(self) -> list[str]:
        """The names of the watches that are being seeded."""
        return [runner.watch.name for runner in self._runners]

    def digests(self, source: Source, minute_us: int, block: int, values: Sequence[str]) -> tuple[bytes, ...]:
        """Return what the book may know a row's aggregate by. ``values``: by ``DIMENSIONS``, empty where it has none.

        Several, because a key names the dimensions that the meter was configured with, and a row has all of them.
        """
        return tuple(
            digest(rollup_key(*source, AggregateKey(minute_us, block, tuple(map(values.__getitem__, positions)))))
            for positions, others in self._positions
            if not any(map(values.__getitem__, others))
        )

    def is_in_book(self, digests: Iterable[bytes]) -> bool:
        """Return whether the book holds an aggregate; if so, it does until the round is over."""
        return self._book.holds_any(digests)

    def finish(self, history: History, now_us: int) -> bool:
        """Start the budgets over, seeded. Call it once the book has read all that history may hold.

        Returns False, and changes nothing, where history may have summed what the book holds: begin another round.
        """
        if self._book.layouts != self._layouts or self._book.holds_any_before(self.boundaries):
            return False
        is_ours = np.array([not self.is_in_book(digests) for digests in history.digests], dtype=np.bool_)
        in_book = self._book.known_since(0)
        for runner in self._runners:
            assert isinstance(runner.watch.rule, BudgetRule)
            budget = BudgetEvaluator(runner.watch.rule, runner.groups)
            runner.map(self._book.combinations)
            budget.apply(runner.updates(in_book), now_us)
            self._add(runner, budget, history.summed, np.ones(len(history.summed), dtype=np.bool_), now_us)
            self._add(runner, budget, history.singles, is_ours, now_us)
            runner.evaluator, runner.is_seeded = budget, True
        self._book.end_seeding()
        return True

    def abandon(self) -> None:
        """Give up: the budgets stay as they are."""
        self._book.end_seeding()

    @cached_property
    def _positions(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """By layout: the positions of its names in ``DIMENSIONS``, and those of the other names."""
        return tuple(
            (
                tuple(map(DIMENSIONS.index, layout)),
                tuple(at for at, name in enumerate(DIMENSIONS) if name not in layout),
            )
            for layout in self._layouts
        )

    def _add(
        self, runner: WatchRunner, budget: BudgetEvaluator, spent: Spent, wanted: NDArray[np.bool_], now_us: int
    ) -> None:
        """Add the history that lies in a watch's period."""
        groups = _groups(runner, self.names, self._book.dimensions, spent.members)
        rows = np.flatnonzero(wanted & (groups >= 0) & (spent.minutes_us >= self._opens[runner.watch.name]))
        rows, pusd = _split(rows, spent.dollars[rows], spent.pusd[rows])
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[at : at + _ROWS_AT_ONCE]
            sums = np.zeros((len(some), len(SUMS)), dtype=np.int64)
            sums[:, SPEND] = pusd[at : at + _ROWS_AT_ONCE]
            budget.apply(Updates(groups[some], spent.minutes_us[some], sums), now_us)


def _groups(runner: WatchRunner, names: Sequence[str], dimensions: Sequence[str], members: Sequence[Values]) -> Ints:
    """Return the group of each member; -1 out of scope."""
    found: dict[Values, int] = {}
    for values in set(members):
        named: Mapping[str, str] = dict(zip(names, values, strict=True))
        number = runner.groups.find(tuple(named.get(name, "") for name in dimensions))
        found[values] = -1 if number is None else number
    return np.array([found[values] for values in members], dtype=np.int64)


def _split(rows: Ints, dollars: Ints, pusd: Ints) -> tuple[Ints, Ints]:
    """Return amounts as pico-dollars within 64 bits: a row beyond that becomes several rows, with a part each."""
    great = np.abs(dollars) // _DOLLARS_A_ROW
    whole = np.repeat(np.sign(dollars) * _DOLLARS_A_ROW * PUSD, great)
    rest = (dollars - np.sign(dollars) * great * _DOLLARS_A_ROW) * PUSD + pusd
    return np.concatenate([np.repeat(rows, great), rows]), np.concatenate([whole, rest])
