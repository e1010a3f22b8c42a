"""What a picture needs, of a few groups: their series, and what was expected of it at the time."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spendstream.backtest.feed import Part
from spendstream.backtest.lanes import Lane
from spendstream.core.detect.anomaly import AnomalyEvaluator
from spendstream.core.detect.finding import Groups, Values
from spendstream.core.detect.measures import denominators, is_ratio, numerators
from spendstream.schemas.alert import Alert
from spendstream.schemas.measures import SUMS, WATCHED
from spendstream.schemas.watch import BudgetRule, Measure, Watch, Watches

GroupKey = tuple[str, Values]
"""A watch by its name, and the values of its ``group_by``."""


def measure_of(watch: Watch) -> Measure:
    """Return what a watch looks at; of a budget it is the cost."""
    return "cost" if isinstance(watch.rule, BudgetRule) else watch.rule.measure


def key_of(alert: Alert) -> GroupKey:
    """Return whose alert it is."""
    return alert.watch, tuple(alert.group.values())


class Members:
    """Which group of each watch a combination belongs to."""

    def __init__(self, watches: Watches, dimensions: Sequence[str]) -> None:
        self._groups = {watch.name: Groups(watch, dimensions) for watch in watches.watches}
        self._known: dict[tuple[str, Values], Values | None] = {}

    def group(self, watch: str, members: Values) -> Values | None:
        """Return the values of the group; None out of scope."""
        key = watch, members
        if key not in self._known:
            groups = self._groups[watch]
            number = groups.find(members)
            self._known[key] = None if number is None else groups.values[number]
        return self._known[key]


class Sizes:
    """An observer that adds up each group's spend (or whatever its watch looks at), to know the largest."""

    def __init__(self, watches: Watches, dimensions: Sequence[str]) -> None:
        self._members = Members(watches, dimensions)
        self.totals: dict[GroupKey, float] = defaultdict(float)

    def minute(self, lane: Lane, minute_us: int, parts: Sequence[Part]) -> None:
        """Take in a minute."""
        for watch in lane.watches.watches:
            for part in parts:
                values = numerators(measure_of(watch), part.sums)
                for members, value in zip(part.members, values.tolist(), strict=True):
                    group = self._members.group(watch.name, members)
                    if group is not None:
                        self.totals[watch.name, group] += value

    def largest(self, alerts: Iterable[Alert], most: int) -> list[GroupKey]:
        """Return the groups that alerted most often; where none did, the largest."""
        fired = Counter(key_of(alert) for alert in alerts if alert.transition == "firing")
        ranked = sorted(fired or self.totals, key=lambda key: (-fired[key], -self.totals.get(key, 0.0), key))
        return ranked[:most]


@dataclass
class Chart:
    """One group's series, a point a step. ``minutes_us``: the world's. Band in the measure's unit, NaN: unknown."""

    watch: Watch
    group: dict[str, str]
    step_us: int
    minutes_us: list[int] = field(default_factory=list)
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def observed(self) -> NDArray[np.float64]:
        """Return the measure's values; NaN where a ratio has nothing below the line."""
        return self.windowed(1)

    def windowed(self, minutes: int) -> NDArray[np.float64]:
        """Return the measure over windows of so many points, each up to its own."""
        measure = measure_of(self.watch)
        above = _windows(np.array(self.above, dtype=np.float64), minutes) / WATCHED[measure].scale
        if not is_ratio(measure):
            return above / minutes
        below = _windows(np.array(self.below, dtype=np.float64), minutes)
        ratio: NDArray[np.float64] = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
        return ratio


class Recorder:
    """An observer that keeps the series of chosen groups. Memory: some 200 bytes a group and step."""

    def __init__(self, wanted: Iterable[GroupKey], watches: Watches, dimensions: Sequence[str]) -> None:
        named = {watch.name: watch for watch in watches.watches}
        self._members = Members(watches, dimensions)
        self.charts = {
            (name, values): Chart(named[name], dict(zip(named[name].group_by, values, strict=True)), 0)
            for name, values in wanted
        }

    def minute(self, lane: Lane, minute_us: int, parts: Sequence[Part]) -> None:
        """Take in a minute, before it closes: the band is what was expected of it."""
        mine = {watch.name for watch in lane.watches.watches}
        for (name, values), chart in self.charts.items():
            if name in mine:
                self._add(chart, (name, values), lane, minute_us, parts)

    def _add(self, chart: Chart, key: GroupKey, lane: Lane, minute_us: int, parts: Sequence[Part]) -> None:
        name, values = key
        sums = np.zeros((1, len(SUMS)), dtype=np.int64)
        for part in parts:
            rows = [at for at, members in enumerate(part.members) if self._members.group(name, members) == values]
            sums[0] += part.sums[rows].sum(axis=0)
        measure = measure_of(chart.watch)
        chart.step_us = lane.pace.step_us
        chart.minutes_us.append(lane.pace.outside(minute_us))
        chart.above.append(int(numerators(measure, sums)[0]))
        chart.below.append(int(denominators(measure, sums)[0]))
        groups, evaluator = lane.detector.evaluator(name)
        if isinstance(evaluator, AnomalyEvaluator):
            expected, lower, upper = evaluator.band(groups.number(values), minute_us)
            chart.expected.append(expected)
            chart.lower.append(lower)
            chart.upper.append(upper)


def _windows(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    total = np.concatenate([np.zeros(width), np.cumsum(values)])
    sums: NDArray[np.float64] = total[width:] - total[:-width]
    return sums
