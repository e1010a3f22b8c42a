"""What spend is compared with: amounts and thresholds, the forecast, burn rates."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import MIN_PERIOD_S
from spendstream.core.detect.budget.spend import Small
from spendstream.core.detect.finding import Groups
from spendstream.core.detect.steps import Floats, Ints, grown
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US, US
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
    kept = [rate for rate in rule.burn_rates if rate.long < MIN_PERIOD_S[rule.period]]
    names = [f"burn_{_duration(rate.long)}_{_duration(rate.short)}" for rate in kept]
    unique = [name if names.count(name) == 1 else f"{name}_x{kept[at].factor:g}" for at, name in enumerate(names)]
    return tuple(Burn(*pair) for pair in dict(zip(unique, kept, strict=True)).items())


def _duration(seconds: int) -> str:
    unit, size = next((unit, size) for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)) if seconds % size == 0)
    return f"{seconds // size}{unit}"


class Amounts:
    """Which amount applies to which group.

    An entry of ``amounts`` applies to the groups that have all the values it names; of several, the one that names
    the most, then the first.
    """

    def __init__(self, rule: BudgetRule, groups: Groups, thresholds: Sequence[float]) -> None:
        self._groups = groups
        self._overrides = sorted(enumerate(rule.amounts, 1), key=lambda entry: -len(entry[1].group))
        self.pusd = [int(amount.scaleb(12)) for amount in (rule.amount_usd, *(one.amount_usd for one in rule.amounts))]
        self.usd = [Decimal(pusd).scaleb(-12) for pusd in self.pusd]
        self._float_usd = np.array([pusd / PUSD for pusd in self.pusd])
        # The decimal as written, not the nearest binary fraction: 80% of $10 is $8, to the pico-dollar.
        limits = [[-(-pusd * Fraction(str(threshold)) // 1) for threshold in thresholds] for pusd in self.pusd]
        shape = (len(self.pusd), len(thresholds))
        self._dollars = np.array([[limit // PUSD for limit in row] for row in limits], dtype=np.int64).reshape(shape)
        self._rest = np.array([[limit % PUSD for limit in row] for row in limits], dtype=np.int64).reshape(shape)
        self._chosen: Ints = np.zeros(0, dtype=np.int64)

    def chosen(self, groups: Ints) -> Ints:
        """Return for each group the position of its amount in ``pusd`` and ``usd``."""
        known, needed = len(self._chosen), int(groups.max(initial=-1)) + 1
        if known < needed:
            more = np.zeros(needed - known, dtype=np.int64)
            if self._overrides:
                for group in range(known, needed):
                    named = self._groups.named(group).items()
                    more[group - known] = next((at for at, each in self._overrides if each.group.items() <= named), 0)
            self._chosen = np.append(self._chosen, more)
        return self._chosen[groups]

    def limits(self, chosen: Ints) -> tuple[Ints, Ints]:
        """Return the thresholds' limits of the chosen amounts, as whole dollars and pico-dollars: n × thresholds."""
        return self._dollars[chosen], self._rest[chosen]

    def floats(self, chosen: Ints) -> NDArray[np.float64]:
        """Return the chosen amounts in USD."""
        return self._float_usd[chosen]


RECENT_S: Final = 86_400
"""The window of the recent pace: a whole day, so that the hour of the day does not matter."""

EVIDENCE: Final = 0.05
"""Part of the period that must have passed, and for which the group must be known (a day is always enough)."""

CLEARS_BELOW: Final = 0.95
"""A forecast alert is over once the forecast falls below this part of the amount."""


def forecast_usd(
    spent_usd: Floats, recent_usd: Floats, recent_us: int, first_us: Ints, now_us: int, opened_us: int, closes_us: int
) -> Floats:
    """Return the forecast of each group's spend at the period's end, USD; NaN where it is too early to say.

    ``spent + pace × remaining time``. The pace is the mean of two: that of the last 24 hours, which sees a change soon
    but knows no weekend, and the period's own so far, which knows weekends but is slow. Both count from the group's
    first spend (``first_us``) where that is later: two days of a new feature are not spread over the month.
    $60 in 10 days of 30, of which $10 in the last 24 h: a pace of (10 + 6) / 2 = $8 a day, so 60 + 20 × 8 = $220.

    Too early: less than ``EVIDENCE`` of the period has passed (month: 36 hours; day: 72 minutes), or the group has been
    known for less than that and less than a day.
    """
    length = closes_us - opened_us
    known = (now_us - first_us).astype(np.float64)
    recent_pace = recent_usd / np.clip(known, MINUTE_US, max(recent_us, MINUTE_US))
    own_pace = spent_usd / np.clip(known, MINUTE_US, max(now_us - opened_us, MINUTE_US))
    pace = np.maximum((recent_pace + own_pace) / 2, 0)
    has_evidence = (now_us - opened_us >= EVIDENCE * length) & (known >= min(EVIDENCE * length, RECENT_S * US))
    forecast: Floats = np.where(has_evidence, spent_usd + pace * (closes_us - now_us), np.nan)
    return forecast


CLEAR_AFTER_US: Final = 3 * MINUTE_US
"""A burn is over once its short window has been below the factor for this long."""


class Breaches:
    """One pair of windows: which groups burn too fast, and since when.

    A breach begins in the minute in which both windows are at or above the factor; the short one decides when it ends.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._since: Ints = np.zeros(0, dtype=np.int64)
        self._below_since: Ints = np.zeros(0, dtype=np.int64)

    def update(self, groups: Ints, long_rate: Floats, short_rate: Floats, minute_us: int) -> Ints:
        """Return since when each group has been in breach, µs; 0 where it is not.

        A second update within a minute changes nothing unless the rates changed.
        """
        self._reserve(int(groups.max(initial=-1)) + 1)
        since, below_since = self._since[groups], self._below_since[groups]
        is_low = short_rate < self._factor
        below_since = np.where(is_low, np.where(below_since == 0, minute_us, below_since), 0)
        begins = (since == 0) & ~is_low & (long_rate >= self._factor)
        ends = (since > 0) & is_low & (minute_us - below_since >= CLEAR_AFTER_US)
        since = np.where(begins, minute_us, np.where(ends, 0, since))
        self._since[groups], self._below_since[groups] = since, np.where(since > 0, below_since, 0)
        return since

    def snapshot(self, name: str, groups: int) -> dict[str, NDArray[np.generic]]:
        """Return the state of the first ``groups`` groups as arrays."""
        self._reserve(groups)
        return {f"{name}_since": self._since[:groups].copy(), f"{name}_below_since": self._below_since[:groups].copy()}

    def restore(self, name: str, arrays: Any) -> None:
        """Restore what ``snapshot`` returned."""
        self._since = np.array(arrays[f"{name}_since"], dtype=np.int64)
        self._below_since = np.array(arrays[f"{name}_below_since"], dtype=np.int64)

    def _reserve(self, groups: int) -> None:
        self._since, self._below_since = grown(self._since, groups), grown(self._below_since, groups)


KNOWN_WITHIN_US: Final = 86_400 * US
"""A period that ended longer ago raises nothing; its sums are still corrected."""

FIRES_US: Final = 2 * MINUTE_US
"""How long a late threshold fires: its period is over."""


class LateThresholds:
    """Thresholds of the last period that became known after its end, by group.

    Thresholds ``first`` up to and without ``end`` fire until a minute.
    """

    def __init__(self) -> None:
        self._firing: dict[int, tuple[int, int, int]] = {}

    def learn(self, groups: Ints, were: Small, are: Small, minute_us: int) -> None:
        """Record the groups whose count of reached thresholds in the last period has just grown."""
        for row in np.flatnonzero(are > were).tolist():
            group = int(groups[row])
            first, end, _ = self._firing.get(group, (int(were[row]), 0, 0))
            self._firing[group] = first, max(end, int(are[row])), minute_us + FIRES_US

    def forget(self, before_us: int) -> None:
        """Forget what has fired for long enough."""
        self._firing = {group: late for group, late in self._firing.items() if late[2] > before_us}

    def forget_all(self) -> None:
        """Forget all: a new period has begun."""
        self._firing.clear()

    def of(self, group: int) -> range:
        """Return the positions of a group's late thresholds."""
        first, end, _ = self._firing.get(group, (0, 0, 0))
        return range(first, end)

    def __contains__(self, group: int) -> bool:
        """Return whether a group has any."""
        return group in self._firing

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return the state: group, first, end, until."""
        rows = [(group, *late) for group, late in self._firing.items()]
        return {"late_thresholds": np.array(rows, dtype=np.int64).reshape(-1, 4)}

    def restore(self, arrays: Any) -> None:
        """Restore what ``snapshot`` returned."""
        self._firing = {group: (first, end, until) for group, first, end, until in arrays["late_thresholds"].tolist()}
