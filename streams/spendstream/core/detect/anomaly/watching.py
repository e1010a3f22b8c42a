"""The order of things when a minute closes, and the look at minutes that are still open."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.baseline import Baseline, Expectation
from spendstream.core.detect.anomaly.columns import Column, Columns
from spendstream.core.detect.anomaly.judge import Band, Judge, Mask, Verdict
from spendstream.core.detect.anomaly.minutes import Sums
from spendstream.core.detect.anomaly.report import Report
from spendstream.core.detect.anomaly.scale import Floats
from spendstream.core.detect.anomaly.silence import Silence
from spendstream.core.detect.anomaly.standing import Groups, Standing
from spendstream.core.detect.finding import Finding, Level
from spendstream.schemas.watch import AnomalyRule

_LAYOUT: Final = {
    "drift": (np.float64, 0),  # mean of the last five minutes: standard deviations off what was expected, clipped
    "long": (np.float64, 0),  # of the last quarter of an hour
    "quick": (np.float64, 0),  # of the last three or so, as scores
}


class Watching:
    """Every group's standing under the rule."""

    def __init__(self, rule: AnomalyRule, baseline: Baseline, judge: Judge, report: Report) -> None:
        self._rule = rule
        self._baseline = baseline
        self._judge = judge
        self._report = report
        self._scores = Columns(_LAYOUT)
        self._up, self._down = Standing("up"), Standing("down")
        self._silence = Silence(rule.no_data_after, rule.adopt_after)

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        parts = (self._baseline, self._report, self._scores, self._up.columns, self._down.columns)
        for part in (*parts, self._silence.columns):
            part.grow(size)

    def close(self, minute_us: int, through_us: int, sums: Sums, held: Mask) -> None:
        """Judge a closed minute of all groups, then learn from those that do not fire and are not held."""
        expected = self._baseline.expect(minute_us, through_us)
        verdict = self._judge.judge(minute_us, sums, expected)
        self._score(verdict, expected)
        self._recover(minute_us, verdict, sums, expected)
        self._stand(minute_us, verdict, expected)
        silent = held | self._up.firing | self._down.firing
        self._fall_silent(minute_us, verdict, sums, silent)
        self._baseline.learn(minute_us, sums, expected, verdict.sigma, silent | self._silence.firing)
        self._adopt(minute_us)
        shown = np.union1d(self._up.abnormal(), self._down.abnormal())
        self._report.show(shown, verdict, shown)

    def _score(self, verdict: Verdict, expected: Expectation) -> None:
        """Fold a minute into the means; a minute without a verdict moves nothing."""
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
        """Whether the mean of the last minutes, few or many, is beyond its own bound, and far enough to matter."""
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
            up |= (away >= bound) & (mean > verdict.band.least_up)
            down |= (away <= -bound) & (mean < verdict.band.least_down)
        up &= verdict.ready & (verdict.score > 0)
        down &= verdict.ready & (verdict.score < 0)
        return up & (self._rule.direction != "down"), down & (self._rule.direction != "up")

    def _stand(self, minute_us: int, verdict: Verdict, expected: Expectation) -> None:
        slow_up, slow_down = self._slow(verdict, expected)
        score = self._scores["drift"] * 3.0
        for standing, other, sign, hot, extreme, slow in (
            (self._up, self._down, 1, verdict.up, verdict.extreme_up, slow_up),
            (self._down, self._up, -1, verdict.down, verdict.extreme_down, slow_down),
        ):
            standing.lean(minute_us, sign * score >= 1)
            ended = standing.close(minute_us, hot, extreme, slow, ~other.firing)
            self._report.end(ended, standing.side, standing.columns["since_us"])

    def _recover(self, minute_us: int, verdict: Verdict, sums: Sums, expected: Expectation) -> None:
        """A firing group is judged by half of what made it fire, against the baseline of before."""
        for standing, sign in ((self._up, 1), (self._down, -1)):
            rows = np.flatnonzero(standing.firing)
            if not len(rows):
                continue
            part = Sums(*(column[rows] for column in sums))
            then = Expectation(expected.point[rows], expected.trust[rows])
            band = self._judge.band(part, then, verdict.sigma[rows], rows, limits.STILL)
            seen = verdict.observed[rows]
            beyond = seen > band.upper if sign > 0 else seen < band.lower
            leans = sign * self._scores["quick"][rows] > self._still_leaning(then, verdict.sigma[rows])
            self._end(standing, standing.recover(minute_us, rows, ~beyond, leans), expected.trust)

    def _still_leaning(self, expected: Expectation, sigma: Floats) -> Floats:
        """Return the mean score above which it isn't over: in noisy groups, that of half the least change."""
        if not self._baseline.scale.is_sum:
            return np.full(len(sigma), limits.QUICK_LEAN)
        half = (np.sqrt(1 + self._rule.min_change) - 1) / 2
        least: Floats = np.clip(half * expected.point / sigma, 0.3, limits.QUICK_LEAN)
        return least

    def _end(self, standing: Standing, ended: Groups, trust: Floats) -> None:
        """Tell it, and learn the level anew where the frozen one had become a guess."""
        self._report.end(ended, standing.side, standing.columns["since_us"])
        old = (self._baseline.columns["frozen"][ended] > limits.STALE_RESTART) & (trust[ended] < limits.TRUSTED)
        self._baseline.restart(ended[old])
        self._forget(ended)

    def _forget(self, groups: Groups) -> None:
        for name in _LAYOUT:
            self._scores[name][groups] = 0.0

    def _adopt(self, minute_us: int) -> None:
        for standing in (self._up, self._down):
            lasting = standing.lasting(minute_us, self._rule.adopt_after)
            if len(lasting):
                standing.end(lasting)
                self._report.end(lasting, standing.side, standing.columns["since_us"])
                self._baseline.restart(lasting)
                self._forget(lasting)

    def _fall_silent(self, minute_us: int, verdict: Verdict, sums: Sums, held: Mask) -> None:
        calls = sums.calls.astype(np.float64)
        ready = self._baseline.ready(minute_us, self._rule.min_history * 1_000_000)
        born = self._baseline.columns["first_us"] >= 0
        since = self._silence.columns["since_us"].copy()
        ended = self._silence.close(minute_us, calls, self._calls(verdict), born, ready, held)
        self._report.end(ended, "no_data", since)

    def _calls(self, verdict: Verdict) -> Floats:
        """Return the calls that a sum's expectation stands for; of a ratio nothing is known but the usual rate."""
        size = self._baseline.call_size()
        if not self._baseline.scale.is_sum:
            return np.full(len(size), np.inf)
        return np.where(size > 0, verdict.band.expected / np.maximum(size, 1e-30), np.inf)

    def glimpse(self, rows: Groups, through_us: int, opened: Sequence[tuple[int, Sums]]) -> Mask:
        """Hold what open minutes came to so far against their whole bound; return which of ``rows`` are beyond it.

        ``opened``: minute and the sums of ``rows`` in it, oldest first.
        """
        run = self._up.columns["run"][rows].astype(np.int64)
        since = np.where(run > 0, self._up.columns["since_us"][rows], -1)
        ever = np.zeros(len(rows), dtype=np.bool_)
        for minute_us, sums in opened:
            expected = self._baseline.expect(minute_us, through_us, rows)
            verdict = self._judge.judge(minute_us, sums, expected, rows)
            hot = verdict.up & ~self._down.firing[rows]
            since = np.where(hot & (run == 0), minute_us, since)
            run = np.where(hot, run + 1, 0)
            ever |= hot
            self._raise(rows, hot & ((run >= limits.RUN) | verdict.extreme_up), Level.FIRING, since, verdict)
            self._raise(rows, hot, Level.SUSPECT, since, verdict)
        return ever

    def _raise(self, rows: Groups, which: Mask, level: Level, since: NDArray[np.int64], verdict: Verdict) -> None:
        at = np.flatnonzero(which)
        if len(at):
            self._up.glimpse(rows[at], level, since[at])
            self._report.show(rows[at], verdict, at)

    def band(self, rows: Groups, minute_us: int, through_us: int) -> Band:
        """Return the band of an open minute, for the usual number of calls."""
        expected = self._baseline.expect(minute_us, through_us, rows)
        calls = self._baseline.columns["calls"][rows]
        sums = Sums(*(np.zeros(len(rows), dtype=np.int64) for _ in Sums._fields))
        return self._judge.band(sums, expected, self._baseline.sigma(calls, rows), rows)

    def findings(self) -> list[Finding]:
        """Return every (group, facet) that isn't normal, and those that have just become so."""
        found: dict[tuple[int, str], Finding] = {}
        for group, facet, since_us in self._report.ended():
            found[group, facet] = self._report.finding(group, facet, Level.NORMAL, since_us)
        for standing in (self._up, self._down):
            for group in standing.abnormal().tolist():
                level, since = Level(int(standing.columns["level"][group])), int(standing.columns["since_us"][group])
                found[group, standing.side] = self._report.finding(group, standing.side, level, since)
        for group in np.flatnonzero(self._silence.firing).tolist():
            found[group, "no_data"] = self._silent(group)
        return list(found.values())

    def _silent(self, group: int) -> Finding:
        columns = self._silence.columns
        rate = float(columns["rate"][group])
        since = int(columns["since_us"][group])
        return Finding(group, "no_data", Level.FIRING, since, 0.0, rate, None, None, "calls/min")

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
