"""The anomaly rule, as an ``Evaluator``.

A minute is scored twice. While it is open, its sum so far is compared with the bound of the whole minute, never a
projection: the seconds to come cannot take a verdict back. Once it is closed it is scored in full, and then the
baseline learns from it, unless its group fires.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.baseline import Baseline, Expectation
from spendstream.core.detect.anomaly.firing import (
    Band,
    FiringState,
    GroupNumbers,
    Mask,
    Report,
    Scorer,
    Silence,
    Verdict,
)
from spendstream.core.detect.anomaly.minutes import Column, Columns, Floats, OpenMinutes, Scale, Sums
from spendstream.core.detect.finding import Arrays, Finding, Groups, Level, Updates
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.watch import AnomalyRule

_MEANS: Final = {
    "drift": (np.float64, 0),  # mean of the last five minutes: standard deviations off what was expected, clipped
    "long": (np.float64, 0),  # of the last quarter of an hour
    "quick": (np.float64, 0),  # of the last three or so, as scores
}


class AnomalyState:
    """Every group under the rule: the order of things when a minute closes, and the check of open minutes."""

    def __init__(self, rule: AnomalyRule, baseline: Baseline, scorer: Scorer, report: Report) -> None:
        self._rule = rule
        self._baseline = baseline
        self._scorer = scorer
        self._report = report
        self._scores = Columns(_MEANS)
        self._up, self._down = FiringState("up"), FiringState("down")
        self._silence = Silence(rule.no_data_after, rule.adopt_after)

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        parts = (self._baseline, self._report, self._scores, self._up.columns, self._down.columns)
        for part in (*parts, self._silence.columns):
            part.grow(size)

    def close(self, minute_us: int, through_us: int, sums: Sums, held: Mask) -> None:
        """Score a closed minute of all groups, then learn from those that neither fire nor are held."""
        expected = self._baseline.expect(minute_us, through_us)
        verdict = self._scorer.score(minute_us, sums, expected)
        self._score(verdict, expected)
        self._recover(minute_us, verdict, sums, expected)
        self._update_firing(minute_us, verdict, expected)
        silent = held | self._up.firing | self._down.firing
        ready = self._baseline.ready(minute_us, self._rule.min_history * 1_000_000)
        born = self._baseline.columns["first_us"] >= 0
        since = self._silence.columns["since_us"].copy()
        calls = sums.calls.astype(np.float64)
        self._report.end(
            self._silence.close(minute_us, calls, self._calls(verdict), born, ready, silent), "no_data", since
        )
        self._baseline.learn(minute_us, sums, expected, verdict.sigma, silent | self._silence.firing)
        self._adopt(minute_us)
        shown = np.union1d(self._up.abnormal(), self._down.abnormal())
        self._report.show(shown, verdict, shown)

    def _score(self, verdict: Verdict, expected: Expectation) -> None:
        """Fold a minute into the means; a group that is not ready keeps its means."""
        scale = self._baseline.scale
        away = (scale.forward(verdict.observed) - expected.point) / verdict.sigma
        size = np.abs(expected.point) if scale.is_sum else 1.0
        most = np.maximum(limits.DRIFT_CLIP, limits.DRIFT_FULL * size / verdict.sigma)
        scores = np.clip(verdict.score, -limits.DRIFT_CLIP, limits.DRIFT_CLIP)
        away = np.clip(away, -most, most)
        for name, weight, values in (
            ("drift", limits.RECENT, away),
            ("long", limits.LONG, away),
            ("quick", limits.QUICK, scores),
        ):
            mean = self._scores[name]
            mean += weight * np.where(verdict.ready, values - mean, 0.0)

    def _slow(self, verdict: Verdict, expected: Expectation) -> tuple[Mask, Mask]:
        """Return where a mean of the last minutes is beyond its own bound, and far enough to matter."""
        scale = self._baseline.scale
        up, down = np.zeros((2, len(verdict.ready)), dtype=np.bool_)
        size = np.abs(expected.point) if scale.is_sum else 1.0
        slack = self._baseline.drift_slack(expected)
        calls = np.maximum(self._calls(verdict), 0.05)
        known = expected.trust >= limits.TRUSTED
        wander = size * np.where(known, limits.WANDER, limits.WANDER_COLD)
        least = limits.BOUND_SLOW[self._rule.sensitivity] * np.where(known, 1.0, limits.DRIFT_COLD)
        for name, weight in (("drift", limits.RECENT), ("long", limits.LONG)):
            away = self._scores[name] * verdict.sigma
            noise = np.sqrt(np.square(verdict.sigma) * weight / (2 - weight) + np.square(wander))
            tail = 1 + limits.DRIFT_TAIL / np.sqrt(calls * (2 - weight) / weight)
            bound = least * tail * noise + slack
            mean = scale.mean(expected.point + away, verdict.sigma)
            up |= (away >= bound) & (mean > verdict.band.min_up)
            down |= (away <= -bound) & (mean < verdict.band.min_down)
        up &= verdict.ready & (verdict.score > 0)
        down &= verdict.ready & (verdict.score < 0)
        return up & (self._rule.direction != "down"), down & (self._rule.direction != "up")

    def _update_firing(self, minute_us: int, verdict: Verdict, expected: Expectation) -> None:
        slow_up, slow_down = self._slow(verdict, expected)
        score = self._scores["drift"] * 3.0
        for firing, other, sign, breached, extreme, slow in (
            (self._up, self._down, 1, verdict.up, verdict.extreme_up, slow_up),
            (self._down, self._up, -1, verdict.down, verdict.extreme_down, slow_down),
        ):
            firing.lean(minute_us, sign * score >= 1)
            ended = firing.close(minute_us, breached, extreme, slow, ~other.firing)
            self._report.end(ended, firing.side, firing.columns["since_us"])

    def _recover(self, minute_us: int, verdict: Verdict, sums: Sums, expected: Expectation) -> None:
        """End what is over: a firing group goes on firing while it exceeds half the bound, by the old baseline."""
        for firing, sign in ((self._up, 1), (self._down, -1)):
            rows = np.flatnonzero(firing.firing)
            if not len(rows):
                continue
            part = Sums(*(column[rows] for column in sums))
            then = Expectation(expected.point[rows], expected.trust[rows])
            band = self._scorer.band(part, then, verdict.sigma[rows], rows, limits.STILL)
            seen = verdict.observed[rows]
            beyond = seen > band.upper if sign > 0 else seen < band.lower
            leans = sign * self._scores["quick"][rows] > self._still_leaning(then, verdict.sigma[rows])
            ended = firing.recover(minute_us, rows, ~beyond, leans)
            self._report.end(ended, firing.side, firing.columns["since_us"])
            # relearn the level where the frozen one had become a guess
            old = self._baseline.columns["frozen"][ended] > limits.STALE_RESTART
            self._baseline.restart(ended[old & (expected.trust[ended] < limits.TRUSTED)])
            self._forget(ended)

    def _still_leaning(self, expected: Expectation, sigma: Floats) -> Floats:
        """Return the mean score above which an alert isn't over: for noisy groups, that of half of ``min_change``."""
        if not self._baseline.scale.is_sum:
            return np.full(len(sigma), limits.QUICK_LEAN)
        half = (np.sqrt(1 + self._rule.min_change) - 1) / 2
        least: Floats = np.clip(half * expected.point / sigma, 0.3, limits.QUICK_LEAN)
        return least

    def _forget(self, groups: GroupNumbers) -> None:
        for name in _MEANS:
            self._scores[name][groups] = 0.0

    def _adopt(self, minute_us: int) -> None:
        for firing in (self._up, self._down):
            lasting = firing.lasting(minute_us, self._rule.adopt_after)
            if len(lasting):
                firing.end(lasting)
                self._report.end(lasting, firing.side, firing.columns["since_us"])
                self._baseline.restart(lasting)
                self._forget(lasting)

    def _calls(self, verdict: Verdict) -> Floats:
        """Return the calls that a sum's expectation implies; infinite for a ratio, whose calls have no expectation."""
        size = self._baseline.call_size()
        if not self._baseline.scale.is_sum:
            return np.full(len(size), np.inf)
        return np.where(size > 0, verdict.band.expected / np.maximum(size, 1e-30), np.inf)

    def check_open_minutes(self, rows: GroupNumbers, through_us: int, opened: Sequence[tuple[int, Sums]]) -> Mask:
        """Compare open minutes so far with their whole bound. Returns which of ``rows`` are beyond it.

        ``opened``: minute and the sums of ``rows`` in it, oldest first.
        """
        run = self._up.columns["run"][rows].astype(np.int64)
        since = np.where(run > 0, self._up.columns["since_us"][rows], -1)
        ever = np.zeros(len(rows), dtype=np.bool_)
        for minute_us, sums in opened:
            expected = self._baseline.expect(minute_us, through_us, rows)
            verdict = self._scorer.score(minute_us, sums, expected, rows)
            breached = verdict.up & ~self._down.firing[rows]
            since = np.where(breached & (run == 0), minute_us, since)
            run = np.where(breached, run + 1, 0)
            ever |= breached
            self._raise(rows, breached & ((run >= limits.RUN) | verdict.extreme_up), Level.FIRING, since, verdict)
            self._raise(rows, breached, Level.SUSPECT, since, verdict)
        return ever

    def _raise(self, rows: GroupNumbers, which: Mask, level: Level, since: NDArray[np.int64], verdict: Verdict) -> None:
        at = np.flatnonzero(which)
        if len(at):
            self._up.check_open_minutes(rows[at], level, since[at])
            self._report.show(rows[at], verdict, at)

    def band(self, rows: GroupNumbers, minute_us: int, through_us: int) -> Band:
        """Return the band of an open minute, for the usual number of calls."""
        expected = self._baseline.expect(minute_us, through_us, rows)
        calls = self._baseline.columns["calls"][rows]
        sums = Sums(*(np.zeros(len(rows), dtype=np.int64) for _ in Sums._fields))
        return self._scorer.band(sums, expected, self._baseline.sigma(calls, rows), rows)

    def findings(self) -> list[Finding]:
        """Return every (group, facet) that isn't normal, and those that have just become so."""
        found: dict[tuple[int, str], Finding] = {}
        for group, facet, since_us in self._report.ended():
            found[group, facet] = self._report.finding(group, facet, Level.NORMAL, since_us)
        for firing in (self._up, self._down):
            for group in firing.abnormal().tolist():
                level, since = Level(int(firing.columns["level"][group])), int(firing.columns["since_us"][group])
                found[group, firing.side] = self._report.finding(group, firing.side, level, since)
        for group in np.flatnonzero(self._silence.firing).tolist():
            rate, since = float(self._silence.columns["rate"][group]), int(self._silence.columns["since_us"][group])
            found[group, "no_data"] = Finding(
                group, "no_data", Level.FIRING, since, observed=0.0, expected=rate, unit="calls/min"
            )
        return list(found.values())

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        parts = (self._up, self._down, self._silence)
        merged = self._scores.snapshot("score_")
        for part in parts:
            merged |= part.snapshot()
        return merged

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._scores.restore(arrays, "score_")
        for part in (self._up, self._down, self._silence):
            part.restore(arrays)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        parts = (self._scores, self._up.columns, self._down.columns, self._silence.columns)
        return sum(part.nbytes for part in parts)


_MARKS: Final = {"held": (np.bool_, False), "touched": (np.bool_, False)}
_UNSET: Final = -1


class AnomalyEvaluator:
    """One anomaly watch, all groups in columns. Facets: ``up``, ``down``, ``no_data``."""

    def __init__(self, rule: AnomalyRule, groups: Groups) -> None:
        self.rule = rule
        self._groups = groups
        self._scale = Scale.of(rule.measure)
        self._baseline = Baseline(self._scale)
        self._scorer = Scorer(rule, self._baseline)
        self._minutes = OpenMinutes(rule.measure)
        self._report = Report(rule.measure)
        self._state = AnomalyState(rule, self._baseline, self._scorer, self._report)
        self._marks = Columns(_MARKS)
        self._clock_us = _UNSET
        self._through_us = _UNSET  # open of the last closed minute
        self._stale = True  # whether open minutes may have changed

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
        """Drop minutes that are closed, or far behind the clock as it stood before the batch: imported history.

        The former clock counts because a batch read while catching up may itself span more than that.
        """
        oldest = max(self._through_us, _minute(seen_us - limits.FORGOTTEN_US) - MINUTE_US)
        late = updates.minutes_us <= oldest
        if not late.any():
            return updates
        return Updates(updates.groups[~late], updates.minutes_us[~late], updates.sums[~late])

    def findings(self, now_us: int) -> Iterable[Finding]:
        """Close what is due, check the open minutes that changed, and return what isn't normal."""
        self._advance(now_us)
        self._report.at(self._clock_us)
        if self._stale:
            self._stale = False
            self._check_open_minutes()
        return self._state.findings()

    def _advance(self, now_us: int) -> None:
        self._clock_us = max(self._clock_us, now_us)
        if self._through_us == _UNSET:
            return
        due_us = _minute(self._clock_us - limits.GRACE_US) - MINUTE_US
        if due_us - self._through_us > limits.GAP_US:
            # the clock jumped by more than a day: the time between is no evidence, and levels are out of date
            oldest = due_us - limits.FORGOTTEN_US
            self._minutes.drop_before(oldest)
            self._baseline.forget_levels()
            self._through_us = oldest - MINUTE_US
        for minute_us in range(self._through_us + MINUTE_US, due_us + MINUTE_US, MINUTE_US):
            self._close(minute_us)

    def _close(self, minute_us: int) -> None:
        self._grow(len(self._marks["held"]))
        sums = self._minutes.take(minute_us, self._marks.size)
        if self._marks.size:
            self._state.close(minute_us, self._through_us, sums, self._marks["held"])
        self._through_us = minute_us
        self._stale = True

    def _check_open_minutes(self) -> None:
        rows = np.flatnonzero(self._marks["touched"])
        opened = self._minutes.open()
        begun = [minute for minute in opened if self._through_us < minute <= self._clock_us]
        if not len(rows) or not self._scale.is_sum:  # a partial ratio doesn't bound the minute's ratio
            self._marks["touched"][rows] = False
            return
        read = [(minute, self._minutes.read(minute, self._marks.size, rows)) for minute in begun]
        breached = self._state.check_open_minutes(rows, self._through_us, read)
        # Minutes ahead of the clock, from a partition that was read further than another, wait for the clock.
        self._stale = any(minute > self._clock_us for minute in opened)
        if not self._stale:
            self._marks["touched"][rows[~breached]] = False

    def hold(self, groups: Collection[int]) -> None:
        """Name the groups that have a firing alert: from now until the next call they learn nothing."""
        held = self._marks["held"]
        held[:] = False
        known = np.fromiter((group for group in groups if group < len(held)), dtype=np.int64)
        held[known] = True

    def band(self, group: int, minute_us: int) -> tuple[float, float, float]:
        """Return (expected, lower, upper) of a minute that isn't closed, in the measure's unit. NaN: group unknown.

        For a ratio, the band is that of the group's usual number of calls.
        """
        if not 0 <= group < self._marks.size or self._baseline.columns["first_us"][group] < 0:
            return float("nan"), float("nan"), float("nan")
        band = self._state.band(np.array([group]), minute_us, self._through_us)
        return float(band.expected[0]), float(band.lower[0]), float(band.upper[0])

    def _grow(self, size: int) -> None:
        self._marks.grow(size)
        self._state.grow(size)

    def snapshot(self) -> Arrays:
        """Return all of the state."""
        return {
            "clock": np.array([self._clock_us, self._through_us, int(self._stale)], dtype=np.int64),
            **self._marks.snapshot("mark_"),
            **self._minutes.snapshot(),
            **self._baseline.snapshot(),
            **self._state.snapshot(),
            **self._report.snapshot(),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a snapshot's state. Raises KeyError where an array is missing."""
        found: dict[str, Column] = dict(arrays)
        self._clock_us, self._through_us, stale = (int(value) for value in found["clock"])
        self._stale = bool(stale)
        self._marks.restore(found, "mark_")
        for part in (self._minutes, self._baseline, self._state, self._report):
            part.restore(found)

    @property
    def nbytes(self) -> int:
        """Memory held for the groups, slack included."""
        parts = (self._marks, self._minutes, self._baseline, self._state, self._report)
        return sum(part.nbytes for part in parts)


def _minute(at_us: int) -> int:
    return at_us - at_us % MINUTE_US
