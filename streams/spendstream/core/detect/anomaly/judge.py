"""One minute against its band: how unusual it is, and whether that matters."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.baseline import Baseline, Expectation
from spendstream.core.detect.anomaly.columns import Rows
from spendstream.core.detect.anomaly.minutes import Sums
from spendstream.core.detect.anomaly.scale import Domain, Floats
from spendstream.core.money import PUSD
from spendstream.schemas.watch import AnomalyRule

Mask = NDArray[np.bool_]


class Band(NamedTuple):
    """What is expected of a minute, in the measure's unit. Beyond ``lower`` and ``upper`` it is unusual and matters.

    ``least_down`` and ``least_up``: where the rule's ``min_change`` and ``min_spend_usd`` begin, by themselves.
    """

    expected: Floats
    lower: Floats
    upper: Floats
    least_down: Floats
    least_up: Floats


class Verdict(NamedTuple):
    """A minute's standing against its band, for some groups. ``score``: signed robust standard deviations."""

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
class Judge:
    """Judges minutes by one rule."""

    rule: AnomalyRule
    baseline: Baseline

    @property
    def bound(self) -> float:
        """Robust standard deviations of the rule's sensitivity."""
        return limits.BOUND[self.rule.sensitivity]

    def judge(self, minute_us: int, sums: Sums, expected: Expectation, rows: Rows = slice(None)) -> Verdict:
        """Judge a minute, whole or so far. A sum that is beyond its whole minute's bound stays beyond it."""
        calls = sums.calls.astype(np.float64)
        sigma = self.baseline.sigma(calls, rows)
        observed = self.baseline.scale.observed(sums)
        band = self.band(sums, expected, sigma, rows)
        score = self._score(observed, expected, sigma, rows)
        ready = self._ready(minute_us, sums, rows)
        upwards = ready & (self.rule.direction != "down")
        early = upwards & self._early(observed, sums, expected, band, rows)
        up = upwards & (self._sparing(observed, sums, band, rows) > band.upper)
        down = ready & (observed < band.lower) & (self.rule.direction != "up")
        sure_up, sure_down = self._extreme(observed, score, sums, expected, sigma, rows)
        return Verdict(observed, band, score, sigma, ready, up | early, down, up & sure_up | early, down & sure_down)

    def band(self, sums: Sums, expected: Expectation, sigma: Floats, rows: Rows, part: float = 1.0) -> Band:
        """Return the band of a minute; ``part`` of the bound and of what the rule asks for at least."""
        scale = self.baseline.scale
        reach = part * self.bound * sigma * self._tail(rows) + self.baseline.slack(expected, rows)
        mean = scale.mean(expected.point, sigma)
        least = np.maximum(part * self.rule.min_change * mean, part * self._stake(sums, mean, rows))
        upper = np.maximum(scale.back(expected.point + reach), mean + least)
        lower = np.minimum(scale.back(expected.point - reach), mean - least)
        return Band(mean, np.maximum(lower, 0), upper, mean - least, mean + least)

    def _tail(self, rows: Rows) -> Floats | float:
        """Return how much wider the bound of a minute is, for the heavy tail of a sum of few calls."""
        if not self.baseline.scale.is_sum:
            return 1.0
        calls = np.maximum(self.baseline.columns["calls"][rows], limits.TAIL_CALLS)
        tail: Floats = 1 + limits.TAIL / np.sqrt(calls)
        return tail

    def _early(self, observed: Floats, sums: Sums, expected: Expectation, band: Band, rows: Rows) -> Mask:
        """Whether the number of calls alone is evidence enough, even if the minute ended now. Sums only."""
        if not self.baseline.scale.is_sum:
            return np.zeros(len(observed), dtype=np.bool_)
        counted = np.minimum(observed, limits.COUNT_CAP * sums.calls * self.baseline.call_size(rows))
        score = self._score(counted, expected, self.baseline.count_sigma(rows), rows)
        enough: Mask = (score >= limits.COUNT_BOUND * self.bound) & (observed > band.least_up)
        return enough

    def _stake(self, sums: Sums, mean: Floats, rows: Rows) -> Floats:
        """Return the difference in the measure that comes to ``min_spend_usd`` a minute.

        Of a sum: by what one of it usually costs. Of a mean: by the minute's spend, in proportion. Of a share: of the
        minute's spend.
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

    def _score(self, observed: Floats, expected: Expectation, sigma: Floats, rows: Rows) -> Floats:
        away = self.baseline.scale.forward(observed) - expected.point
        sure = np.maximum(np.abs(away) - self.baseline.slack(expected, rows), 0)
        score: Floats = np.copysign(sure / sigma, away)
        return score

    def _sparing(self, observed: Floats, sums: Sums, band: Band, rows: Rows) -> Floats:
        """Return the observed sums, with calls capped in groups of few calls; ratios as they are."""
        if not self.baseline.scale.is_sum:
            return observed
        size = self.baseline.call_size(rows)
        capped = np.minimum(observed, limits.SPARSE_CALL_CAP * sums.calls * size)
        return np.where(band.expected < limits.SPARSE_CALLS * size, capped, observed)

    def _ready(self, minute_us: int, sums: Sums, rows: Rows) -> Mask:
        ready = self.baseline.ready(minute_us, self.rule.min_history * 1_000_000, rows)
        if self.baseline.scale.is_sum:
            return ready
        return ready & self.baseline.scale.known(sums) & (sums.calls >= self.rule.min_calls)

    def _extreme(
        self, observed: Floats, score: Floats, sums: Sums, expected: Expectation, sigma: Floats, rows: Rows
    ) -> tuple[Mask, Mask]:
        """Whether one minute is enough. Of a sum, its calls must say so even where each counts little."""
        far = limits.EXTREME * self.bound
        if not self.baseline.scale.is_sum:
            enough = sums.calls >= limits.RATIO_EXTREME_CALLS * max(self.rule.min_calls, 1)
            return (score >= far) & enough, (score <= -far) & enough
        capped = np.minimum(observed, limits.CALL_CAP * sums.calls * self.baseline.call_size(rows))
        return self._score(capped, expected, sigma, rows) >= far, score <= -far
