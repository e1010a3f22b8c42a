"""All of the anomaly rule together, as an ``Evaluator``.

A minute is judged twice. While it is open, what it has come to so far is held against the bound of the whole minute:
never a projection, so a verdict cannot be taken back by the seconds to come. Once it is closed, in full; then it
teaches the baseline, unless its group fires.
"""

from collections.abc import Collection, Iterable
from typing import Final

import numpy as np

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.baseline import Baseline
from spendstream.core.detect.anomaly.columns import Column, Columns
from spendstream.core.detect.anomaly.judge import Judge
from spendstream.core.detect.anomaly.minutes import OpenMinutes
from spendstream.core.detect.anomaly.report import Report
from spendstream.core.detect.anomaly.scale import Scale
from spendstream.core.detect.anomaly.watching import Watching
from spendstream.core.detect.finding import Arrays, Finding, Updates
from spendstream.core.detect.groups import Groups
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.watch import AnomalyRule

_MARKS: Final = {"held": (np.bool_, False), "touched": (np.bool_, False)}
_UNSET: Final = -1


class AnomalyEvaluator:
    """The state of one anomaly watch, all groups in columns. Facets: ``up``, ``down``, ``no_data``."""

    def __init__(self, rule: AnomalyRule, groups: Groups) -> None:
        self.rule = rule
        self._groups = groups
        self._scale = Scale.of(rule.measure)
        self._baseline = Baseline(self._scale)
        self._judge = Judge(rule, self._baseline)
        self._minutes = OpenMinutes(rule.measure)
        self._report = Report(rule.measure)
        self._watching = Watching(rule, self._baseline, self._judge, self._report)
        self._marks = Columns(_MARKS)
        self._clock_us = _UNSET
        self._through_us = _UNSET  # open of the last closed minute
        self._stale = True  # whether open minutes may say something new

    def apply(self, updates: Updates, now_us: int) -> None:
        """Take in what was added, then close what is due. Raises IndexError for a negative group."""
        if self._through_us == _UNSET:
            self._through_us = _minute(now_us - limits.FORGOTTEN_US) - MINUTE_US
        seen_us = now_us if self._clock_us == _UNSET else self._clock_us
        kept = self._current(updates, seen_us)
        if len(kept.groups):
            self._grow(max(len(self._groups), int(kept.groups.max()) + 1))
            self._minutes.add(kept)
            self._marks["touched"][kept.groups] = True
            self._stale = True
        self._advance(now_us)

    def _current(self, updates: Updates, seen_us: int) -> Updates:
        """Leave out minutes that are closed, or far behind the clock as it stood before: imported history.

        As it stood before, because a batch read while catching up may itself span more than that.
        """
        oldest = max(self._through_us, _minute(seen_us - limits.FORGOTTEN_US) - MINUTE_US)
        late = updates.minutes_us <= oldest
        if not late.any():
            return updates
        return Updates(updates.groups[~late], updates.minutes_us[~late], updates.sums[~late])

    def findings(self, now_us: int) -> Iterable[Finding]:
        """Close what is due, look at the open minutes where something came, and say what isn't normal."""
        self._advance(now_us)
        self._report.at(self._clock_us)
        if self._stale:
            self._stale = False
            self._glimpse()
        return self._watching.findings()

    def _advance(self, now_us: int) -> None:
        self._clock_us = max(self._clock_us, now_us)
        if self._through_us == _UNSET:
            return
        due_us = _minute(self._clock_us - limits.GRACE_US) - MINUTE_US
        if due_us - self._through_us > limits.GAP_US:
            self._leap(due_us)
        for minute_us in range(self._through_us + MINUTE_US, due_us + MINUTE_US, MINUTE_US):
            self._close(minute_us)

    def _leap(self, due_us: int) -> None:
        """The clock leapt by more than a day: what lies between is no evidence, and levels are out of date."""
        oldest = due_us - limits.FORGOTTEN_US
        self._minutes.drop_before(oldest)
        self._baseline.forget_levels()
        self._through_us = oldest - MINUTE_US

    def _close(self, minute_us: int) -> None:
        self._grow(len(self._marks["held"]))
        sums = self._minutes.take(minute_us, self._marks.size)
        if self._marks.size:
            self._watching.close(minute_us, self._through_us, sums, self._marks["held"])
        self._through_us = minute_us
        self._stale = True

    def _glimpse(self) -> None:
        rows = np.flatnonzero(self._marks["touched"])
        opened = self._minutes.open()
        begun = [minute for minute in opened if self._through_us < minute <= self._clock_us]
        if not len(rows) or not self._scale.is_sum:  # a ratio so far is no bound on the ratio of the minute
            self._marks["touched"][rows] = False
            return
        read = [(minute, self._minutes.read(minute, self._marks.size, rows)) for minute in begun]
        hot = self._watching.glimpse(rows, self._through_us, read)
        # Minutes ahead of the clock, from a partition read further than another, wait until it gets there.
        self._stale = any(minute > self._clock_us for minute in opened)
        if not self._stale:
            self._marks["touched"][rows[~hot]] = False

    def hold(self, groups: Collection[int]) -> None:
        """Name the groups that have a firing alert: from now until the next call they teach nothing."""
        held = self._marks["held"]
        held[:] = False
        known = np.fromiter((group for group in groups if group < len(held)), dtype=np.int64)
        held[known] = True

    def band(self, group: int, minute_us: int) -> tuple[float, float, float]:
        """Return (expected, lower, upper) of a minute that isn't closed, in the measure's unit. NaN: group unknown.

        Of a ratio: for the group's usual number of calls.
        """
        if not 0 <= group < self._marks.size or self._baseline.columns["first_us"][group] < 0:
            return float("nan"), float("nan"), float("nan")
        band = self._watching.band(np.array([group]), minute_us, self._through_us)
        return float(band.expected[0]), float(band.lower[0]), float(band.upper[0])

    def _grow(self, size: int) -> None:
        self._marks.grow(size)
        self._watching.grow(size)

    def snapshot(self) -> Arrays:
        """Return all of the state."""
        return {
            "clock": np.array([self._clock_us, self._through_us, int(self._stale)], dtype=np.int64),
            **self._marks.snapshot("mark_"),
            **self._minutes.snapshot(),
            **self._baseline.snapshot(),
            **self._watching.snapshot(),
            **self._report.snapshot(),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a snapshot's state. Raises KeyError where an array is missing."""
        found: dict[str, Column] = dict(arrays)
        self._clock_us, self._through_us, stale = (int(value) for value in found["clock"])
        self._stale = bool(stale)
        self._marks.restore(found, "mark_")
        for part in (self._minutes, self._baseline, self._watching, self._report):
            part.restore(found)

    @property
    def nbytes(self) -> int:
        """Memory held for the groups, slack included."""
        parts = (self._marks, self._minutes, self._baseline, self._watching, self._report)
        return sum(part.nbytes for part in parts)


def _minute(at_us: int) -> int:
    return at_us - at_us % MINUTE_US
