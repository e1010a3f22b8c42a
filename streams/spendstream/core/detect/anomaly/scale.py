"""The domain in which a measure's noise is even, so that one spread serves a busy noon and a quiet night.

Spend per minute is a sum of randomly many calls of random cost: its variance grows with its mean, that of its square
root does not. Means over calls vary by a factor, so their logarithm; shares as a binomial, so their arcsine. The noise
of a ratio shrinks with the root of the calls behind it, down to what moves from minute to minute anyway.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly.minutes import Sums
from spendstream.core.detect.measures import DEFINITIONS, is_ratio, unit
from spendstream.schemas.watch import Measure

Floats = NDArray[np.float64]

_CALLS_EVEN: Final = 200.0  # calls from which on more of them make a ratio no steadier
_TINY: Final = 1e-12


class Domain(Enum):
    """What is done to a value before it is compared."""

    SUM = "square root"
    MEAN = "logarithm"
    SHARE = "arcsine of the square root"


_SPREAD_FLOOR: Final = {Domain.SUM: 0.0, Domain.MEAN: 0.1, Domain.SHARE: 0.25}
_SIGMA_FLOOR: Final = {Domain.SUM: 0.0, Domain.MEAN: 0.03, Domain.SHARE: 0.01}
_LEVEL_FLOOR: Final = 0.02  # of the level of a sum: no traffic is steadier than that for long


@dataclass(frozen=True)
class Scale:
    """How values of one measure are compared."""

    measure: Measure
    domain: Domain
    scale: float

    @classmethod
    def of(cls, measure: Measure) -> "Scale":
        """Return the scale of a measure."""
        domain = Domain.SUM
        if is_ratio(measure):
            domain = Domain.SHARE if unit(measure) == "share" else Domain.MEAN
        return cls(measure, domain, DEFINITIONS[measure].scale)

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
        """Whether there is a value at all: always for a sum; a mean of nothing has no logarithm."""
        if self.is_sum:
            return np.ones(len(sums.calls), dtype=np.bool_)
        known = (sums.denominator > 0) & (sums.calls > 0)
        return known & (sums.numerator > 0) if self.domain is Domain.MEAN else known

    def forward(self, values: Floats) -> Floats:
        """Take values into the domain."""
        if self.domain is Domain.SUM:
            return np.sqrt(np.maximum(values, 0))
        if self.domain is Domain.MEAN:
            return np.log(np.maximum(values, _TINY))
        return np.arcsin(np.sqrt(np.clip(values, 0, 1)))

    def back(self, points: Floats) -> Floats:
        """Take points of the domain back to values."""
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
        """Return what residuals are multiplied by to be of even size: 1 for sums."""
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
