"""The threshold rule: a measure over the last minutes against a fixed bound."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.finding import CLOSE_AFTER_US, ActiveFindings, Arrays, Finding, Groups, Level, Updates
from spendstream.core.detect.measures import CALLS, denominators, is_ratio, numerators, unit
from spendstream.core.detect.steps import Ahead, Floats, Ints, StepRing, earliest, grown
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.measures import WATCHED
from spendstream.schemas.watch import ThresholdRule

LONG_WINDOW_S: Final = 7200
"""Longer windows slide in steps of 5 minutes where those fill them, so that a day is 288 numbers and not 1,440."""

_BACK_US: Final = 15 * MINUTE_US


class ThresholdEvaluator:
    """A measure of each group over ``window``, above or below a bound.

    A ratio is the window's sums over one another. A sum per minute (cost, calls, tokens) is the window's sum by the
    window's minutes, all of them, also those without a call.

    When it holds:

    - ``above``, sum per minute: in a window of closed minutes, or already in one that ends with an open minute (the
      running one or the one before): what is still to come can only add.
    - ``below``, sum per minute: in a window of closed minutes, all of them later than the group's first one.
    - ratio: in either window.
    - Never with fewer than ``min_calls`` calls in the window. A minute closes ``CLOSE_AFTER_US`` after its end.

    It is over once two closed minutes in a row did not hold: one may be chance. ``since_us``: open of the first minute
    whose window held. FIRING once it has held for ``lasting``, SUSPECT before. Facets: ``above``, ``below``.

    Spend of minutes before the window is no evidence: importing history raises nothing.
    Memory a group: 8 bytes × (minutes of the window + 15) × 2; × 3 for ratios.
    """

    def __init__(self, rule: ThresholdRule, groups: Groups) -> None:
        self._rule = rule
        self._groups = groups
        self._is_ratio = is_ratio(rule.measure)
        self._facet = "above" if rule.above is not None else "below"
        self._bound = float(rule.above if rule.above is not None else rule.below or 0.0)
        step_s = 300 if rule.window > LONG_WINDOW_S and rule.window % 300 == 0 else 60
        self._step_us = step_s * US
        self._width = rule.window // step_s
        columns = 3 if self._is_ratio else 2
        self._ring = StepRing(self._step_us, self._width + max(_BACK_US // self._step_us, 3), columns)
        self._ahead = Ahead(columns)
        self._first_us: Ints = np.zeros(0, dtype=np.int64)
        self._since_us: Ints = np.zeros(0, dtype=np.int64)
        self._held: Ints = np.zeros(0, dtype=np.int64)
        self._closed: int | None = None
        self._minute_us = -1
        self._evaluated = (-1, -1)
        self._touched: set[int] = set()
        self._active = ActiveFindings((self._facet,))

    def apply(self, updates: Updates, now_us: int) -> None:
        """Add updates."""
        self._roll(now_us)
        over = numerators(self._rule.measure, updates.sums)
        under = [denominators(self._rule.measure, updates.sums)] if self._is_ratio else []
        values = np.column_stack([over, *under, updates.sums[:, CALLS]])
        rows = np.flatnonzero(values.any(axis=1) & (updates.minutes_us >= self._ring.oldest_us))
        if len(rows):
            groups, minutes_us, values = updates.groups[rows], updates.minutes_us[rows], values[rows]
            ahead = minutes_us > now_us
            if ahead.any():
                self._ahead.keep(groups[ahead], minutes_us[ahead], values[ahead])
            if not ahead.all():
                self._take(groups[~ahead], minutes_us[~ahead], values[~ahead])

    def findings(self, now_us: int) -> Iterable[Finding]:
        """Return what is not normal, and what has ended at this moment."""
        self._roll(now_us)
        touched = self._touched | self._active.begin(now_us)
        closed = (now_us - CLOSE_AFTER_US) // self._step_us - 1
        everyone = np.flatnonzero(self._first_us)
        first = closed if self._closed is None else max(self._closed + 1, closed - (self._ring.steps - self._width) + 2)
        for step in range(first, closed + 1):
            self._mark(everyone, step, self._window(everyone, step)[1])
            over = everyone[(self._since_us[everyone] > 0) & (step >= self._held[everyone] + 2)]
            self._since_us[over] = self._held[over] = 0  # it held in neither of the last two closed windows
        self._closed = closed if self._closed is None else max(self._closed, closed)
        is_new = self._evaluated != (self._minute_us, self._closed)
        groups = everyone if is_new else np.array(sorted(touched), dtype=np.int64)
        if len(groups):
            self._evaluate(groups)
        self._touched.clear()
        self._evaluated = (self._minute_us, self._closed)
        return self._active.all()

    def hold(self, groups: Collection[int]) -> None:
        """Do nothing: this rule learns nothing that an alert could distort."""

    def snapshot(self) -> Arrays:
        """Return all of the state."""
        groups = int(np.flatnonzero(self._first_us).max(initial=-1)) + 1
        return {
            "clock": np.array([self._minute_us, -1 if self._closed is None else self._closed], dtype=np.int64),
            "first": self._first_us[:groups].copy(),
            "since": self._since_us[:groups].copy(),
            "held": self._held[:groups].copy(),
            **self._ring.snapshot("window", groups),
            **self._ahead.snapshot(),
            **self._active.snapshot(),
        }

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot's state; the groups must be numbered as they were."""
        self._minute_us, closed = np.array(arrays["clock"], dtype=np.int64).tolist()
        self._closed = None if closed < 0 else closed
        self._evaluated = (-1, -1)
        self._touched = set()
        self._first_us = np.array(arrays["first"], dtype=np.int64)
        self._since_us = np.array(arrays["since"], dtype=np.int64)
        self._held = np.array(arrays["held"], dtype=np.int64)
        self._ring.restore("window", arrays)
        self._ahead.restore(arrays)
        self._active.restore(arrays)

    def _roll(self, now_us: int) -> None:
        minute_us = now_us // MINUTE_US * MINUTE_US
        if minute_us <= self._minute_us:
            return
        self._minute_us = minute_us
        self._ring.advance(minute_us)
        for groups, minutes_us, values in self._ahead.due(minute_us):
            self._take(groups, minutes_us, values)

    def _take(self, groups: Ints, minutes_us: Ints, values: Ints) -> None:
        self._ring.add(groups, minutes_us, values)
        self._first_us, met = earliest(self._first_us, groups, minutes_us)
        size = len(self._first_us)
        self._since_us, self._held = grown(self._since_us, size), grown(self._held, size)
        self._touched.update(met.tolist())

    def _evaluate(self, groups: Ints) -> None:
        assert self._closed is not None
        assert self._ring.head is not None
        value, held = self._window(groups, self._closed)
        self._mark(groups, self._closed, held)
        if self._is_ratio or self._facet == "above":
            for step in range(self._closed + 1, self._ring.head + 1):  # the one just over is open for a while, too
                running, holds = self._window(groups, step)
                self._mark(groups, step, holds)
                value = np.where(np.isnan(running), value, running) if self._is_ratio else np.fmax(value, running)
        is_active = np.array([group in self._active for group in groups.tolist()])
        for row in np.flatnonzero((self._since_us[groups] > 0) | is_active).tolist():
            now = self._finding(int(groups[row]), float(value[row]))
            self._active.settle(now.group, [now] if now.level else [], self._ended(now))

    def _window(self, groups: Ints, ending: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the measure in the window that ends with a step, NaN where it has none, and whether it holds."""
        sums = self._ring.window(groups, self._width, ending)
        below_the_line = sums[:, 1] if self._is_ratio else np.full(len(groups), self._rule.window / 60)
        scaled = below_the_line * WATCHED[self._rule.measure].scale
        value = np.divide(sums[:, 0], scaled, out=np.full(len(groups), np.nan), where=scaled > 0)
        holds = value > self._bound if self._facet == "above" else value < self._bound
        holds &= sums[:, -1] >= self._rule.min_calls
        if self._facet == "below" and not self._is_ratio:
            holds &= self._first_us[groups] < (ending - self._width + 1) * self._step_us
        return value, holds

    def _mark(self, groups: Ints, step: int, holds: NDArray[np.bool_]) -> None:
        holding = groups[holds]
        since = self._since_us[holding]
        self._since_us[holding] = np.where(since == 0, step * self._step_us, since)
        self._held[holding] = np.maximum(self._held[holding], step)

    def _finding(self, group: int, value: float) -> Finding:
        since_us, level = int(self._since_us[group]), Level.NORMAL
        if since_us:
            held_us = min(self._minute_us, (int(self._held[group]) + 1) * self._step_us) - since_us
            level = Level.FIRING if held_us >= self._rule.lasting * US or not self._rule.lasting else Level.SUSPECT
        observed = 0.0 if np.isnan(value) else value
        return Finding(group, self._facet, level, since_us, observed, limit=self._bound, unit=unit(self._rule.measure))

    @staticmethod
    def _ended(now: Finding) -> Callable[[Finding], Finding]:
        return lambda ended: replace(now, since_us=ended.since_us)
