"""The budget rule: thresholds of the period's spend, a forecast of its end, and burn rates."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import Calendar
from spendstream.core.detect.budget.limits import (
    CLEARS_BELOW,
    KNOWN_WITHIN_US,
    RECENT_S,
    Amounts,
    Breaches,
    Burn,
    LateThresholds,
    burns,
    forecast_usd,
    threshold_facet,
)
from spendstream.core.detect.budget.spend import Small, SpendLedger, SpendWindows
from spendstream.core.detect.finding import ActiveFindings, Arrays, Finding, Groups, Level, Updates
from spendstream.core.detect.measures import SPEND
from spendstream.core.detect.steps import Floats, Ints, earliest, grown
from spendstream.core.money import PUSD, usd_text
from spendstream.core.timestamps import MINUTE_US, US, from_epoch_us
from spendstream.schemas.alert import BudgetStatus, usd
from spendstream.schemas.watch import BudgetRule

FORECAST: Final = "forecast"


@dataclass(frozen=True)
class BudgetState:
    """One group's budget at one minute: all that a finding is made of.

    ``amount``: position among the amounts. ``reached``: how many thresholds the running period has reached.
    ``late``: positions of the last period's thresholds that have just become known. ``forecast_usd``: NaN while it is
    too early. ``rates`` and ``burns_since``: by pair of windows, as (long, short), and µs or 0.
    """

    group: int
    minute_us: int
    amount: int
    reached: int
    late: range
    forecast_usd: float
    forecast_fires: bool
    rates: list[list[float]]
    burns_since: list[int]


class Reporter:
    """Makes findings. Thresholds and forecast are in USD; burn rates in multiples of the even pace, ``x``."""

    def __init__(
        self,
        ledger: SpendLedger,
        calendar: Calendar,
        amounts: Amounts,
        thresholds: Sequence[float],
        burns: Sequence[Burn],
    ) -> None:
        self._ledger = ledger
        self._calendar = calendar
        self._amounts = amounts
        self._thresholds = {threshold_facet(threshold): threshold for threshold in thresholds}
        self._facets = list(self._thresholds)
        self._burns = {burn.facet: (at, burn) for at, burn in enumerate(burns)}

    def report(self, state: BudgetState) -> tuple[list[Finding], Callable[[Finding], Finding]]:
        """Return a group's findings, and a function that gives an ended finding the present figures."""
        opened_us = self._calendar.span(state.minute_us)[0]
        found: list[Finding] = []
        if state.reached or state.forecast_fires or any(state.burns_since):
            facts = self._facts(state, opened_us)
            status = BudgetStatus(**facts)
            found += [self._threshold(state, facet, opened_us, status) for facet in self._facets[: state.reached]]
            found += [self._forecast(state, opened_us, status)] if state.forecast_fires else []
            burning = [(facet, state.burns_since[at]) for facet, (at, _) in self._burns.items()]
            found += [self._burn(state, facet, since_us, facts) for facet, since_us in burning if since_us]
        late = [position for position in state.late if position >= state.reached]
        if late:
            last_us = self._calendar.back(opened_us, 1)
            last = BudgetStatus(**self._facts(state, last_us))
            found += [self._threshold(state, self._facets[position], last_us, last) for position in late]
        return found, partial(self._ended, state)

    def _ended(self, state: BudgetState, ended: Finding) -> Finding:
        if ended.facet in self._burns:
            return self._burn(state, ended.facet, ended.since_us, self._facts(state, state.minute_us))
        status = BudgetStatus(**self._facts(state, ended.since_us))
        if ended.facet in self._thresholds:
            return self._threshold(state, ended.facet, ended.since_us, status)
        return self._forecast(state, ended.since_us, status)

    def _facts(self, state: BudgetState, opened_us: int) -> dict[str, Any]:
        """Return the budget's figures in the period of an instant, as fields of ``BudgetStatus``."""
        opened_us, closes_us = self._calendar.span(opened_us)
        has_forecast = opened_us <= state.minute_us < closes_us and not math.isnan(state.forecast_usd)
        return {
            "period_start": from_epoch_us(opened_us),
            "period_end": from_epoch_us(closes_us),
            "amount_usd": self._amounts.usd[state.amount],
            "spent_usd": Decimal(usd_text(self._ledger.spent_pusd(state.group, opened_us))),
            "forecast_usd": usd(state.forecast_usd) if has_forecast else None,
        }

    def _threshold(self, state: BudgetState, facet: str, since_us: int, status: BudgetStatus) -> Finding:
        """``expected``: the spend at an even pace by now."""
        amount, (opened_us, closes_us) = self._amount(state), self._calendar.span(since_us)
        passed = min(state.minute_us - opened_us, closes_us - opened_us) / (closes_us - opened_us)
        return Finding(
            state.group,
            facet,
            Level.FIRING,
            since_us,
            observed=float(status.spent_usd),
            expected=amount * passed,
            limit=amount * self._thresholds[facet],
            unit="USD",
            budget=status,
        )

    def _forecast(self, state: BudgetState, since_us: int, status: BudgetStatus) -> Finding:
        """``observed``: the forecast, or the spend where there is no forecast any more."""
        amount = self._amount(state)
        observed = float(status.spent_usd) if math.isnan(state.forecast_usd) else state.forecast_usd
        return Finding(
            state.group, FORECAST, Level.FIRING, since_us, observed, amount, amount, unit="USD", budget=status
        )

    def _burn(self, state: BudgetState, facet: str, since_us: int, facts: dict[str, Any]) -> Finding:
        """``observed``: the long window's rate; ``expected``: the even pace."""
        at, burn = self._burns[facet]
        long, short = state.rates[at]
        status = BudgetStatus(**facts, burn_rate=long, burn_rate_short=short)
        return Finding(state.group, facet, Level.FIRING, since_us, long, 1.0, burn.rate.factor, unit="x", budget=status)

    def _amount(self, state: BudgetState) -> float:
        return self._amounts.pusd[state.amount] / PUSD


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
    the last period over a threshold within a day of its end, an alert fires for two minutes under that period's open,
    unless the running period fires the same threshold. Older periods raise nothing.

    Groups are evaluated when they were touched, and all once a minute. Memory a group: 1.6 kB of windows, 100 bytes
    otherwise.
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
        self._active = ActiveFindings(facets)
        self._reporter = Reporter(self._ledger, self._calendar, self._amounts, self._thresholds, self._burns)
        self._touched: set[int] = set()
        self._minute_us = -1
        self._evaluated_us = -1
        self._opened_us = -1

    def apply(self, updates: Updates, now_us: int) -> None:
        """Add updates; rows without cost are skipped."""
        self._roll(now_us)
        spent_pusd = updates.sums[:, SPEND]
        costs = np.flatnonzero(spent_pusd)
        if not len(costs):
            return
        groups, minutes_us, spent_pusd = updates.groups[costs], updates.minutes_us[costs], spent_pusd[costs]
        self._ledger.add(groups, minutes_us, spent_pusd)
        self._windows.add(groups, minutes_us, spent_pusd, now_us)
        self._first_us, touched = earliest(self._first_us, groups, minutes_us)
        self._touched.update(touched.tolist())

    def findings(self, now_us: int) -> Iterable[Finding]:
        """Return what is not normal, and what has ended at this moment."""
        self._roll(now_us)
        touched = self._touched | self._active.begin(now_us)
        if self._evaluated_us != self._minute_us:
            groups = np.flatnonzero(self._first_us)
        else:
            groups = np.array(sorted(touched), dtype=np.int64)
        if len(groups):
            self._evaluate(groups)
        self._touched.clear()
        self._evaluated_us = self._minute_us
        return self._active.all()

    def hold(self, groups: Collection[int]) -> None:
        """Do nothing: this rule learns nothing that an alert could distort."""

    def spent(self, group: int) -> dict[int, int]:
        """Return a group's spend in pico-dollars by the open of the period (µs), exactly: the running period, three
        before it, and any later ones already seen."""
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
        return arrays | self._late.snapshot() | self._active.snapshot()

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot's state; the groups must be numbered as they were."""
        self._minute_us, self._opened_us = np.array(arrays["clock"], dtype=np.int64).tolist()
        self._evaluated_us = -1
        self._touched = set()
        self._first_us = np.array(arrays["first"], dtype=np.int64)
        self._forecast_fires = np.array(arrays["forecast_fires"], dtype=np.bool_)
        for burn, breaches in zip(self._burns, self._breaches, strict=True):
            breaches.restore(burn.facet, arrays)
        for part in (self._ledger, self._windows, self._late, self._active):
            part.restore(arrays)
        if self._opened_us >= 0:
            self._ledger.turn(self._opened_us)

    def _roll(self, now_us: int) -> None:
        """Move to the clock's minute, and to the new period where one begins."""
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

    def _evaluate(self, groups: Ints) -> None:
        opened_us, closes_us = self._calendar.span(self._minute_us)
        chosen = self._amounts.chosen(groups)
        amount_usd = self._amounts.floats(chosen)
        reached = self._reached(groups, chosen)
        rates, since = self._burn(groups, amount_usd, (closes_us - opened_us) / US)
        forecast = self._forecast(groups, opened_us, closes_us)
        fires = self._forecast_over(groups, forecast, amount_usd, reached)
        is_active = np.array([group in self._active or group in self._late for group in groups.tolist()])
        for row in np.flatnonzero((reached > 0) | fires | since.any(axis=1) | is_active).tolist():
            group = int(groups[row])
            state = BudgetState(
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
            self._active.settle(group, *self._reporter.report(state))

    def _reached(self, groups: Ints, chosen: Ints) -> Small:
        """Count the thresholds reached in the running period, and record late ones of the last."""
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
            since[:, at] = breaches.update(groups, rates[:, at, 0], rates[:, at, 1], self._minute_us)
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
        """Return whose forecast fires, with hysteresis; nobody's where a threshold of 100% or more was reached."""
        self._forecast_fires = grown(self._forecast_fires, int(groups[-1]) + 1)
        fired = self._forecast_fires[groups]
        exhausted = reached > sum(threshold < 1 for threshold in self._thresholds)
        fires = ~exhausted & ((forecast > amount_usd) | (fired & (forecast >= CLEARS_BELOW * amount_usd)))
        self._forecast_fires[groups] = fires
        return fires
