"""What is usual for each group: a level with a local trend, the spread around it, and the hour of the week.

All values are in the measure's domain (``Scale``). A group's own outliers are clipped before they are learned. A held
group learns nothing and is expected to continue as it was, along its hours of the week where they are known.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.limits import HOUR_US, SEASON_AFTER_HOURS, SEASON_MINUTES, WEEKS_MEMORY
from spendstream.core.detect.anomaly.minutes import Column, Columns, Floats, Rows, Scale, Sums
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US

_HOURS: Final = 168
_BINS: Final = [f"mean_{hour}" for hour in range(_HOURS)]
_SEEN: Final = [f"seen_{hour}" for hour in range(_HOURS)]
# One column an hour: a closing minute reads two hours of all groups, each contiguous.
_SEASON_TABLE: Final = {**dict.fromkeys(_BINS, (np.float32, 0)), **dict.fromkeys(_SEEN, (np.uint8, 0))}
_SEASON_LAYOUT: Final = {
    "row": (np.int32, -1),
    "total": (np.float32, 0),
    "minutes": (np.uint8, 0),
    "hours": (np.uint16, 0),
}


class Season:
    """What is usual at each hour of the week: 168 means a group, in the measure's domain, once it is old enough.

    Only the change from one minute to the next is taken from it, not the level: a group that is 30% up this week is
    still expected to double between eight and nine. Between the middles of two hours the mean is interpolated.
    """

    def __init__(self) -> None:
        self._columns = Columns(_SEASON_LAYOUT)
        self._table = Columns(_SEASON_TABLE)

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        self._columns.grow(size)

    def change(self, from_us: int, to_us: int, rows: Rows) -> tuple[Floats, Floats]:
        """Return the usual change between two minutes, and the trust in it: 0 (unknown), 1/2 (two weeks), to 1."""
        index = self._columns["row"][rows]
        change, trust = np.zeros(len(index)), np.zeros(len(index))
        if not self._table.size or not len(index):
            return change, trust
        has = np.flatnonzero(index >= 0)
        end, weeks = self._at(to_us, index[has])
        start, _ = self._at(from_us, index[has])
        sure = np.where(weeks >= 2, 1 - 1 / np.maximum(weeks, 1), 0.0)
        change[has], trust[has] = end - start, sure
        return change, trust

    def usual(self, minute_us: int) -> Floats:
        """Return every group's mean at a minute; 0 where unknown."""
        index = self._columns["row"]
        found = np.zeros(len(index))
        has = np.flatnonzero(index >= 0)
        if len(has):
            found[has], _ = self._at(minute_us, index[has])
        return found

    def _at(self, minute_us: int, index: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Return means and weeks seen at a minute, interpolated between the middles of its two hours."""
        position = minute_us / HOUR_US - 0.5
        hour = int(position // 1)
        part = position - hour
        near, far = hour % _HOURS, (hour + 1) % _HOURS
        means = self._table[_BINS[near]][index] * (1 - part) + self._table[_BINS[far]][index] * part
        weeks = np.minimum(self._table[_SEEN[near]][index], self._table[_SEEN[far]][index])
        return means.astype(np.float64), weeks.astype(np.float64)

    def learn(self, minute_us: int, points: Floats, learns: NDArray[np.bool_]) -> None:
        """Take in one closed minute; the last one of an hour completes the hour's mean."""
        columns = self._columns
        columns["total"][learns] += points[learns]
        columns["minutes"][learns] += 1
        if (minute_us // 60_000_000) % 60 == 59:
            self._complete((minute_us // HOUR_US) % _HOURS)

    def _complete(self, hour: int) -> None:
        columns = self._columns
        full = columns["minutes"] >= SEASON_MINUTES
        columns["hours"][full & (columns["hours"] < 65_535)] += 1
        fresh = np.flatnonzero(full & (columns["row"] < 0) & (columns["hours"] >= SEASON_AFTER_HOURS))
        if len(fresh):
            first = self._table.size
            self._table.grow(first + len(fresh))
            columns["row"][fresh] = np.arange(first, first + len(fresh))
        at = np.flatnonzero(full & (columns["row"] >= 0))
        index = columns["row"][at]
        if len(index):
            means, seen = self._table[_BINS[hour]], self._table[_SEEN[hour]]
            seen[index] = np.minimum(seen[index] + 1, WEEKS_MEMORY)
            means[index] += (columns["total"][at] / columns["minutes"][at] - means[index]) / seen[index]
        columns["total"][:] = 0
        columns["minutes"][:] = 0

    def snapshot(self) -> dict[str, Column]:
        """Return all state; the table as two matrices, hours × rows."""
        return {
            **self._columns.snapshot("season_"),
            "season_table": np.stack([self._table[name] for name in _BINS]),
            "season_seen": np.stack([self._table[name] for name in _SEEN]),
        }

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._columns.restore(arrays, "season_")
        table = dict(zip(_BINS, arrays["season_table"], strict=True))
        self._table.restore({**table, **dict(zip(_SEEN, arrays["season_seen"], strict=True))})

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._columns.nbytes + self._table.nbytes


_HALF_HOUR_US: Final = 30 * MINUTE_US
_SLOTS: Final = 48
_SLOPE_NAMES: Final = [f"change_{slot}" for slot in range(_SLOTS)]
# Half precision: a change known to a thousandth is known well enough. NaN: not seen yet.
_SLOPE_TABLE: Final = dict.fromkeys(_SLOPE_NAMES, (np.float16, np.nan))
_SLOPE_LAYOUT: Final = {
    "total": (np.float32, 0),
    "minutes": (np.uint8, 0),  # that samples in this half-hour
    "before": (np.float32, np.nan),  # mean of the half-hour before
    "now": (np.float32, np.nan),  # possible change in half an hour, relative to the level
    "path": (np.float32, 0),  # usual change a minute
}


class Slopes:
    """How steep each half-hour of the day has been for each group, so that mornings are no evidence.

    Changes are relative to the level, in the measure's domain. A group of unknown slopes may be in the middle of its
    morning; one that has seen the same time of day is known to be flat there, or not. The steepest day counts and fades
    by the day, so that Saturdays don't hide what Monday brings. A morning that fails to come is no evidence either, so
    the direction doesn't matter, except to held groups: they are expected to follow their usual path.
    """

    def __init__(self) -> None:
        self._columns = Columns(_SLOPE_LAYOUT)
        self._table = Columns(_SLOPE_TABLE)

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        self._columns.grow(size)
        self._table.grow(size)

    @property
    def now(self) -> Column:
        """By group: what may change within half an hour around now, as a part of the level; NaN where unknown."""
        return self._columns["now"]

    @property
    def path(self) -> Column:
        """By group: the usual change a minute at this time of day, as a part of the level; 0 where unknown."""
        return self._columns["path"]

    def learn(self, minute_us: int, points: Floats, sigma: Floats, learns: NDArray[np.bool_]) -> None:
        """Take in one closed minute. ``sigma``: of a minute, in the domain."""
        columns = self._columns
        columns["total"][learns] += points[learns]
        columns["minutes"][learns] += 1
        if (minute_us + MINUTE_US) % _HALF_HOUR_US == 0:
            self._complete(minute_us // _HALF_HOUR_US % _SLOTS, sigma)

    def _complete(self, slot: int, sigma: Floats) -> None:
        columns = self._columns
        full = columns["minutes"] >= limits.SLOPE_MINUTES
        mean = np.where(full, columns["total"] / np.maximum(columns["minutes"], 1), np.nan)
        before = columns["before"]
        away = np.maximum(np.abs(mean - before) - limits.SLOPE_NOISE * sigma, 0)
        change = away / np.maximum(np.maximum(mean, before), 1e-12)
        known = self._table[_SLOPE_NAMES[slot]]
        faded = limits.SLOPE_FADES * known
        newer = ~np.isnan(change) & ~(change < np.abs(faded))
        known[:] = np.where(newer, np.copysign(np.minimum(change, 1.0), mean - before), faded)
        before[:] = mean
        columns["total"][:] = 0
        columns["minutes"][:] = 0
        around = [self._table[_SLOPE_NAMES[(slot + ahead) % _SLOTS]] for ahead in limits.SLOPE_AROUND]
        steepest = np.fmax.reduce([np.abs(one) for one in around])
        columns["path"][:] = np.nan_to_num((around[1] + around[2]) / 2) / 30
        columns["now"][:] = np.where(np.isnan(around[1]) & np.isnan(around[2]), np.nan, steepest)

    def snapshot(self) -> dict[str, Column]:
        """Return all state; the table as one matrix, half-hours × groups."""
        return {
            **self._columns.snapshot("slope_"),
            "slope_table": np.stack([self._table[name] for name in _SLOPE_NAMES]),
        }

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._columns.restore(arrays, "slope_")
        self._table.restore(dict(zip(_SLOPE_NAMES, arrays["slope_table"], strict=True)))

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._columns.nbytes + self._table.nbytes


_BASELINE_LAYOUT: Final = {
    "first_us": (np.int64, -1),  # first minute with calls
    "samples": (np.int32, 0),  # minutes learned from since the level was last relearned
    "active": (np.int32, 0),  # of them, with calls
    "frozen": (np.int32, 0),  # minutes since it last learned, while held
    "stale": (np.float32, 0),  # the uncertainty that this has caused, as a part of the level
    "level": (np.float64, 0),
    "trend": (np.float64, 0),  # per minute
    "spread": (np.float64, 0),  # mean absolute weighted residual
    "count_dispersion": (np.float32, 0),  # the same for the square root of the number of calls
    "recent": (np.float64, 0),  # mean of the last five minutes, held or not
    "along": (np.float64, 0),  # with "across": the group's present ratio to its hours of the week
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
        self.columns = Columns(_BASELINE_LAYOUT)
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
        change, trust = self.season.change(through_us, minute_us, rows)
        ahead = max(0, (minute_us - through_us) // MINUTE_US)
        usual = change * (trust > 0) * self._seasonal_ratio(rows)
        point = columns["level"][rows] + ahead * columns["trend"][rows] + usual
        return Expectation(np.maximum(point, 0) if self.scale.is_sum else point, trust)

    def _seasonal_ratio(self, rows: Rows) -> Floats:
        """Return each group's ratio to its usual hours: 1.2 where the roots are 20% above them. 1 for ratios."""
        across = self.columns["across"][rows]
        if not self.scale.is_sum:
            return np.ones(len(across))
        return np.where(across > 0, np.clip(self.columns["along"][rows] / np.maximum(across, 1e-30), 0.2, 5.0), 1.0)

    def sigma(self, calls: Floats, rows: Rows = slice(None)) -> Floats:
        """Return the standard deviation of a minute with these calls, in the domain; wider while history is short."""
        columns = self.columns
        spread, weight = columns["spread"][rows], self.scale.weight(calls)
        sigma = self.scale.sigma(spread, weight, columns["level"][rows], self.call_size(rows))
        return sigma * (1 + 5 / np.maximum(columns["samples"][rows], 1))

    def call_size(self, rows: Rows = slice(None)) -> Floats:
        """Return the usual size of one call, in the measure's unit; 0 where nothing is known."""
        calls = self.columns["calls"][rows]
        return np.where(calls > 0, self.columns["numerator"][rows] / np.maximum(calls, 1e-12), 0.0)

    def slack(self, expected: Expectation, rows: Rows = slice(None)) -> Floats:
        """Return what the baseline may be off by in one minute, in the domain.

        Less where more is known of this hour; more the longer the baseline has been frozen.
        """
        stale = self.columns["stale"][rows]
        if not self.scale.is_sum:
            return stale * (1 - expected.trust)
        slope = limits.MIN_SLOPE + limits.SLOPE_SHARE * self.slopes.now[rows]
        steep = np.fmin(slope, limits.SLOPE)
        slack: Floats = np.minimum(steep + stale, limits.STALE_CAP) * (1 - expected.trust) * np.abs(expected.point)
        return slack

    def drift_slack(self, expected: Expectation) -> Floats:
        """Return the same for a mean over many minutes, for all groups."""
        stale = self.columns["stale"] * (1 - expected.trust)
        if not self.scale.is_sum:
            return stale
        now = self.slopes.now
        share = np.where(expected.trust >= limits.TRUSTED, limits.DRIFT_SLOPE_TRUSTED, limits.DRIFT_SLOPE_SHARE)
        blind = np.where(expected.trust >= limits.TRUSTED, limits.SLOPE, limits.DRIFT_SLOPE)
        steep = np.where(np.isnan(now), blind, limits.MIN_SLOPE + share * now)
        return (steep + stale) * np.abs(expected.point)

    def count_sigma(self, rows: Rows = slice(None)) -> Floats:
        """Return the standard deviation of a minute of a sum, in the domain, if every call had the usual size."""
        count_dispersion = np.maximum(
            2 * 1.2533 * self.columns["count_dispersion"][rows], 1.0
        )  # 1: no burstier than chance
        least = 0.02 * np.abs(self.columns["level"][rows])
        return np.maximum(0.5 * np.sqrt(self.call_size(rows)) * count_dispersion, least) + 1e-12

    def learn(self, minute_us: int, sums: Sums, expected: Expectation, sigma: Floats, held: NDArray[np.bool_]) -> None:
        """Take in one closed minute of all groups."""
        columns = self.columns
        first = columns["first_us"]
        first[(first < 0) & (sums.calls > 0)] = minute_us
        known = (first >= 0) & self.scale.known(sums)
        points = self.scale.forward(self.scale.observed(sums))
        recent = columns["recent"]
        recent += np.where(columns["samples"] > 0, limits.RECENT, 1.0) * known * (points - recent)
        columns["level"][:] = np.where(columns["samples"] > 0, expected.point, points)
        learns = known & ~held
        self._freeze(held, expected)
        self._learn_count_dispersion(sums, learns, expected)
        self._learn_usual(sums, learns, expected, sigma)
        self._learn_level(points, sums, learns, expected, sigma)
        self._learn_seasonal_ratio(minute_us, points, learns, expected)
        self.season.learn(minute_us, points, learns)
        if self.scale.is_sum:
            self.slopes.learn(minute_us, points, sigma, learns)
        columns["samples"][learns] += 1
        columns["active"][learns & (sums.calls > 0)] += 1

    def _freeze(self, held: NDArray[np.bool_], expected: Expectation) -> None:
        """Frozen groups follow their seasonal pattern; their uncertainty grows."""
        columns = self.columns
        columns["frozen"][:] = np.where(held, columns["frozen"] + 1, 0)
        columns["trend"][held] = 0.0
        unsure = np.full(len(held), limits.STALE)
        if self.scale.is_sum:
            path = np.where(expected.trust > 0, 0.0, self.slopes.path)  # with trust, the point includes it
            columns["level"][held] += (path * columns["level"])[held]
            now = self.slopes.now
            unsure += limits.STALE_SLOPE / 30 * np.where(np.isnan(now), limits.STALE_BLIND, now)
        stale = columns["stale"]
        stale[:] = np.where(held, np.minimum(stale + unsure, limits.STALE_CAP), limits.STALE_FADES * stale)

    def _learn_count_dispersion(self, sums: Sums, learns: NDArray[np.bool_], expected: Expectation) -> None:
        """Learn how much the number of calls varies around the usual; sums only. Its own outliers are clipped."""
        columns = self.columns
        size = self.call_size()
        if not self.scale.is_sum:
            return
        usual = np.sqrt(self.scale.back(expected.point) / np.maximum(size, 1e-30))
        away = np.where(size > 0, np.abs(np.sqrt(np.maximum(sums.calls, 0)) - usual), 0.0)
        most = np.where(
            columns["samples"] < limits.WARM, np.inf, limits.SPREAD_CLIP * np.maximum(columns["count_dispersion"], 0.4)
        )
        weight = np.maximum(1 / limits.SPREAD_TAU, 1 / (columns["samples"] + 1.0)) * (learns & (size > 0))
        columns["count_dispersion"][:] += weight * (np.minimum(away, most) - columns["count_dispersion"])

    def _learn_usual(self, sums: Sums, learns: NDArray[np.bool_], expected: Expectation, sigma: Floats) -> None:
        """Learn the usual size and number of calls from sums scaled down to the clip, so that outliers count little."""
        columns = self.columns
        observed = self.scale.observed(sums)
        share = np.ones(len(observed))
        if self.scale.is_sum:
            most = self.scale.back(expected.point + limits.CLIP * sigma)
            share = np.where(columns["samples"] < limits.WARM, 1.0, np.minimum(1, most / np.maximum(observed, 1e-30)))
        weight = np.maximum(limits.USUAL, 1 / (columns["samples"] + 1.0)) * (learns & (sums.calls > 0))
        for name, values in (
            ("numerator", sums.numerator / self.scale.scale),
            ("cost", sums.cost / PUSD),
            ("calls", sums.calls.astype(np.float64)),
        ):
            columns[name][:] += weight * (values * share - columns[name])

    def _learn_level(
        self, points: Floats, sums: Sums, learns: NDArray[np.bool_], expected: Expectation, sigma: Floats
    ) -> None:
        columns = self.columns
        samples = columns["samples"]
        warm = samples >= limits.WARM
        residual = (points - columns["level"]) * learns
        size = np.abs(columns["level"]) if self.scale.is_sum else np.ones(len(sigma))
        most = np.maximum(limits.CLIP * sigma, limits.MIN_CLIP * size * self.scale.is_sum)
        clipped = np.where(warm, np.clip(residual, -most, most), residual)
        follow = 1 / self._tau(sigma, expected.trust)
        gain = np.where(warm, 1 - np.square(1 - follow), np.maximum(1 / (samples + 1.0), 0.05))
        columns["level"][:] += gain * clipped
        trend = limits.TREND_DAMPING * columns["trend"] + np.where(warm, np.square(follow), 0.0) * clipped
        columns["trend"][:] = np.clip(trend, -limits.TREND_CAP * size, limits.TREND_CAP * size)
        self._learn_spread(residual, sums, learns)

    def _tau(self, sigma: Floats, trust: Floats) -> Floats:
        level = np.abs(self.columns["level"]) if self.scale.is_sum else np.ones(len(sigma))
        noise = limits.QUIET * sigma / np.maximum(level, 1e-30)
        tau = np.clip(limits.TAU_FAST * np.sqrt(noise), limits.TAU_FAST, limits.TAU_SLOW)
        tau = np.where(self.slopes.now <= limits.FLAT, np.maximum(tau, limits.TAU_FLAT), tau)
        slow: Floats = np.where(trust >= limits.TRUSTED, np.maximum(tau, limits.TAU_SEASONAL), tau)
        return slow

    def _learn_spread(self, residual: Floats, sums: Sums, learns: NDArray[np.bool_]) -> None:
        columns = self.columns
        size = np.abs(residual) * self.scale.weight(sums.calls.astype(np.float64))
        spread = columns["spread"]
        most = np.where(columns["samples"] < limits.WARM, np.inf, limits.SPREAD_CLIP * np.maximum(spread, 1e-12))
        weight = np.maximum(1 / limits.SPREAD_TAU, 1 / (columns["samples"] + 1.0)) * learns
        spread += weight * (np.minimum(size, most) - spread)

    def _learn_seasonal_ratio(
        self, minute_us: int, points: Floats, learns: NDArray[np.bool_], expected: Expectation
    ) -> None:
        if self.scale.is_sum and expected.trust.any():
            usual = self.season.usual(minute_us)
            weight = limits.USUAL / 6 * (learns & (expected.trust > 0))
            self.columns["along"][:] += weight * (points * usual - self.columns["along"])
            self.columns["across"][:] += weight * (usual * usual - self.columns["across"])

    def restart(self, groups: NDArray[np.int64]) -> None:
        """Relearn the level of groups from the last minutes; spread and hours of the week stay."""
        columns = self.columns
        columns["level"][groups] = columns["recent"][groups]
        columns["trend"][groups] = 0.0
        columns["frozen"][groups] = 0
        columns["along"][groups] = 0.0
        columns["across"][groups] = 0.0
        columns["samples"][groups] = np.minimum(columns["samples"][groups], limits.WARM)

    def forget_levels(self) -> None:
        """The clock jumped: relearn all levels from the next minutes; hours of the week stay."""
        columns = self.columns
        for name in ("samples", "active", "frozen", "trend"):
            columns[name][:] = 0

    def ready(self, minute_us: int, min_history_us: int, rows: Rows = slice(None)) -> NDArray[np.bool_]:
        """Return which groups are known long enough for a verdict on a minute."""
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
