"""What budgets that began in the middle of their period lack, out of history: every aggregate once, to the pico-dollar.

    cut      the book's aggregates at one moment are counted from the book and the stream, by a successor of each
             evaluator that begins with them
    history  whatever else ClickHouse holds: it was final and forgotten before the cut, or is older than the stream,
             or was born since
    finish   the stream has delivered what was born since: those are left out, the others added, and the successors
             take over

The caller waits twice: before it reads history, until ClickHouse has what the detector had read at the cut; and before
it finishes, until the detector has read what may be in that history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget import period_of
from spendstream.core.detect.cut import Cut
from spendstream.core.detect.finding import Updates, Values
from spendstream.core.detect.measures import SPEND
from spendstream.core.detect.rollups import RollupBook
from spendstream.core.detect.watch_runner import WatchRunner
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import SUMS
from spendstream.schemas.watch import BudgetRule

SUMMED_US: Final = 15 * MINUTE_US
"""History is summed by so much time; periods open and close at whole quarters of an hour, in any zone of today."""

FINE_US: Final = 6 * 60 * MINUTE_US
"""The newest history is summed by the minute, so that burn rates see it where it was."""

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
    """What ClickHouse holds from ``Seeding.since_us`` on, but not of the cut's keys. Members are by ``Seeding.names``.

    ``singles``: aggregates one by one; ``digests[i]``: those that the key of the i-th may have.
    """

    summed: Spent
    singles: Spent
    digests: Sequence[tuple[bytes, ...]]


class Seeding:
    """One round: from the cut until the successors take over. Made, finished and abandoned by the detector's writer.

    ``cut``, ``since_us``, ``fine_us``, ``block_us`` and ``names`` don't change: what history is to be read, from when,
    from when by the minute, before that by how much time, and the dimensions to keep apart.
    """

    def __init__(self, book: RollupBook, runners: Sequence[WatchRunner], now_us: int) -> None:
        self._book = book
        self._opens = {each.watch.name: _period(each, now_us)[0] for each in runners}
        self._runners = list(runners)
        self.cut: Final[Cut] = book.cut()
        self.since_us: Final = min(self._opens.values())
        self.fine_us: Final = (now_us - FINE_US) // SUMMED_US * SUMMED_US
        edges = [edge for each in runners for edge in _period(each, now_us)]
        self.block_us: Final = SUMMED_US if all(edge % SUMMED_US == 0 for edge in edges) else MINUTE_US
        wanted = {name for each in runners for name in (*each.watch.scope, *each.watch.group_by)}
        self.names: Final = tuple(name for name in book.dimensions if name in wanted)
        known = book.known_since(0)
        for each in runners:
            each.map(book.combinations)
            assert isinstance(each.watch.rule, BudgetRule)
            each.succeed(each.watch.rule, known, now_us)

    @property
    def watches(self) -> list[str]:
        """The names of the watches that are being seeded."""
        return [each.watch.name for each in self._runners]

    def finish(self, history: History, now_us: int) -> bool:
        """Add history and let the successors take over. Once the stream has delivered all that history may hold.

        Returns False, and changes nothing, where an aggregate was born among those that were summed: begin again.
        """
        born = self._book.born
        assert born is not None, "another round was begun, or this one is over"
        if self._book.layouts != self.cut.layouts or any(map(self.cut.may_be_summed, born.values())):
            return False
        old = np.array([born.keys().isdisjoint(digests) for digests in history.digests], dtype=np.bool_)
        for each in self._runners:
            self._add(each, history.summed, np.ones(len(history.summed), dtype=np.bool_), now_us)
            self._add(each, history.singles, old, now_us)
            each.take_over()
        self._book.born = None
        return True

    def abandon(self) -> None:
        """Let it be: the evaluators stay as they are."""
        self._book.born = None
        for each in self._runners:
            each.successor = None

    def _add(self, runner: WatchRunner, spent: Spent, wanted: NDArray[np.bool_], now_us: int) -> None:
        """Give a successor what lies in its period."""
        groups = _groups(runner, self.names, self._book.dimensions, spent.members)
        rows = np.flatnonzero(wanted & (groups >= 0) & (spent.minutes_us >= self._opens[runner.watch.name]))
        rows, pusd = _split(rows, spent.dollars[rows], spent.pusd[rows])
        assert runner.successor is not None
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[at : at + _ROWS_AT_ONCE]
            sums = np.zeros((len(some), len(SUMS)), dtype=np.int64)
            sums[:, SPEND] = pusd[at : at + _ROWS_AT_ONCE]
            runner.successor.apply(Updates(groups[some], spent.minutes_us[some], sums), now_us)


def _period(runner: WatchRunner, now_us: int) -> tuple[int, int]:
    rule = runner.watch.rule
    assert isinstance(rule, BudgetRule)
    return period_of(now_us, rule.period, rule.time_zone)


def _groups(runner: WatchRunner, names: Sequence[str], dimensions: Sequence[str], members: Sequence[Values]) -> Ints:
    """Return the group of each member; -1 out of scope."""
    found: dict[Values, int] = {}
    for values in set(members):
        named: Mapping[str, str] = dict(zip(names, values, strict=True))
        number = runner.groups.find(tuple(named.get(name, "") for name in dimensions))
        found[values] = -1 if number is None else number
    return np.array([found[values] for values in members], dtype=np.int64)


def _split(rows: Ints, dollars: Ints, pusd: Ints) -> tuple[Ints, Ints]:
    """Return amounts as pico-dollars within 64 bits: a row beyond that stands several times, with a part each."""
    great = np.abs(dollars) // _DOLLARS_A_ROW
    whole = np.repeat(np.sign(dollars) * _DOLLARS_A_ROW * PUSD, great)
    rest = (dollars - np.sign(dollars) * great * _DOLLARS_A_ROW) * PUSD + pusd
    return np.concatenate([np.repeat(rows, great), rows]), np.concatenate([whole, rest])
