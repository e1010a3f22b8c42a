"""What every rule shares: a watch's groups, what is added to them, what a rule finds, and what an evaluator does."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from spendstream.schemas.alert import BudgetStatus
from spendstream.schemas.watch import Watch, in_scope

Arrays = Mapping[str, NDArray[np.generic]]
"""State as named arrays, without Python objects: what a snapshot holds."""

CLOSE_AFTER_US: Final = 15_000_000
"""µs of the detection clock after a minute's end at which the minute closes: later changes are corrections."""


class Level(IntEnum):
    """The state of a group under one facet of a rule."""

    NORMAL = 0
    SUSPECT = 1
    FIRING = 2


@dataclass(frozen=True)
class Finding:
    """A group's state under one facet of a rule, such as ``up`` or ``80%``.

    ``since_us``: open of the first minute of the evidence, µs; for a budget, of its period. It follows from the data,
    not from when it was evaluated: an alert's identity depends on it. ``observed``, ``expected`` and ``limit`` are in
    ``unit``. ``score``: robust standard deviations, where the rule has them.
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

    Shapes: n, n, n × len(spendstream.schemas.measures.SUMS); exact int64, columns in the order of ``SUMS``. Several
    rows may have the same group and minute. Sums may be negative: an aggregate was revised downwards.
    """

    groups: NDArray[np.int64]
    minutes_us: NDArray[np.int64]
    sums: NDArray[np.int64]


class Evaluator(Protocol):
    """The state of one watch: all its groups, under one rule. Groups are numbered from 0 and never renumbered."""

    def apply(self, updates: Updates, now_us: int) -> None:
        """Add updates in the order given. ``now_us``: the detection clock, which never goes back."""
        ...

    def findings(self, now_us: int) -> Iterable[Finding]:
        """Evaluate at a moment of the detection clock.

        Returns every (group, facet) that isn't normal, and once more each that has just become normal again.
        Evaluating twice at one moment gives the same; minutes are closed by ``now_us`` alone.
        """
        ...

    def hold(self, groups: Collection[int]) -> None:
        """Name the groups that have a firing alert: until the next call, nothing is learned from them."""
        ...

    def snapshot(self) -> Arrays:
        """Return all of the state. ``restore`` on a fresh evaluator of the same rule makes it the same."""
        ...

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot's state."""
        ...


Values = tuple[str, ...]


class Groups:
    """Numbers the groups of one watch, from 0, in the order in which they were first seen.

    ``dimensions``: the names of the rollups' dimensions, in their order. A dimension of the watch that the rollups
    don't have is an empty string in every group.
    """

    def __init__(self, watch: Watch, dimensions: Sequence[str]) -> None:
        self._watch = watch
        self._dimensions = tuple(dimensions)
        self._positions = [self._dimensions.index(name) if name in self._dimensions else -1 for name in watch.group_by]
        self._numbers: dict[Values, int] = {}
        self.values: list[Values] = []
        """By number: the values of ``watch.group_by``."""

    def __len__(self) -> int:
        return len(self.values)

    def find(self, members: Values) -> int | None:
        """Return the number of the group that these dimension values belong to; None where out of scope."""
        if self._watch.scope and not in_scope(self._watch.scope, dict(zip(self._dimensions, members, strict=True))):
            return None
        return self.number(tuple(members[at] if at >= 0 else "" for at in self._positions))

    def number(self, values: Values) -> int:
        """Return the number of a group by its values; a new one where it wasn't known."""
        number = self._numbers.setdefault(values, len(self.values))
        if number == len(self.values):
            self.values.append(values)
        return number

    def named(self, number: int) -> dict[str, str]:
        """Return a group as names and values, in the watch's order."""
        return dict(zip(self._watch.group_by, self.values[number], strict=True))


class ActiveFindings:
    """The findings that are not normal, by group, and those that ended at the present moment.

    Each end is returned at one moment only, as evaluators owe their callers.

    ``facets``: every facet that the rule can find, in a fixed order.
    """

    def __init__(self, facets: Iterable[str]) -> None:
        self._facets = tuple(facets)
        self._findings: dict[int, dict[str, Finding]] = {}
        self._ended: dict[tuple[int, str], Finding] = {}
        self._ended_at = -1
        self._unsettled: set[int] = set()
        self._listed: list[Finding] | None = None

    def __contains__(self, group: int) -> bool:
        """Whether a group has a finding."""
        return group in self._findings

    def begin(self, now_us: int) -> set[int]:
        """Begin an evaluation; what ended at an earlier moment is dropped.

        Returns the groups to evaluate again now: an alert had to end before the next one of its facet may begin.
        """
        if now_us == self._ended_at:
            return set()
        again, self._unsettled = self._unsettled, set()
        if self._ended:
            self._listed = None
        self._ended, self._ended_at = {}, now_us
        return again

    def settle(self, group: int, found: Iterable[Finding], ended: Callable[[Finding], Finding]) -> None:
        """Replace a group's findings. ``ended`` returns an ended finding with the present figures."""
        self._listed = None
        before = self._findings.pop(group, {})
        after = {finding.facet: finding for finding in found}
        for facet, last in before.items():
            new = after.get(facet)
            if new is None or new.since_us != last.since_us:
                self._ended[group, facet] = replace(ended(last), level=Level.NORMAL)
        for facet in [facet for facet in after if (group, facet) in self._ended]:
            del after[facet]
            self._unsettled.add(group)
        if after:
            self._findings[group] = after

    def all(self) -> Sequence[Finding]:
        """Return what ended at this moment, then what is active."""
        if self._listed is None:
            standing = (finding for findings in self._findings.values() for finding in findings.values())
            self._listed = [*self._ended.values(), *standing]
        return self._listed

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return the active findings as arrays: group, facet, open of the evidence."""
        positions = {facet: position for position, facet in enumerate(self._facets)}
        numbers = (
            number
            for group, findings in self._findings.items()
            for facet, finding in findings.items()
            for number in (group, positions[facet], finding.since_us)
        )
        return {"active": np.fromiter(numbers, dtype=np.int64).reshape(-1, 3)}

    def restore(self, arrays: Any) -> None:
        """Restore the active findings. Every group must be evaluated again: a snapshot doesn't hold the figures."""
        self._findings, self._ended, self._ended_at, self._listed = {}, {}, -1, None
        for group, facet, since_us in arrays["active"].tolist():
            finding = Finding(group, self._facets[facet], Level.FIRING, since_us, 0.0)
            self._findings.setdefault(group, {})[finding.facet] = finding
        self._unsettled = set(self._findings)
