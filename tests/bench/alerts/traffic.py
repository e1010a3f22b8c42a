"""Calm traffic: seasonal by day and week, compound Poisson with heavy-tailed call costs, drifting with deployments."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spendstream.core.timestamps import MINUTE_US

MONDAY_US = 1_772_409_600 * 1_000_000  # 2026-03-02T00:00Z
WEEK = 7 * 1440
_SEED_SERVICES = 1


@dataclass(frozen=True)
class Services:
    """Groups of traffic; each array by group. ``peak``: calls a minute at the busiest; ``call_usd``: mean cost."""

    peak: NDArray[np.float64]
    call_usd: NDArray[np.float64]
    cv: NDArray[np.float64]
    night: NDArray[np.float64]
    weekend: NDArray[np.float64]
    shift_h: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.peak)


@dataclass(frozen=True)
class Rates:
    """What is to happen, group × minute: calls a minute, and the factor on the cost of a call."""

    calls: NDArray[np.float64]
    call_factor: NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """What happened, group × slice: calls and pico-dollars. ``slices`` to a minute."""

    calls: NDArray[np.int64]
    cost: NDArray[np.int64]
    slices: int
    start_us: int = MONDAY_US

    @property
    def slice_us(self) -> int:
        """Length of a slice, µs."""
        return MINUTE_US // self.slices

    def usd_per_minute(self) -> NDArray[np.float64]:
        """Return the spend, group × minute, USD."""
        groups = len(self.cost)
        totals: NDArray[np.float64] = self.cost.reshape(groups, -1, self.slices).sum(axis=2) / 1e12
        return totals


def services(count: int, seed: int = _SEED_SERVICES) -> Services:
    """Return groups from half a call to 300 calls a minute, from a third of a cent to ten cents a call."""
    draw = np.random.default_rng(seed)
    return Services(
        peak=np.exp(draw.uniform(np.log(0.5), np.log(300), count)),
        call_usd=np.exp(draw.uniform(np.log(0.003), np.log(0.1), count)),
        cv=draw.uniform(1.0, 2.0, count),
        night=draw.uniform(0.1, 0.2, count),
        weekend=draw.uniform(0.1, 0.3, count),
        shift_h=draw.choice([-6.0, 0.0, 1.0, 8.0], count),
    )


def calm(groups: Services, minutes: int, seed: int, first_minute: int = 0) -> Rates:
    """Return calm rates: the week's profile, slow wander of 10%, and a deployment every third day or so."""
    draw = np.random.default_rng(seed)
    at = first_minute + np.arange(minutes)
    profile = np.stack([_profile(at, groups, group) for group in range(len(groups))])
    wander = _wander(draw, len(groups), minutes)
    volume = _steps(draw, len(groups), minutes, 0.12)
    return Rates(groups.peak[:, None] * profile * wander * volume, _steps(draw, len(groups), minutes, 0.12))


def _profile(at: NDArray[np.int64], groups: Services, group: int) -> NDArray[np.float64]:
    local = at / 60 + groups.shift_h[group]
    hour, day = local % 24, (local // 24) % 7
    open_hours = _sigmoid((hour - 8.5) / 0.5) * _sigmoid((18.5 - hour) / 0.9)
    lunch = 1 - 0.2 * np.exp(-0.5 * np.square((hour - 12.5) / 0.6))
    night = groups.night[group]
    height = np.where(day >= 5, groups.weekend[group], 1.0)
    shape: NDArray[np.float64] = np.maximum(night, height * lunch * open_hours)
    return np.convolve(np.pad(shape, 15, mode="edge"), np.ones(31) / 31, mode="valid")


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def _wander(draw: np.random.Generator, groups: int, minutes: int) -> NDArray[np.float64]:
    """An hour's memory: a factor with standard deviation 0.1."""
    keep = np.exp(-1 / 60)
    noise = draw.normal(0, 0.1 * np.sqrt(1 - keep * keep), (groups, minutes))
    value = np.zeros(groups)
    for minute in range(minutes):
        value = keep * value + noise[:, minute]
        noise[:, minute] = value
    return np.exp(noise)


def _steps(draw: np.random.Generator, groups: int, minutes: int, size: float) -> NDArray[np.float64]:
    """A level that steps at deployments, in the memory of about a week."""
    steps = draw.normal(0, size, (groups, minutes)) * (draw.random((groups, minutes)) < 1 / 4320)
    level = np.cumsum(steps, axis=1)
    return np.exp(np.clip(level, -0.7, 0.7))


def play(groups: Services, rates: Rates, seed: int, slices: int = 1, start_us: int = MONDAY_US) -> Series:
    """Draw the calls: Poisson in number, lognormal in cost, each slice on its own."""
    draw = np.random.default_rng(seed)
    lam = np.repeat(rates.calls / slices, slices, axis=1)
    calls = draw.poisson(lam)
    cost = np.empty(calls.shape, dtype=np.int64)
    for group in range(len(groups)):
        factor = np.repeat(rates.call_factor[group], slices) * groups.call_usd[group] * 1e12
        cost[group] = _costs(draw, calls[group], groups.cv[group]) * factor
    return Series(calls.astype(np.int64), cost, slices, start_us)


def _costs(draw: np.random.Generator, calls: NDArray[np.int64], cv: float) -> NDArray[np.float64]:
    """Sums of so many lognormal costs of mean 1."""
    sigma = np.sqrt(np.log1p(cv * cv))
    each = np.exp(draw.standard_normal(int(calls.sum()), dtype=np.float32) * sigma - sigma * sigma / 2)
    ends = np.cumsum(calls)
    running = np.concatenate([[0.0], np.cumsum(each, dtype=np.float64)])
    costs: NDArray[np.float64] = np.maximum(running[ends] - running[ends - calls], 0.0)
    return costs
