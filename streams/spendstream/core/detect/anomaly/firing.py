"""Minutes against their bands, and what follows from them: suspect, firing, silent, normal again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.baseline import Baseline, Expectation
from spendstream.core.detect.anomaly.minutes import Column, Columns, Domain, Floats, Rows, Sums
from spendstream.core.detect.finding import Finding, Level
from spendstream.core.detect.measures import unit
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.watch import AnomalyRule, Measure

Mask = NDArray[np.bool_]
GroupNumbers = NDArray[np.int64]


class Band(NamedTuple):
    """What is expected of a minute, in the measure's unit. Outside ``lower`` to ``upper`` it is unusual and matters.

    ``min_down`` and ``min_up``: the bounds that the rule's ``min_change`` and ``min_spend_usd`` alone would give.
    """

    expected: Floats
    lower: Floats
    upper: Floats
    min_down: Floats
    min_up: Floats


class Verdict(NamedTuple):
    """How a minute compares with its band, for some groups. ``score``: signed robust standard deviations."""

    observed: Floats
    band: Band
    score: Floats
    sigma: Floats
    ready: Mask
    up: Mask
    down: Mask
    extreme_up: Mask
    extreme_down: Mask


@dataclass(frozen=True)
class Scorer:
    """Scores minutes by one rule."""

    rule: AnomalyRule
    baseline: Baseline

    @property
    def bound(self) -> float:
        """Robust standard deviations of the rule's sensitivity."""
        return limits.BOUND[self.rule.sensitivity]

    def score(self, minute_us: int, sums: Sums, expected: Expectation, rows: Rows = slice(None)) -> Verdict:
        """Score a minute, whole or so far. A sum that is beyond its whole minute's bound stays beyond it."""
        calls = sums.calls.astype(np.float64)
        sigma = self.baseline.sigma(calls, rows)
        observed = self.baseline.scale.observed(sums)
        band = self.band(sums, expected, sigma, rows)
        score = self._deviation(observed, expected, sigma, rows)
        ready = self.baseline.ready(minute_us, self.rule.min_history * 1_000_000, rows)
        if not self.baseline.scale.is_sum:
            ready = ready & self.baseline.scale.known(sums) & (sums.calls >= self.rule.min_calls)
        upwards = ready & (self.rule.direction != "down")
        early = upwards & self._early(observed, sums, expected, band, rows)
        up = upwards & (self._sparing(observed, sums, band, rows) > band.upper)
        down = ready & (observed < band.lower) & (self.rule.direction != "up")
        sure_up, sure_down = self._extreme(observed, score, sums, expected, sigma, rows)
        return Verdict(observed, band, score, sigma, ready, up | early, down, up & sure_up | early, down & sure_down)

    def band(self, sums: Sums, expected: Expectation, sigma: Floats, rows: Rows, part: float = 1.0) -> Band:
        """Return the band of a minute. ``part``: the fraction of the bound and of the rule's minima to use."""
        scale = self.baseline.scale
        tail: Floats | float = 1.0  # widens the bound: sums of few calls have heavy tails
        if scale.is_sum:
            tail = 1 + limits.TAIL / np.sqrt(np.maximum(self.baseline.columns["calls"][rows], limits.TAIL_CALLS))
        reach = part * self.bound * sigma * tail + self.baseline.slack(expected, rows)
        mean = scale.mean(expected.point, sigma)
        least = np.maximum(part * self.rule.min_change * mean, part * self._min_effect(sums, mean, rows))
        upper = np.maximum(scale.back(expected.point + reach), mean + least)
        lower = np.minimum(scale.back(expected.point - reach), mean - least)
        return Band(mean, np.maximum(lower, 0), upper, mean - least, mean + least)

    def _early(self, observed: Floats, sums: Sums, expected: Expectation, band: Band, rows: Rows) -> Mask:
        """Return where the number of calls alone is enough evidence, even if the minute ended now. Sums only."""
        if not self.baseline.scale.is_sum:
            return np.zeros(len(observed), dtype=np.bool_)
        counted = np.minimum(observed, limits.COUNT_CAP * sums.calls * self.baseline.call_size(rows))
        score = self._deviation(counted, expected, self.baseline.count_sigma(rows), rows)
        enough: Mask = (score >= limits.COUNT_BOUND * self.bound) & (observed > band.min_up)
        return enough

    def _min_effect(self, sums: Sums, mean: Floats, rows: Rows) -> Floats:
        """Return the difference in the measure that is worth ``min_spend_usd`` a minute.

        For a sum, by the usual cost of one unit; for a mean, in proportion to the minute's spend; for a share, as a
        share of the minute's spend.
        """
        least = float(self.rule.min_spend_usd)
        if self.rule.measure == "cost" or not least:
            return np.full(len(mean), least)
        columns = self.baseline.columns
        spend = columns["cost"][rows]
        if self.baseline.scale.is_sum:
            worth = columns["numerator"][rows]
        else:
            spend = np.maximum(spend, sums.cost / PUSD)
            worth = np.ones(len(mean)) if self.baseline.scale.domain is Domain.SHARE else mean
        return np.where(spend > 0, least * worth / np.maximum(spend, 1e-30), np.inf)

    def _deviation(self, observed: Floats, expected: Expectation, sigma: Floats, rows: Rows) -> Floats:
        away = self.baseline.scale.forward(observed) - expected.point
        sure = np.maximum(np.abs(away) - self.baseline.slack(expected, rows), 0)
        score: Floats = np.copysign(sure / sigma, away)
        return score

    def _sparing(self, observed: Floats, sums: Sums, band: Band, rows: Rows) -> Floats:
        """Return the observed sums, with the size of a call capped in groups of few calls; ratios unchanged."""
        if not self.baseline.scale.is_sum:
            return observed
        size = self.baseline.call_size(rows)
        capped = np.minimum(observed, limits.SPARSE_CALL_CAP * sums.calls * size)
        return np.where(band.expected < limits.SPARSE_CALLS * size, capped, observed)

    def _extreme(
        self, observed: Floats, score: Floats, sums: Sums, expected: Expectation, sigma: Floats, rows: Rows
    ) -> tuple[Mask, Mask]:
        """Return where one minute is enough. A sum must still be extreme when the size of a call is capped."""
        far = limits.EXTREME * self.bound
        if not self.baseline.scale.is_sum:
            enough = sums.calls >= limits.RATIO_EXTREME_CALLS * max(self.rule.min_calls, 1)
            return (score >= far) & enough, (score <= -far) & enough
        capped = np.minimum(observed, limits.CALL_CAP * sums.calls * self.baseline.call_size(rows))
        return self._deviation(capped, expected, sigma, rows) >= far, score <= -far


# Plain integers: numpy asks an enum member for a dozen attributes at each comparison.
_NORMAL, _SUSPECT, _FIRING = int(Level.NORMAL), int(Level.SUSPECT), int(Level.FIRING)
_FIRING_LAYOUT: Final = {
    "level": (np.int8, _NORMAL),
    "run": (np.int16, 0),  # consecutive closed minutes beyond the bound, up to the last closed one
    "normal_minutes": (np.int8, 0),  # consecutive closed minutes that were normal, while firing
    "since_us": (np.int64, -1),
    "rise_us": (np.int64, -1),  # since when the last minutes' mean leans this way
}


class FiringState:
    """Whether each group is normal, suspect or firing in one direction."""

    def __init__(self, side: Literal["up", "down"]) -> None:
        self.side = side
        self.columns = Columns(_FIRING_LAYOUT)

    @property
    def firing(self) -> Mask:
        """Which groups fire."""
        mask: Mask = self.columns["level"] == _FIRING
        return mask

    def abnormal(self) -> GroupNumbers:
        """Return the groups that are suspect or firing."""
        return np.flatnonzero(self.columns["level"] != _NORMAL)

    def lean(self, minute_us: int, leaning: Mask) -> None:
        """Record since when the mean of the last minutes leans this way."""
        rise = self.columns["rise_us"]
        rise[~leaning] = -1
        rise[leaning & (rise < 0)] = minute_us

    def close(self, minute_us: int, breached: Mask, extreme: Mask, slow: Mask, free: Mask) -> GroupNumbers:
        """Take in a closed minute. Returns the groups that were suspect and are now normal.

        ``breached``: the minute is beyond the bound. ``extreme``: so far that one minute is enough. ``slow``: the
        mean of the last minutes is beyond its own bound. ``free``: the group does not fire in the other direction.
        """
        columns = self.columns
        level, run, since = columns["level"], columns["run"], columns["since_us"]
        quiet = level != _FIRING
        breached, slow = breached & free, slow & free
        columns["run"][:] = np.where(breached, np.minimum(run + 1, 30_000), 0)
        since[quiet & breached & (run == 1)] = minute_us
        fires = quiet & ((run >= limits.RUN) | (breached & extreme) | slow)
        dated = fires & slow & (columns["rise_us"] >= 0)  # firing by the mean, since it began to lean
        rise = columns["rise_us"]
        since[dated] = np.where(breached, np.minimum(since, rise), rise)[dated]
        was_suspect = level == _SUSPECT
        level[quiet] = np.where(fires, _FIRING, np.where(breached, _SUSPECT, _NORMAL))[quiet]
        columns["normal_minutes"][fires] = 0
        return np.flatnonzero(was_suspect & (level == _NORMAL))

    def recover(self, minute_us: int, groups: GroupNumbers, normal: Mask, leaning: Mask) -> GroupNumbers:
        """Count normal minutes of firing ``groups``. Returns those that are normal again and no longer lean."""
        columns = self.columns
        counts = normal & (columns["since_us"][groups] < minute_us)
        columns["normal_minutes"][groups] = np.where(
            counts, np.minimum(columns["normal_minutes"][groups] + 1, limits.NORMAL_MINUTES), 0
        )
        ended = groups[(columns["normal_minutes"][groups] >= limits.NORMAL_MINUTES) & ~leaning]
        self.end(ended)
        return ended

    def lasting(self, minute_us: int, adopt_after_s: int) -> GroupNumbers:
        """Return the groups that have fired for so long that their level is the new normal."""
        return np.flatnonzero(self.firing & (minute_us - self.columns["since_us"] >= adopt_after_s * US))

    def end(self, groups: GroupNumbers) -> None:
        """Make groups normal."""
        self.columns["level"][groups] = _NORMAL
        self.columns["run"][groups] = 0
        self.columns["normal_minutes"][groups] = 0
        self.columns["rise_us"][groups] = -1

    def check_open_minutes(self, groups: GroupNumbers, level: int, since_us: Column) -> GroupNumbers:
        """Raise groups on the evidence of minutes that are still open. Returns the groups whose level rose."""
        columns = self.columns
        raised = columns["level"][groups] < level
        news = groups[raised]
        fresh = columns["level"][news] == _NORMAL
        columns["since_us"][news[fresh]] = since_us[raised][fresh]
        columns["level"][news] = level
        columns["normal_minutes"][news] = 0
        return news

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        return self.columns.snapshot(f"{self.side}_")

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self.columns.restore(arrays, f"{self.side}_")


_SILENCE_LAYOUT: Final = {
    "level": (np.int8, _NORMAL),
    "since_us": (np.int64, -1),  # first minute of the present silence
    "empty": (np.int32, 0),  # its closed minutes
    "missed": (np.float64, 0),  # calls that were expected in it
    "rate": (np.float64, 0),  # usual calls a minute, empty ones included
    "gap": (np.float32, 0),  # the longest silence that raised no alert, in minutes
}


class Silence:
    """Busy groups that fell silent: no call at all, for longer than chance or habit explains.

    ``after_s``: shorter silences don't count; None: no silence does.
    """

    def __init__(self, after_s: int | None, adopt_after_s: int) -> None:
        self._after_s = after_s
        self._adopt_after_s = adopt_after_s
        self.columns = Columns(_SILENCE_LAYOUT)

    @property
    def firing(self) -> Mask:
        """Which groups fire."""
        mask: Mask = self.columns["level"] == _FIRING
        return mask

    def close(
        self, minute_us: int, calls: Floats, expected: Floats, born: Mask, ready: Mask, held: Mask
    ) -> GroupNumbers:
        """Take in a closed minute. Returns the groups whose silence is over or has become their habit.

        ``expected``: calls, by the hour of the week; capped at the usual rate.
        """
        columns = self.columns
        quiet = born & (calls <= 0)
        back = ~quiet & (columns["empty"] > 0)
        ended = np.flatnonzero(~quiet & self.firing)
        self._learn(calls, quiet, back, held)
        columns["since_us"][quiet & (columns["empty"] == 0)] = minute_us
        columns["empty"][:] = np.where(quiet, columns["empty"] + 1, 0)
        missed = np.minimum(columns["rate"], expected)
        columns["missed"][:] = np.where(quiet, columns["missed"] + missed, 0.0)
        columns["level"][ended] = _NORMAL
        if self._after_s is not None:
            long = columns["empty"] * (MINUTE_US // US) >= self._after_s
            unusual = columns["empty"] >= limits.GAP_FACTOR * columns["gap"]
            implausible = long & unusual & (columns["missed"] >= limits.SILENCE_MISSED)
            columns["level"][implausible & ready] = _FIRING
        habit = np.flatnonzero(self.firing & (minute_us - columns["since_us"] >= self._adopt_after_s * US))
        columns["level"][habit] = _NORMAL
        columns["rate"][habit] = 0.0
        columns["missed"][habit] = 0.0
        return np.concatenate([ended, habit])

    def _learn(self, calls: Floats, quiet: Mask, back: Mask, held: Mask) -> None:
        """The rate learns from empty minutes only once the silence is over: until then it may be the alert."""
        columns = self.columns
        alert = self.firing
        columns["gap"][:] *= limits.GAP_DECAY
        habit = back & ~alert
        columns["gap"][habit] = np.maximum(columns["gap"], columns["empty"])[habit]
        keep = 1 - 2 * limits.USUAL
        passed = np.where(habit, np.power(keep, np.minimum(columns["empty"], 1000)), 1.0)
        learns = ~quiet & ~held
        rate = columns["rate"]
        rate[learns] = (keep * rate * passed + (1 - keep) * calls)[learns]

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        return self.columns.snapshot("silence_")

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self.columns.restore(arrays, "silence_")


Facet = Literal["up", "down", "no_data"]
FACETS: Final[tuple[Facet, ...]] = ("up", "down", "no_data")
_SHOWN: Final = ("observed", "expected", "limit", "score")
_REPORT_LAYOUT: Final = dict.fromkeys(_SHOWN, (np.float64, 0))
_NEVER: Final = -(2**62)


class Report:
    """The latest figures of each abnormal group, and each (group, facet) that has just ended."""

    def __init__(self, measure: Measure) -> None:
        self._unit = unit(measure)
        self._shown = Columns(_REPORT_LAYOUT)
        self._reported_us = _NEVER
        self._ended: dict[
            tuple[int, int, int], None
        ] = {}  # group, facet, since_us; reported at the moment _reported_us
        self._ending: dict[tuple[int, int, int], None] = {}  # ended since then

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        self._shown.grow(size)

    def at(self, now_us: int) -> None:
        """Begin a moment of the detection clock: what was reported as ended at an earlier one is dropped."""
        if now_us != self._reported_us:
            self._ended = {}
        self._reported_us = now_us
        self._ended |= self._ending
        self._ending = {}

    def show(self, rows: NDArray[np.int64], verdict: Verdict, at: NDArray[np.int64]) -> None:
        """Keep the figures of groups ``rows``, which are at positions ``at`` in the verdict."""
        rising = verdict.score[at] >= 0
        band = verdict.band
        self._shown["observed"][rows] = verdict.observed[at]
        self._shown["expected"][rows] = band.expected[at]
        self._shown["limit"][rows] = np.where(rising, band.upper[at], band.lower[at])
        self._shown["score"][rows] = verdict.score[at]

    def end(self, groups: NDArray[np.int64], facet: Facet, since_us: Column) -> None:
        """Record that groups have become normal under a facet."""
        for group, since in zip(groups.tolist(), since_us[groups].tolist(), strict=True):
            self._ending[group, FACETS.index(facet), since] = None

    def ended(self) -> list[tuple[int, Facet, int]]:
        """Return what has just ended: group, facet, since."""
        return [(group, FACETS[facet], since) for group, facet, since in self._ended]

    def finding(self, group: int, facet: Facet, level: Level, since_us: int) -> Finding:
        """Return a finding with the latest figures."""
        observed, expected, limit, score = (float(self._shown[name][group]) for name in _SHOWN)
        return Finding(group, facet, level, since_us, observed, expected, limit, score, self._unit)

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        return {
            **self._shown.snapshot("shown_"),
            "reported_us": np.array([self._reported_us], dtype=np.int64),
            "ended": np.array(list(self._ended), dtype=np.int64).reshape(-1, 3),
            "ending": np.array(list(self._ending), dtype=np.int64).reshape(-1, 3),
        }

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._shown.restore(arrays, "shown_")
        self._reported_us = int(arrays["reported_us"][0])
        self._ended = dict.fromkeys(map(tuple, arrays["ended"].tolist()))
        self._ending = dict.fromkeys(map(tuple, arrays["ending"].tolist()))

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._shown.nbytes
