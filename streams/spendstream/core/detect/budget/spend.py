"""What each group spent: exactly by period, and in sliding windows of the detection clock."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import Calendar
from spendstream.core.detect.steps import Ahead, Floats, Ints, StepRing, grown
from spendstream.core.money import PUSD
from spendstream.core.timestamps import US

PERIODS_BACK: Final = 3
"""Closed periods that late corrections still reach."""

Small = NDArray[np.int16]


class PeriodSums:
    """One period: spend per group as whole dollars and pico-dollars, and how many thresholds it has reached.

    Two int64 reach 9.2e18 USD; one would end at 9.2 million. Always 0 <= pico-dollars < 1e12.
    """

    def __init__(self) -> None:
        self.dollars: Ints = np.zeros(0, dtype=np.int64)
        self.pusd: Ints = np.zeros(0, dtype=np.int64)
        self.reached: Small = np.zeros(0, dtype=np.int16)
        """The most thresholds that the spend has reached: they stay reached for the rest of the period."""

    def reserve(self, groups: int) -> None:
        """Make room for ``groups`` groups."""
        self.dollars = grown(self.dollars, groups)
        self.pusd = grown(self.pusd, groups)
        self.reached = grown(self.reached, groups)

    def add(self, groups: Ints, spent_pusd: Ints) -> None:
        """Add row i to its group. A million rows of any size can't overflow: each is split before it is summed."""
        self.reserve(int(groups.max()) + 1)
        dollars, pusd = np.divmod(spent_pusd, PUSD)
        np.add.at(self.dollars, groups, dollars)
        np.add.at(self.pusd, groups, pusd)
        touched = np.unique(groups)
        carried, self.pusd[touched] = np.divmod(self.pusd[touched], PUSD)
        self.dollars[touched] += carried

    def spent_pusd(self, group: int) -> int:
        """Return a group's spend, exactly."""
        if group >= len(self.dollars):
            return 0
        return int(self.dollars[group]) * PUSD + int(self.pusd[group])

    def usd(self, groups: Ints) -> NDArray[np.float64]:
        """Return the groups' spend in USD, rounded to a float."""
        self.reserve(int(groups.max(initial=-1)) + 1)
        return self.dollars[groups] + self.pusd[groups] / PUSD

    def thresholds_reached(self, groups: Ints, dollars: Ints, pusd: Ints) -> Small:
        """Count the limits (n × thresholds, as dollars and pico-dollars) that each group's spend is at or above."""
        self.reserve(int(groups.max(initial=-1)) + 1)
        whole, rest = self.dollars[groups, None], self.pusd[groups, None]
        reached: Small = ((whole > dollars) | ((whole == dollars) & (rest >= pusd))).sum(axis=1).astype(np.int16)
        return reached


class SpendLedger:
    """The periods that still matter: the running one, ``PERIODS_BACK`` before it, and any later ones already seen."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._periods: dict[int, PeriodSums] = {}
        self._oldest_us: int | None = None

    def period(self, opened_us: int) -> PeriodSums:
        """Return the sums of the period that opened then; empty ones where nothing was spent."""
        return self._periods.setdefault(opened_us, PeriodSums())

    def turn(self, opened_us: int) -> None:
        """Begin the period that opened then, and forget what is too old."""
        self._oldest_us = self._calendar.back(opened_us, PERIODS_BACK)
        for old in [opened for opened in self._periods if opened < self._oldest_us]:
            del self._periods[old]

    def add(self, groups: Ints, minutes_us: Ints, spent_pusd: Ints) -> None:
        """Add row i to the period of its minute."""
        if self._oldest_us is not None:
            kept = minutes_us >= self._oldest_us
            groups, minutes_us, spent_pusd = groups[kept], minutes_us[kept], spent_pusd[kept]
        opens = self._calendar.opens(minutes_us)
        for opened in np.unique(opens).tolist():
            rows = opens == opened
            self.period(opened).add(groups[rows], spent_pusd[rows])

    def spent_pusd(self, group: int, opened_us: int) -> int:
        """Return a group's spend in the period that opened then; 0 where it is no longer known."""
        sums = self._periods.get(opened_us)
        return sums.spent_pusd(group) if sums is not None else 0

    def spent(self, group: int) -> dict[int, int]:
        """Return a group's pico-dollars by the open of the period, where anything was spent."""
        spent = {opened: sums.spent_pusd(group) for opened, sums in sorted(self._periods.items())}
        return {opened: pusd for opened, pusd in spent.items() if pusd}

    def snapshot(self, groups: int) -> dict[str, NDArray[np.generic]]:
        """Return all periods as arrays: periods × groups."""
        opened = sorted(self._periods)
        for sums in self._periods.values():
            sums.reserve(groups)

        def stacked(name: str, dtype: type) -> NDArray[np.generic]:
            rows = [getattr(self._periods[at], name)[:groups] for at in opened]
            return np.array(rows, dtype=dtype).reshape(len(opened), groups)

        return {
            "periods": np.array(opened, dtype=np.int64),
            "spent_dollars": stacked("dollars", np.int64),
            "spent_pusd": stacked("pusd", np.int64),
            "reached": stacked("reached", np.int16),
        }

    def restore(self, arrays: Any) -> None:
        """Restore what ``snapshot`` returned."""
        self._periods = {}
        for row, opened in enumerate(arrays["periods"].tolist()):
            sums = self.period(opened)
            sums.dollars = np.array(arrays["spent_dollars"][row], dtype=np.int64)
            sums.pusd = np.array(arrays["spent_pusd"][row], dtype=np.int64)
            sums.reached = np.array(arrays["reached"][row], dtype=np.int16)


def step_of(window_s: int) -> int:
    """Return the step in which a window slides, in seconds: minutes up to an hour, 5 minutes up to 6 hours, hours."""
    return 60 if window_s <= 3600 else 300 if window_s <= 21_600 else 3600


class SpendWindows:
    """Spend of each group in windows that end with the running minute, 5 minutes or hour.

    A window holds as many steps as fill it, the running one included: never more than its length, and nothing is
    extrapolated. Sums are floats of pico-dollars: exact up to $9,007 a step, and never overflowing.
    Memory a group, with the windows of the default burn rates: 60 + 72 + 72 numbers, 1.6 kB.
    """

    def __init__(self, windows_s: Iterable[int]) -> None:
        self._widths = {window: -(-window // step_of(window)) for window in windows_s}
        steps = {step_of(window) for window in self._widths}
        self._rings = {
            step: StepRing(step * US, max(w for s, w in self._widths.items() if step_of(s) == step), dtype=np.float64)
            for step in sorted(steps)
        }
        self._ahead = Ahead(dtype=np.float64)

    def advance(self, now_us: int) -> None:
        """Move to the detection clock, which never goes back."""
        for ring in self._rings.values():
            ring.advance(now_us)
        for groups, minutes_us, spent in self._ahead.due(now_us):
            self._add(groups, minutes_us, spent)

    def add(self, groups: Ints, minutes_us: Ints, spent_pusd: Ints, now_us: int) -> None:
        """Add row i to its group and minute; rows older than every window are dropped."""
        spent = spent_pusd.astype(np.float64)[:, None]
        ahead = minutes_us > now_us
        if ahead.any():
            self._ahead.keep(groups[ahead], minutes_us[ahead], spent[ahead])
            groups, minutes_us, spent = groups[~ahead], minutes_us[~ahead], spent[~ahead]
        self._add(groups, minutes_us, spent)

    def usd(self, groups: Ints, window_s: int) -> Floats:
        """Return what each of the groups spent in the window, USD."""
        window: Floats = self._rings[step_of(window_s)].window(groups, self._widths[window_s])[:, 0] / PUSD
        return window

    def covered_us(self, window_s: int, now_us: int) -> int:
        """Return how much time the window covers at a moment: up to a step less than its length."""
        step_us = step_of(window_s) * US
        return now_us - (now_us // step_us - self._widths[window_s] + 1) * step_us

    def snapshot(self, groups: int) -> dict[str, NDArray[np.generic]]:
        """Return the state as arrays."""
        arrays = self._ahead.snapshot()
        for step, ring in self._rings.items():
            arrays |= ring.snapshot(f"spend_{step}s", groups)
        return arrays

    def restore(self, arrays: Any) -> None:
        """Restore what ``snapshot`` returned."""
        self._ahead.restore(arrays)
        for step, ring in self._rings.items():
            ring.restore(f"spend_{step}s", arrays)

    def _add(self, groups: Ints, minutes_us: Ints, spent: Floats) -> None:
        for ring in self._rings.values():
            ring.add(groups, minutes_us, spent)
