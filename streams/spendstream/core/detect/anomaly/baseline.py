"""What is usual for each group: a level with a local trend, the spread around it, and the hour of the week.

All in the measure's domain (``scale.py``). One's own outliers are clipped before they teach; who is held teaches
nothing, and is expected to go on as it was, along the hours of the week where they are known.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.columns import Column, Columns, Rows
from spendstream.core.detect.anomaly.minutes import Sums
from spendstream.core.detect.anomaly.scale import Floats, Scale
from spendstream.core.detect.anomaly.season import Season
from spendstream.core.detect.anomaly.slopes import Slopes
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US

_LAYOUT: Final = {
    "first_us": (np.int64, -1),  # first minute with calls
    "taught": (np.int32, 0),  # minutes learned from, since the level was last learned anew
    "active": (np.int32, 0),  # of them, with calls
    "frozen": (np.int32, 0),  # minutes since it last learned, while held
    "stale": (np.float32, 0),  # how unsure that has made it, as a part of the level
    "level": (np.float64, 0),
    "trend": (np.float64, 0),  # per minute
    "spread": (np.float64, 0),  # mean absolute weighted residual
    "bustle": (np.float32, 0),  # the same of the root of the number of calls
    "recent": (np.float64, 0),  # mean of the last five minutes, held or not
    "along": (np.float64, 0),  # with "across": how the group now stands to its hours of the week
    "across": (np.float64, 0),
    "numerator": (np.float64, 0),  # usual sums per minute, clipped: in the measure's unit, USD, calls
    "cost": (np.float64, 0),
    "calls": (np.float64, 0),
}


class Expectation(NamedTuple):
    """What is expected of a minute, in the domain. ``trust``: in the hour of the week, 0 to 1."""

    point: Floats
    trust: Floats


class Baseline:
    """The baselines of all groups."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.columns = Columns(_LAYOUT)
        self.season = Season()
        self.slopes = Slopes()

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        self.columns.grow(size)
        self.season.grow(size)
        self.slopes.grow(size)

    def expect(self, minute_us: int, through_us: int, rows: Rows = slice(None)) -> Expectation:
        """Return what is expected of a minute later than ``through_us``."""
        columns = self.columns
        change, trust = self.season.way(through_us, minute_us, rows)
        ahead = max(0, (minute_us - through_us) // MINUTE_US)
        usual = change * (trust > 0) * self._standing(rows)
        point = columns["level"][rows] + ahead * columns["trend"][rows] + usual
        return Expectation(np.maximum(point, 0) if self.scale.is_sum else point, trust)

    def _standing(self, rows: Rows) -> Floats:
        """Return how the group stands to its usual hours: 1.2 where the roots are 20% above them. 1 for ratios."""
        across = self.columns["across"][rows]
        if not self.scale.is_sum:
            return np.ones(len(across))
        return np.where(across > 0, np.clip(self.columns["along"][rows] / np.maximum(across, 1e-30), 0.2, 5.0), 1.0)

    def sigma(self, calls: Floats, rows: Rows = slice(None)) -> Floats:
        """Return the standard deviation of a minute with so many calls, in the domain; wider while history is short."""
        columns = self.columns
        spread, weight = columns["spread"][rows], self.scale.weight(calls)
        sigma = self.scale.sigma(spread, weight, columns["level"][rows], self.call_size(rows))
        return sigma * (1 + 5 / np.maximum(columns["taught"][rows], 1))

    def call_size(self, rows: Rows = slice(None)) -> Floats:
        """Return the usual size of one call, in the measure's unit; 0 where nothing is known."""
        calls = self.columns["calls"][rows]
        return np.where(calls > 0, self.columns["numerator"][rows] / np.maximum(calls, 1e-12), 0.0)

    def slack(self, expected: Expectation, rows: Rows = slice(None)) -> Floats:
        """Return what the baseline may be off by in one minute, in the domain: less, the more is known of this hour.

        More, the longer it has been frozen.
        """
        stale = self.columns["stale"][rows]
        if not self.scale.is_sum:
            return stale * (1 - expected.trust)
        slope = limits.SLOPE_LEAST + limits.SLOPE_SHARE * self.slopes.now[rows]
        steep = np.fmin(slope, limits.SLOPE)
        slack: Floats = np.minimum(steep + stale, limits.STALE_CAP) * (1 - expected.trust) * np.abs(expected.point)
        return slack

    def drift_slack(self, expected: Expectation) -> Floats:
        """Return the same for a mean over many minutes of all groups."""
        stale = self.columns["stale"] * (1 - expected.trust)
        if not self.scale.is_sum:
            return stale
        now = self.slopes.now
        share = np.where(expected.trust >= limits.TRUSTED, limits.DRIFT_SLOPE_TRUSTED, limits.DRIFT_SLOPE_SHARE)
        blind = np.where(expected.trust >= limits.TRUSTED, limits.SLOPE, limits.DRIFT_SLOPE)
        steep = np.where(np.isnan(now), blind, limits.SLOPE_LEAST + share * now)
        return (steep + stale) * np.abs(expected.point)

    def count_sigma(self, rows: Rows = slice(None)) -> Floats:
        """Return the standard deviation of a minute of a sum, in the domain, if every call had the usual size."""
        bustle = np.maximum(2 * 1.2533 * self.columns["bustle"][rows], 1.0)  # 1: no burstier than chance
        least = 0.02 * np.abs(self.columns["level"][rows])
        return np.maximum(0.5 * np.sqrt(self.call_size(rows)) * bustle, least) + 1e-12

    def learn(self, minute_us: int, sums: Sums, expected: Expectation, sigma: Floats, held: NDArray[np.bool_]) -> None:
        """Take in one closed minute of all groups."""
        columns = self.columns
        self._meet(minute_us, sums)
        born = columns["first_us"] >= 0
        known = born & self.scale.known(sums)
        points = self.scale.forward(self.scale.observed(sums))
        self._follow_recent(points, known)
        columns["level"][:] = np.where(columns["taught"] > 0, expected.point, points)
        teach = known & ~held
        self._freeze(held, expected)
        self._learn_bustle(sums, teach, expected)
        self._learn_usual(sums, teach, expected, sigma)
        self._learn_level(points, sums, teach, expected, sigma)
        self._learn_standing(minute_us, points, teach, expected)
        self.season.learn(minute_us, points, teach)
        if self.scale.is_sum:
            self.slopes.learn(minute_us, points, sigma, teach)
        columns["taught"][teach] += 1
        columns["active"][teach & (sums.calls > 0)] += 1

    def _meet(self, minute_us: int, sums: Sums) -> None:
        first = self.columns["first_us"]
        first[(first < 0) & (sums.calls > 0)] = minute_us

    def _freeze(self, held: NDArray[np.bool_], expected: Expectation) -> None:
        """Who is held goes on as on other days, and grows unsure."""
        columns = self.columns
        columns["frozen"][:] = np.where(held, columns["frozen"] + 1, 0)
        columns["trend"][held] = 0.0
        unsure = np.full(len(held), limits.STALE)
        if self.scale.is_sum:
            path = np.where(expected.trust > 0, 0.0, self.slopes.path)  # else the point has heeded it
            columns["level"][held] += (path * columns["level"])[held]
            now = self.slopes.now
            unsure += limits.STALE_SLOPE / 30 * np.where(np.isnan(now), limits.STALE_BLIND, now)
        stale = columns["stale"]
        stale[:] = np.where(held, np.minimum(stale + unsure, limits.STALE_CAP), limits.STALE_FADES * stale)

    def _follow_recent(self, points: Floats, known: NDArray[np.bool_]) -> None:
        recent = self.columns["recent"]
        weight = np.where(self.columns["taught"] > 0, limits.RECENT, 1.0) * known
        recent += weight * (points - recent)

    def _learn_bustle(self, sums: Sums, teach: NDArray[np.bool_], expected: Expectation) -> None:
        """How much the number of calls varies beside what is usual; sums only. Its own outliers are clipped."""
        columns = self.columns
        size = self.call_size()
        if not self.scale.is_sum:
            return
        usual = np.sqrt(self.scale.back(expected.point) / np.maximum(size, 1e-30))
        away = np.where(size > 0, np.abs(np.sqrt(np.maximum(sums.calls, 0)) - usual), 0.0)
        most = np.where(
            columns["taught"] < limits.WARM, np.inf, limits.SPREAD_CLIP * np.maximum(columns["bustle"], 0.4)
        )
        weight = np.maximum(1 / limits.SPREAD_TAU, 1 / (columns["taught"] + 1.0)) * (teach & (size > 0))
        columns["bustle"][:] += weight * (np.minimum(away, most) - columns["bustle"])

    def _learn_usual(self, sums: Sums, teach: NDArray[np.bool_], expected: Expectation, sigma: Floats) -> None:
        """Usual size and number of calls: a minute's sums scaled down to the clip, so that no outlier teaches them."""
        columns = self.columns
        observed = self.scale.observed(sums)
        share = np.ones(len(observed))
        if self.scale.is_sum:
            most = self.scale.back(expected.point + limits.CLIP * sigma)
            share = np.where(columns["taught"] < limits.WARM, 1.0, np.minimum(1, most / np.maximum(observed, 1e-30)))
        weight = np.maximum(limits.USUAL, 1 / (columns["taught"] + 1.0)) * (teach & (sums.calls > 0))
        for name, values in (
            ("numerator", sums.numerator / self.scale.scale),
            ("cost", sums.cost / PUSD),
            ("calls", sums.calls.astype(np.float64)),
        ):
            columns[name][:] += weight * (values * share - columns[name])

    def _learn_level(
        self, points: Floats, sums: Sums, teach: NDArray[np.bool_], expected: Expectation, sigma: Floats
    ) -> None:
        columns = self.columns
        taught = columns["taught"]
        warm = taught >= limits.WARM
        residual = (points - columns["level"]) * teach
        size = np.abs(columns["level"]) if self.scale.is_sum else np.ones(len(sigma))
        most = np.maximum(limits.CLIP * sigma, limits.CLIP_LEAST * size * self.scale.is_sum)
        clipped = np.where(warm, np.clip(residual, -most, most), residual)
        follow = 1 / self._tau(sigma, expected.trust)
        gain = np.where(warm, 1 - np.square(1 - follow), np.maximum(1 / (taught + 1.0), 0.05))
        columns["level"][:] += gain * clipped
        trend = limits.TREND_DAMPING * columns["trend"] + np.where(warm, np.square(follow), 0.0) * clipped
        columns["trend"][:] = np.clip(trend, -limits.TREND_CAP * size, limits.TREND_CAP * size)
        self._learn_spread(residual, sums, teach)

    def _tau(self, sigma: Floats, trust: Floats) -> Floats:
        level = np.abs(self.columns["level"]) if self.scale.is_sum else np.ones(len(sigma))
        noise = limits.QUIET * sigma / np.maximum(level, 1e-30)
        tau = np.clip(limits.TAU_FAST * np.sqrt(noise), limits.TAU_FAST, limits.TAU_SLOW)
        tau = np.where(self.slopes.now <= limits.FLAT, np.maximum(tau, limits.TAU_FLAT), tau)
        slow: Floats = np.where(trust >= limits.TRUSTED, np.maximum(tau, limits.TAU_SEASONAL), tau)
        return slow

    def _learn_spread(self, residual: Floats, sums: Sums, teach: NDArray[np.bool_]) -> None:
        columns = self.columns
        size = np.abs(residual) * self.scale.weight(sums.calls.astype(np.float64))
        spread = columns["spread"]
        most = np.where(columns["taught"] < limits.WARM, np.inf, limits.SPREAD_CLIP * np.maximum(spread, 1e-12))
        weight = np.maximum(1 / limits.SPREAD_TAU, 1 / (columns["taught"] + 1.0)) * teach
        spread += weight * (np.minimum(size, most) - spread)

    def _learn_standing(self, minute_us: int, points: Floats, teach: NDArray[np.bool_], expected: Expectation) -> None:
        if self.scale.is_sum and expected.trust.any():
            usual = self.season.usual(minute_us)
            weight = limits.USUAL / 6 * (teach & (expected.trust > 0))
            self.columns["along"][:] += weight * (points * usual - self.columns["along"])
            self.columns["across"][:] += weight * (usual * usual - self.columns["across"])

    def restart(self, groups: NDArray[np.int64]) -> None:
        """Learn the level of groups anew, from the last minutes; spread and hours of the week stay."""
        columns = self.columns
        columns["level"][groups] = columns["recent"][groups]
        columns["trend"][groups] = 0.0
        columns["frozen"][groups] = 0
        columns["along"][groups] = 0.0
        columns["across"][groups] = 0.0
        columns["taught"][groups] = np.minimum(columns["taught"][groups], limits.WARM)

    def forget_levels(self) -> None:
        """The clock leapt: all levels are learned anew from the next minutes; hours of the week stay."""
        columns = self.columns
        for name in ("taught", "active", "frozen", "trend"):
            columns[name][:] = 0

    def ready(self, minute_us: int, min_history_us: int, rows: Rows = slice(None)) -> NDArray[np.bool_]:
        """Whether groups are known long enough for a verdict on a minute."""
        columns = self.columns
        first = columns["first_us"][rows]
        old = (first >= 0) & (minute_us - first >= min_history_us)
        return old & (columns["active"][rows] >= limits.ACTIVE_MINUTES)

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        return {**self.columns.snapshot("base_"), **self.season.snapshot(), **self.slopes.snapshot()}

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self.columns.restore(arrays, "base_")
        self.season.restore(arrays)
        self.slopes.restore(arrays)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.columns.nbytes + self.season.nbytes + self.slopes.nbytes
