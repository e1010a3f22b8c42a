"""What each minute came to: exact sums by group, and the domain in which a measure's noise is even."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.finding import Updates
from spendstream.core.detect.measures import CALLS, SPEND, denominators, is_ratio, numerators, unit
from spendstream.schemas.measures import WATCHED
from spendstream.schemas.watch import Measure

Column = NDArray[Any]
Floats = NDArray[np.float64]
Rows = slice | NDArray[np.int64]
"""Which groups: all of them, or some by number."""

_GROWTH = 1.2  # little slack: memory per group is what limits the number of groups


class Columns:
    """Named arrays that grow with the groups: the state of 100,000 groups without a Python object for each.

    ``layout``: name to (dtype, value of a new group). ``columns[name]`` is a view.
    """

    def __init__(self, layout: Mapping[str, tuple[Any, float]]) -> None:
        self._layout = dict(layout)
        self._arrays: dict[str, Column] = {name: np.empty(0, dtype=dtype) for name, (dtype, _) in layout.items()}
        self._capacity = 0
        self.size = 0

    def __getitem__(self, name: str) -> Column:
        return self._arrays[name][: self.size]

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``; never shrinks."""
        if size > self._capacity:
            self._capacity = max(size, int(self._capacity * _GROWTH))
            for name, (dtype, fill) in self._layout.items():
                grown = np.full(self._capacity, fill, dtype=dtype)
                grown[: self.size] = self._arrays[name][: self.size]
                self._arrays[name] = grown
        self.size = max(self.size, size)

    def snapshot(self, prefix: str = "") -> dict[str, Column]:
        """Return copies of all columns."""
        return {prefix + name: self[name].copy() for name in self._layout}

    def restore(self, arrays: Mapping[str, Column], prefix: str = "") -> None:
        """Take over a snapshot. Raises KeyError where a column is missing."""
        taken = {name: arrays[prefix + name].astype(dtype) for name, (dtype, _) in self._layout.items()}
        self._arrays = taken
        self.size = self._capacity = len(next(iter(taken.values())))

    @property
    def nbytes(self) -> int:
        """Memory held, slack included."""
        return sum(array.nbytes for array in self._arrays.values())


_FIELDS: Final = ("numerator", "denominator", "cost", "calls")
_SUMS_LAYOUT: Final = dict.fromkeys(_FIELDS, (np.int64, 0))


class Sums(NamedTuple):
    """One minute of some groups, exact: the measure's two sums, pico-dollars and calls. int64, one shape."""

    numerator: NDArray[np.int64]
    denominator: NDArray[np.int64]
    cost: NDArray[np.int64]
    calls: NDArray[np.int64]


class OpenMinutes:
    """Exact sums of the minutes that are still open. A minute exists from the first row added until it is taken."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._minutes: dict[int, Columns] = {}

    def __contains__(self, minute_us: int) -> bool:
        return minute_us in self._minutes

    def add(self, updates: Updates) -> None:
        """Add rows to their minutes. Several rows may have the same group and minute."""
        values = (
            numerators(self._measure, updates.sums),
            denominators(self._measure, updates.sums),
            updates.sums[:, SPEND],
            updates.sums[:, CALLS],
        )
        for minute in np.unique(updates.minutes_us):
            at = np.flatnonzero(updates.minutes_us == minute)
            groups = updates.groups[at]
            columns = self._minutes.setdefault(int(minute), Columns(_SUMS_LAYOUT))
            columns.grow(int(groups.max()) + 1)
            for name, value in zip(_FIELDS, values, strict=True):
                np.add.at(columns[name], groups, value[at])

    def read(self, minute_us: int, size: int, rows: Rows = slice(None)) -> Sums:
        """Return the sums so far of groups among ``size``; zero where nothing was added."""
        columns = self._minutes.get(minute_us) or Columns(_SUMS_LAYOUT)
        columns.grow(size)
        return Sums(*(columns[name][rows] for name in _FIELDS))

    def take(self, minute_us: int, size: int) -> Sums:
        """Return the sums of a minute and forget it."""
        sums = self.read(minute_us, size)
        self._minutes.pop(minute_us, None)
        return sums

    def open(self) -> list[int]:
        """Return the open minutes, oldest first."""
        return sorted(self._minutes)

    def drop_before(self, minute_us: int) -> None:
        """Forget minutes unread."""
        for minute in [minute for minute in self._minutes if minute < minute_us]:
            del self._minutes[minute]

    def snapshot(self) -> dict[str, Column]:
        """Return all minutes: ``open_us`` (m), ``open_size`` (m), and each field one after the other."""
        opened = self.open()
        parts = {name: [self._minutes[minute][name] for minute in opened] for name in _FIELDS}
        empty = [np.zeros(0, dtype=np.int64)]
        return {
            "open_us": np.array(opened, dtype=np.int64),
            "open_size": np.array([self._minutes[minute].size for minute in opened], dtype=np.int64),
            **{f"open_{name}": np.concatenate(empty + arrays) for name, arrays in parts.items()},
        }

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._minutes = {}
        ends = np.cumsum(arrays["open_size"])
        for minute, end, size in zip(arrays["open_us"], ends, arrays["open_size"], strict=True):
            columns = Columns(_SUMS_LAYOUT)
            columns.restore({name: arrays[f"open_{name}"][end - size : end] for name in _FIELDS})
            self._minutes[int(minute)] = columns

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(columns.nbytes for columns in self._minutes.values())


_CALLS_EVEN: Final = 200.0  # beyond this many calls, more make a ratio no steadier
_TINY: Final = 1e-12


class Domain(Enum):
    """The transformation of a value before it is compared."""

    SUM = "square root"
    MEAN = "logarithm"
    SHARE = "arcsine of the square root"


_SPREAD_FLOOR: Final = {Domain.SUM: 0.0, Domain.MEAN: 0.1, Domain.SHARE: 0.25}
_SIGMA_FLOOR: Final = {Domain.SUM: 0.0, Domain.MEAN: 0.03, Domain.SHARE: 0.01}
_LEVEL_FLOOR: Final = 0.02  # of the level of a sum: no traffic is steadier for long


@dataclass(frozen=True)
class Scale:
    """The domain in which one measure's noise is even, so that one spread serves a busy noon and a quiet night.

    Spend per minute is a sum of randomly many calls of random cost: its variance grows with its mean, and that of its
    square root does not. Means over calls vary by a factor, so they are compared as logarithms; shares vary as a
    binomial, so as arcsines. The noise of a ratio shrinks with the square root of the calls behind it, down to what
    moves from minute to minute anyway.
    """

    measure: Measure
    domain: Domain
    scale: float

    @classmethod
    def of(cls, measure: Measure) -> "Scale":
        """Return the scale of a measure."""
        domain = Domain.SUM
        if is_ratio(measure):
            domain = Domain.SHARE if unit(measure) == "share" else Domain.MEAN
        return cls(measure, domain, WATCHED[measure].scale)

    @property
    def is_sum(self) -> bool:
        """Whether an empty minute is a zero, rather than nothing."""
        return self.domain is Domain.SUM

    def observed(self, sums: Sums) -> Floats:
        """Return the measure's values in its unit; 0 where a ratio has nothing below the line."""
        if self.is_sum:
            return sums.numerator / self.scale
        below = np.maximum(sums.denominator, 1)
        return np.where(sums.denominator > 0, sums.numerator / self.scale / below, 0.0)

    def known(self, sums: Sums) -> NDArray[np.bool_]:
        """Return which groups have a value: all for a sum; a mean of nothing has no logarithm."""
        if self.is_sum:
            return np.ones(len(sums.calls), dtype=np.bool_)
        known = (sums.denominator > 0) & (sums.calls > 0)
        return known & (sums.numerator > 0) if self.domain is Domain.MEAN else known

    def forward(self, values: Floats) -> Floats:
        """Transform values into the domain."""
        if self.domain is Domain.SUM:
            return np.sqrt(np.maximum(values, 0))
        if self.domain is Domain.MEAN:
            return np.log(np.maximum(values, _TINY))
        return np.arcsin(np.sqrt(np.clip(values, 0, 1)))

    def back(self, points: Floats) -> Floats:
        """Transform points of the domain back to values."""
        if self.domain is Domain.SUM:
            return np.square(np.maximum(points, 0))
        if self.domain is Domain.MEAN:
            return np.exp(np.minimum(points, 700.0))
        return np.square(np.sin(np.clip(points, 0, np.pi / 2)))

    def mean(self, points: Floats, sigma: Floats) -> Floats:
        """Return the mean value around points with standard deviation sigma: E(y) = E(√y)² + Var(√y)."""
        values = self.back(points)
        return values + np.square(sigma) if self.is_sum else values

    def weight(self, calls: Floats) -> Floats:
        """Return the factor that makes residuals of even size: 1 for sums."""
        if self.is_sum:
            return np.ones(len(calls))
        return np.sqrt(np.maximum(calls, 1) / (1 + calls / _CALLS_EVEN))

    def sigma(self, spread: Floats, weight: Floats, level: Floats, call: Floats) -> Floats:
        """Return the standard deviation of a minute in the domain.

        ``spread``: mean absolute weighted residual. ``call``: usual size of one call; a Poisson stream of such calls
        alone has the standard deviation √call / 2 in the root domain, whatever its rate.
        """
        learned = 1.2533 * spread  # of a normal distribution: standard deviation / mean absolute deviation
        if self.is_sum:
            return np.maximum(np.maximum(learned, 0.5 * np.sqrt(call)), _LEVEL_FLOOR * level) + _TINY
        return np.maximum(np.maximum(learned, _SPREAD_FLOOR[self.domain]) / weight, _SIGMA_FLOOR[self.domain])
