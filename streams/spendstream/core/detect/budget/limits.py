"""A budget's amounts, thresholds and burn rates, by group and by name."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import SHORTEST_S, Ints
from spendstream.core.detect.groups import Groups
from spendstream.core.money import PUSD
from spendstream.schemas.watch import BudgetRule, BurnRate


class Burn(NamedTuple):
    """One pair of windows and the alert's name."""

    facet: str
    rate: BurnRate


def threshold_facet(threshold: float) -> str:
    """Return a threshold's name: ``threshold_facet(0.8) == "80%"``; 0.125 is ``12.5%``."""
    return f"{(Decimal(str(threshold)) * 100).normalize():f}%"


def burns(rule: BudgetRule) -> tuple[Burn, ...]:
    """Return the burn rates whose long window is shorter than the period, named ``burn_1h_5m``."""
    kept = [rate for rate in rule.burn_rates if rate.long < SHORTEST_S[rule.period]]
    names = [f"burn_{_duration(rate.long)}_{_duration(rate.short)}" for rate in kept]
    unique = [name if names.count(name) == 1 else f"{name}_x{kept[at].factor:g}" for at, name in enumerate(names)]
    return tuple(Burn(*pair) for pair in dict(zip(unique, kept, strict=True)).items())


def _duration(seconds: int) -> str:
    unit, size = next((unit, size) for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)) if seconds % size == 0)
    return f"{seconds // size}{unit}"


class Amounts:
    """Which amount holds for which group.

    An entry of ``amounts`` holds for the groups that have all the values it names; of several, the one that names
    the most, then the first.
    """

    def __init__(self, rule: BudgetRule, groups: Groups, thresholds: Sequence[float]) -> None:
        self._groups = groups
        self._overrides = sorted(enumerate(rule.amounts, 1), key=lambda entry: -len(entry[1].group))
        self.pusd = [int(amount.scaleb(12)) for amount in (rule.amount_usd, *(one.amount_usd for one in rule.amounts))]
        self.usd = [Decimal(pusd).scaleb(-12) for pusd in self.pusd]
        self._float_usd = np.array([pusd / PUSD for pusd in self.pusd])
        limits = [[self._limit(pusd, threshold) for threshold in thresholds] for pusd in self.pusd]
        shape = (len(self.pusd), len(thresholds))
        self._dollars = np.array([[limit // PUSD for limit in row] for row in limits], dtype=np.int64).reshape(shape)
        self._rest = np.array([[limit % PUSD for limit in row] for row in limits], dtype=np.int64).reshape(shape)
        self._chosen: Ints = np.zeros(0, dtype=np.int64)

    def chosen(self, groups: Ints) -> Ints:
        """Return for each group the position of its amount in ``pusd`` and ``usd``."""
        known, needed = len(self._chosen), int(groups.max(initial=-1)) + 1
        if known < needed:
            more = [self._choose(group) if self._overrides else 0 for group in range(known, needed)]
            self._chosen = np.append(self._chosen, np.array(more, dtype=np.int64))
        return self._chosen[groups]

    def limits(self, chosen: Ints) -> tuple[Ints, Ints]:
        """Return the thresholds' limits of the chosen amounts, as whole dollars and pico-dollars: n × thresholds."""
        return self._dollars[chosen], self._rest[chosen]

    def floats(self, chosen: Ints) -> NDArray[np.float64]:
        """Return the chosen amounts in USD."""
        return self._float_usd[chosen]

    def _choose(self, group: int) -> int:
        named = self._groups.named(group)
        for position, override in self._overrides:
            if override.group.items() <= named.items():
                return position
        return 0

    @staticmethod
    def _limit(pusd: int, threshold: float) -> int:
        # The decimal that was written, not the binary fraction nearest to it: 80% of $10 is $8, to the pico-dollar.
        return -(-pusd * Fraction(str(threshold)) // 1)
