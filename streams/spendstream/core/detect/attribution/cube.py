"""Sums of many combinations of dimensions, over some minutes: one side of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spendstream.core.money import PUSD
from spendstream.schemas.measures import COLUMN, COST

Values = tuple[str, ...]
Floats = NDArray[np.float64]

SPEND = COLUMN[COST]


@dataclass(frozen=True)
class Cube:
    """What a group's calls came to. A combination of dimensions may stand in several rows.

    ``members``: n tuples of dimension values. ``sums``: n × len(SUMS), integers or floats. ``minutes``: how long the
    time was over which they were summed.
    """

    members: Sequence[Values]
    sums: NDArray[Any]
    minutes: float = 1.0

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"a cube spans more than {self.minutes} minutes")
        if len(self.members) != len(self.sums):
            raise ValueError(f"{len(self.members)} combinations, but {len(self.sums)} rows of sums")

    def rates(self) -> Floats:
        """Return the sums per minute, n × len(SUMS). A correction below zero counts as nothing."""
        rates: Floats = np.maximum(self.sums / self.minutes, 0.0)
        return rates

    def usd_per_minute(self) -> Decimal:
        """Return the whole spend, USD a minute, rounded to a pico-dollar; of integers it is the exact sum."""
        pusd = sum((Decimal(value) for value in self.sums[:, SPEND].tolist()), Decimal(0))
        return to_pusd(pusd / PUSD / Decimal(self.minutes))


def to_pusd(amount: Decimal) -> Decimal:
    """Return an amount in USD rounded to a pico-dollar."""
    return round(amount, 12) + Decimal(0)  # no negative zero
