"""What a rule says of a group, and what every kind of rule can do."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from spendstream.schemas.alert import BudgetStatus

Arrays = Mapping[str, NDArray[np.generic]]
"""State as named arrays, without Python objects: what a snapshot holds."""

CLOSE_AFTER_US: Final = 15_000_000
"""µs of the detection clock after a minute's end at which it counts as closed: what comes later is a correction."""


class Level(IntEnum):
    """How a group stands."""

    NORMAL = 0
    SUSPECT = 1
    FIRING = 2


@dataclass(frozen=True)
class Finding:
    """A group's standing under one facet of a rule, such as ``up`` or ``80%``.

    ``since_us``: open of the first minute of the evidence, µs; of a budget, of its period. It is a function of the
    data, not of when it was looked at: an alert's identity hangs on it. ``observed``, ``expected`` and ``limit`` are
    in ``unit``. ``score``: robust standard deviations, where the rule has them.
    """

    group: int
    facet: str
    level: Level
    since_us: int
    observed: float
    expected: float | None = None
    limit: float | None = None
    score: float | None = None
    unit: str = "USD/min"
    budget: BudgetStatus | None = None


@dataclass(frozen=True)
class Updates:
    """What was added to minutes of groups. Row i: ``sums[i]`` is added to minute ``minutes_us[i]`` of ``groups[i]``.

    Shapes: n, n, n × len(spendstream.core.rollup.measures.SUMS); exact int64, columns in the order of ``SUMS``. A group
    and minute may stand in several rows. Sums may be negative: an aggregate was revised downwards.
    """

    groups: NDArray[np.int64]
    minutes_us: NDArray[np.int64]
    sums: NDArray[np.int64]


class Evaluator(Protocol):
    """The state of one watch: all its groups, under one rule. Groups are numbered from 0 and never renumbered."""

    def apply(self, updates: Updates, now_us: int) -> None:
        """Take in what was added, in the order given. ``now_us``: the detection clock, which never goes back."""
        ...

    def findings(self, now_us: int) -> Iterable[Finding]:
        """Judge at a moment of the detection clock.

        Returns every (group, facet) that isn't normal, and once more each that has just become normal again.
        Judging twice at one moment gives the same; minutes are closed by ``now_us`` alone.
        """
        ...

    def hold(self, groups: Collection[int]) -> None:
        """Name the groups that have a firing alert: from now until the next call they teach nothing."""
        ...

    def snapshot(self) -> Arrays:
        """Return all of the state. ``restore`` on a fresh evaluator of the same rule makes it the same."""
        ...

    def restore(self, arrays: Arrays) -> None:
        """Take over a snapshot's state."""
        ...
