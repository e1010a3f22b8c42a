"""What each group spent in each period, to the pico-dollar."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import Calendar, Ints
from spendstream.core.detect.steps import grown
from spendstream.core.money import PUSD

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
        """The most thresholds that the spend has been seen to reach: those stay reached within the period."""

    def reserve(self, groups: int) -> None:
        """Make room for so many groups."""
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
    """The periods that still matter: the running one, ``PERIODS_BACK`` before it, and any the stream is ahead in."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._periods: dict[int, PeriodSums] = {}
        self._oldest_us: int | None = None

    def period(self, opened_us: int) -> PeriodSums:
        """Return the sums of the period that opened then; empty ones where nothing was spent."""
        return self._periods.setdefault(opened_us, PeriodSums())

    def turn(self, opened_us: int) -> None:
        """Forget what is too old, now that the period that opened then is running."""
        self._oldest_us = self._calendar.back(opened_us, PERIODS_BACK)
        for old in [opened for opened in self._periods if opened < self._oldest_us]:
            del self._periods[old]

    def add(self, groups: Ints, minutes_us: Ints, spent_pusd: Ints) -> None:
        """Add row i to the period that its minute lies in."""
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
        """Take over what ``snapshot`` returned."""
        self._periods = {}
        for row, opened in enumerate(arrays["periods"].tolist()):
            sums = self.period(opened)
            sums.dollars = np.array(arrays["spent_dollars"][row], dtype=np.int64)
            sums.pusd = np.array(arrays["spent_pusd"][row], dtype=np.int64)
            sums.reached = np.array(arrays["reached"][row], dtype=np.int16)
