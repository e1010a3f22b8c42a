"""The budget rule: thresholds of the period's spend, a forecast of its end, and burn rates."""

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.breaches import Breaches
from spendstream.core.detect.budget.calendar import Calendar, Ints
from spendstream.core.detect.budget.forecast import CLEARS_BELOW, RECENT_S, forecast_usd
from spendstream.core.detect.budget.late import KNOWN_WITHIN_US, LateThresholds
from spendstream.core.detect.budget.ledger import Small, SpendLedger
from spendstream.core.detect.budget.limits import Amounts, burns, threshold_facet
from spendstream.core.detect.budget.report import FORECAST, Judged, Reporter
from spendstream.core.detect.budget.windows import SpendWindows
from spendstream.core.detect.finding import Arrays, Finding, Updates
from spendstream.core.detect.groups import Groups
from spendstream.core.detect.measures import SPEND
from spendstream.core.detect.standing import Standing
from spendstream.core.detect.steps import Floats, earliest, grown
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.watch import BudgetRule


class BudgetEvaluator:
    """Spend of each group against an amount per period. A minute belongs to the period that its open lies in.

    Facets, each of them an alert of its own:

    - ``50%``, ``80%``, ``100%``: the period's spend is at or above that part of the amount. Fires until the period
      ends, even if a correction takes the spend back below. ``since_us``: the period's open.
    - ``forecast``: the spend forecast for the period's end is above the amount; over once it is below 95% of it, or
      once a threshold of 100% or more was reached, which says more. ``since_us``: the period's open.
    - ``burn_1h_5m``: both windows' spend is at or above ``factor`` times the even pace; over after 3 minutes with the
      short one below. Windows may reach into the period before. ``since_us``: the minute in which that began.

    Late corrections go to the period of their minute, back to three periods before the running one. Where they take
    the last period over a threshold within a day of its end, that is told (for two minutes, under that period's
    open; never while the running period fires the same threshold). Older periods raise nothing.

    Judged are the groups that were touched, and all once a minute. Memory a group: 1.6 kB of windows, 100 bytes else.
    """

    def __init__(self, rule: BudgetRule, groups: Groups) -> None:
        self._rule = rule
        self._thresholds = sorted(set(rule.thresholds))
        self._burns = burns(rule)
        self._amounts = Amounts(rule, groups, self._thresholds)
        self._calendar = Calendar(rule.period, rule.time_zone)
        self._ledger = SpendLedger(self._calendar)
        windows = {window for burn in self._burns for window in (burn.rate.long, burn.rate.short)}
        self._windows = SpendWindows(windows | ({RECENT_S} if rule.forecast else set()))
        self._breaches = [Breaches(burn.rate.factor) for burn in self._burns]
        self._forecast_fires: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._first_us: Ints = np.zeros(0, dtype=np.int64)
        self._late = LateThresholds()
        facets = (*map(threshold_facet, self._thresholds), FORECAST, *(burn.facet for burn in self._burns))
        self._standing = Standing(facets)
        self._reporter = Reporter(self._ledger, self._calendar, self._amounts, self._thresholds, self._burns)
        self._touched: set[int] = set()
        self._minute_us = -1
        self._judged_us = -1
        self._opened_us = -1

    def apply(self, updates: Updates, now_us: int) -> None:
        """Take in what was added; rows that cost nothing are not looked at."""
        self._roll(now_us)
        spent_pusd = updates.sums[:, SPEND]
        costs = np.flatnonzero(spent_pusd)
        if not len(costs):
            return
        groups, minutes_us, spent_pusd = updates.groups[costs], updates.minutes_us[costs], spent_pusd[costs]
        self._ledger.add(groups, minutes_us, spent_pusd)
        self._windows.add(groups, minutes_us, spent_pusd, now_us)
        self._meet(groups, minutes_us)

    def findings(self, now_us: int) -> Iterable[Finding]:
        """Return what is not normal, and what has ended at this moment."""
        self._roll(now_us)
        touched = self._touched | self._standing.begin(now_us)
        if self._judged_us != self._minute_us:
            groups = np.flatnonzero(self._first_us)
        else:
            groups = np.array(sorted(touched), dtype=np.int64)
        if len(groups):
            self._judge(groups)
        self._touched.clear()
        self._judged_us = self._minute_us
        return self._standing.all()

    def hold(self, groups: Collection[int]) -> None:
        """Nothing is learned here that an alert could spoil."""

    def spent(self, group: int) -> dict[int, int]:
        """Return a group's spend in pico-dollars by the open of the period (µs), exactly: the running period, three
        before it, and any that the stream has got ahead into."""
        return self._ledger.spent(group)

    def snapshot(self) -> Arrays:
        """Return all of the state."""
        groups = int(np.flatnonzero(self._first_us).max(initial=-1)) + 1
        self._forecast_fires = grown(self._forecast_fires, groups)
        arrays = {
            "clock": np.array([self._minute_us, self._opened_us], dtype=np.int64),
            "first": self._first_us[:groups].copy(),
            "forecast_fires": self._forecast_fires[:groups].copy(),
        }
        for burn, breaches in zip(self._burns, self._breaches, strict=True):
            arrays |= breaches.snapshot(burn.facet, groups)
        arrays |= self._ledger.snapshot(groups) | self._windows.snapshot(groups)
        return arrays | self._late.snapshot() | self._standing.snapshot()

    def restore(self, arrays: Arrays) -> None:
        """Take over a snapshot's state; the groups must be numbered as they were."""
        self._minute_us, self._opened_us = np.array(arrays["clock"], dtype=np.int64).tolist()
        self._judged_us = -1
        self._touched = set()
        self._first_us = np.array(arrays["first"], dtype=np.int64)
        self._forecast_fires = np.array(arrays["forecast_fires"], dtype=np.bool_)
        for burn, breaches in zip(self._burns, self._breaches, strict=True):
            breaches.restore(burn.facet, arrays)
        for part in (self._ledger, self._windows, self._late, self._standing):
            part.restore(arrays)
        if self._opened_us >= 0:
            self._ledger.turn(self._opened_us)

    def _roll(self, now_us: int) -> None:
        """Move to the clock's minute; at the turn of a period, to the new one."""
        minute_us = now_us // MINUTE_US * MINUTE_US
        if minute_us <= self._minute_us:
            return
        self._minute_us = minute_us
        self._windows.advance(minute_us)
        self._late.forget(minute_us)
        opened_us, _ = self._calendar.span(minute_us)
        if opened_us != self._opened_us:
            self._opened_us = opened_us
            self._ledger.turn(opened_us)
            self._late.forget_all()

    def _meet(self, groups: Ints, minutes_us: Ints) -> None:
        """Remember each group's first minute, and that it was touched."""
        self._first_us, met = earliest(self._first_us, groups, minutes_us)
        self._touched.update(met.tolist())

    def _judge(self, groups: Ints) -> None:
        opened_us, closes_us = self._calendar.span(self._minute_us)
        chosen = self._amounts.chosen(groups)
        amount_usd = self._amounts.floats(chosen)
        reached = self._reached(groups, chosen)
        rates, since = self._burn(groups, amount_usd, (closes_us - opened_us) / US)
        forecast = self._forecast(groups, opened_us, closes_us)
        fires = self._forecast_over(groups, forecast, amount_usd, reached)
        stands = np.array([group in self._standing or group in self._late for group in groups.tolist()])
        for row in np.flatnonzero((reached > 0) | fires | since.any(axis=1) | stands).tolist():
            group = int(groups[row])
            judged = Judged(
                group=group,
                minute_us=self._minute_us,
                amount=int(chosen[row]),
                reached=int(reached[row]),
                late=self._late.of(group),
                forecast_usd=float(forecast[row]),
                forecast_fires=bool(fires[row]),
                rates=rates[row].tolist(),
                burns_since=since[row].tolist(),
            )
            self._standing.settle(group, *self._reporter.report(judged))

    def _reached(self, groups: Ints, chosen: Ints) -> Small:
        """Count the thresholds reached in the running period, and take note of late ones of the last."""
        limits = self._amounts.limits(chosen)
        if self._minute_us - self._opened_us < KNOWN_WITHIN_US:
            last = self._ledger.period(self._calendar.back(self._opened_us, 1))
            are = last.thresholds_reached(groups, *limits)
            self._late.learn(groups, last.reached[groups], are, self._minute_us)
            last.reached[groups] = np.maximum(last.reached[groups], are)
        running = self._ledger.period(self._opened_us)
        reached = running.thresholds_reached(groups, *limits)
        running.reached[groups] = np.maximum(running.reached[groups], reached)
        return running.reached[groups]

    def _burn(self, groups: Ints, amount_usd: Floats, length_s: float) -> tuple[Floats, Ints]:
        """Return the rates (groups × pairs × long and short) and since when each pair burns (groups × pairs)."""
        rates = np.zeros((len(groups), len(self._burns), 2))
        since = np.zeros((len(groups), len(self._burns)), dtype=np.int64)
        for at, (burn, breaches) in enumerate(zip(self._burns, self._breaches, strict=True)):
            for side, window_s in enumerate((burn.rate.long, burn.rate.short)):
                rates[:, at, side] = self._windows.usd(groups, window_s) / (amount_usd * window_s / length_s)
            since[:, at] = breaches.judge(groups, rates[:, at, 0], rates[:, at, 1], self._minute_us)
        return rates, since

    def _forecast(self, groups: Ints, opened_us: int, closes_us: int) -> Floats:
        if not self._rule.forecast:
            return np.full(len(groups), np.nan)
        return forecast_usd(
            self._ledger.period(opened_us).usd(groups),
            self._windows.usd(groups, RECENT_S),
            self._windows.covered_us(RECENT_S, self._minute_us),
            self._first_us[groups],
            self._minute_us,
            opened_us,
            closes_us,
        )

    def _forecast_over(self, groups: Ints, forecast: Floats, amount_usd: Floats, reached: Small) -> NDArray[np.bool_]:
        """Return whose forecast fires, with hysteresis; none where a threshold of 100% or more was reached."""
        self._forecast_fires = grown(self._forecast_fires, int(groups[-1]) + 1)
        fired = self._forecast_fires[groups]
        exhausted = reached > sum(threshold < 1 for threshold in self._thresholds)
        fires = ~exhausted & ((forecast > amount_usd) | (fired & (forecast >= CLEARS_BELOW * amount_usd)))
        self._forecast_fires[groups] = fires
        return fires
