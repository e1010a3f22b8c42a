"""A group's budget, once judged, in the words of findings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final

from spendstream.core.detect.budget.calendar import Calendar
from spendstream.core.detect.budget.ledger import SpendLedger
from spendstream.core.detect.budget.limits import Amounts, Burn, threshold_facet
from spendstream.core.detect.finding import Finding, Level
from spendstream.core.money import PUSD, usd_text
from spendstream.core.timestamps import from_epoch_us
from spendstream.schemas.alert import BudgetStatus, usd

FORECAST: Final = "forecast"


@dataclass(frozen=True)
class Judged:
    """One group at one minute: all that a finding is made of.

    ``amount``: position among the amounts. ``reached``: how many thresholds the running period has reached.
    ``late``: positions of the last period's thresholds that have just become known. ``forecast_usd``: NaN where it is
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

    def report(self, judged: Judged) -> tuple[list[Finding], Callable[[Finding], Finding]]:
        """Return what is not normal in a group, and what tells the figures of now of a finding that ended."""
        opened_us = self._calendar.span(judged.minute_us)[0]
        found: list[Finding] = []
        if judged.reached or judged.forecast_fires or any(judged.burns_since):
            facts = self._facts(judged, opened_us)
            status = BudgetStatus(**facts)
            found += [self._threshold(judged, facet, opened_us, status) for facet in self._facets[: judged.reached]]
            found += [self._forecast(judged, opened_us, status)] if judged.forecast_fires else []
            burning = [(facet, judged.burns_since[at]) for facet, (at, _) in self._burns.items()]
            found += [self._burn(judged, facet, since_us, facts) for facet, since_us in burning if since_us]
        late = [position for position in judged.late if position >= judged.reached]
        if late:
            last_us = self._calendar.back(opened_us, 1)
            last = BudgetStatus(**self._facts(judged, last_us))
            found += [self._threshold(judged, self._facets[position], last_us, last) for position in late]
        return found, partial(self._calm, judged)

    def _calm(self, judged: Judged, ended: Finding) -> Finding:
        if ended.facet in self._burns:
            return self._burn(judged, ended.facet, ended.since_us, self._facts(judged, judged.minute_us))
        status = BudgetStatus(**self._facts(judged, ended.since_us))
        if ended.facet in self._thresholds:
            return self._threshold(judged, ended.facet, ended.since_us, status)
        return self._forecast(judged, ended.since_us, status)

    def _facts(self, judged: Judged, opened_us: int) -> dict[str, Any]:
        """Return where the budget stands in the period of an instant, as fields of ``BudgetStatus``."""
        opened_us, closes_us = self._calendar.span(opened_us)
        told = opened_us <= judged.minute_us < closes_us and not math.isnan(judged.forecast_usd)
        return {
            "period_start": from_epoch_us(opened_us),
            "period_end": from_epoch_us(closes_us),
            "amount_usd": self._amounts.usd[judged.amount],
            "spent_usd": Decimal(usd_text(self._ledger.spent_pusd(judged.group, opened_us))),
            "forecast_usd": usd(judged.forecast_usd) if told else None,
        }

    def _threshold(self, judged: Judged, facet: str, since_us: int, status: BudgetStatus) -> Finding:
        """``expected``: what the even pace had come to by now."""
        amount, (opened_us, closes_us) = self._amount(judged), self._calendar.span(since_us)
        passed = min(judged.minute_us - opened_us, closes_us - opened_us) / (closes_us - opened_us)
        return Finding(
            judged.group,
            facet,
            Level.FIRING,
            since_us,
            observed=float(status.spent_usd),
            expected=amount * passed,
            limit=amount * self._thresholds[facet],
            unit="USD",
            budget=status,
        )

    def _forecast(self, judged: Judged, since_us: int, status: BudgetStatus) -> Finding:
        """``observed``: the forecast; what was spent, where there is none any more."""
        amount = self._amount(judged)
        observed = float(status.spent_usd) if math.isnan(judged.forecast_usd) else judged.forecast_usd
        return Finding(
            judged.group, FORECAST, Level.FIRING, since_us, observed, amount, amount, unit="USD", budget=status
        )

    def _burn(self, judged: Judged, facet: str, since_us: int, facts: dict[str, Any]) -> Finding:
        """``observed``: the long window's rate; ``expected``: the even pace."""
        at, burn = self._burns[facet]
        long, short = judged.rates[at]
        status = BudgetStatus(**facts, burn_rate=long, burn_rate_short=short)
        return Finding(
            judged.group, facet, Level.FIRING, since_us, long, 1.0, burn.rate.factor, unit="x", budget=status
        )

    def _amount(self, judged: Judged) -> float:
        return self._amounts.pusd[judged.amount] / PUSD
