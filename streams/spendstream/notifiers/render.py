"""An alert as text, the same for every notifier: a title, then why, who, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from spendstream.core.money import dollars
from spendstream.schemas.alert import Alert, BudgetStatus

_MAX_PARTS: Final = 3
_MAX_CONTRIBUTORS: Final = 3


def title(alert: Alert) -> str:
    """Return what happened in one line; a resolved alert says so first."""
    return f"Resolved: {alert.title}" if alert.state == "resolved" else alert.title


def subject(alerts: Sequence[Alert]) -> str:
    """Return the title of a notification of one or more alerts of a watch."""
    return title(alerts[0]) if len(alerts) == 1 else f"{len(alerts)} alerts from {alerts[0].watch}"


def lines(alert: Alert) -> list[str]:
    """Return the lines under the title: why, facts, who, budget, projection, runbook. Unknown ones are left out."""
    return list(_lines(alert))


def text(alert: Alert) -> str:
    """Return title and lines, for receivers of plain text."""
    return "\n".join((title(alert), *lines(alert)))


def _lines(alert: Alert) -> Iterator[str]:
    if alert.attribution is not None:
        parts = [part for part in alert.attribution.parts if part.change_usd_per_minute and part.words][:_MAX_PARTS]
        if parts:
            yield "why: " + "; ".join(f"{part.words} ({_signed(part.change_usd_per_minute)}/min)" for part in parts)
        if alert.attribution.facts:
            yield f"also: {'; '.join(alert.attribution.facts)}"
        top = alert.attribution.contributors[:_MAX_CONTRIBUTORS]
        if top:
            yield "who: " + ", ".join(f"{one.value or f'no {one.dimension}'} {one.share:.0%}" for one in top)
    if alert.budget is not None:
        yield _budget(alert.budget)
    if alert.projection is not None and alert.state != "resolved":
        hour, month = alert.projection.excess_by_end_of_hour_usd, alert.projection.excess_by_end_of_month_usd
        yield f"if this continues: {_signed(hour)} by the end of the hour, {_signed(month)} by the end of the month"
    if alert.state == "resolved" and alert.ends_at is not None:
        yield f"from {_moment(alert.started_at)} to {_moment(alert.ends_at)}"
    if alert.runbook:
        yield f"runbook: {alert.runbook}"


def _budget(budget: BudgetStatus) -> str:
    text = f"budget: {dollars(budget.spent_usd)} of {dollars(budget.amount_usd)} spent"
    if budget.forecast_usd is not None:
        text += f", forecast {dollars(budget.forecast_usd)}"
    return f"{text}; the period ends {_moment(budget.period_end)}"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M %Z}"


def _signed(value: Decimal) -> str:
    return f"+{dollars(value)}" if value > 0 else dollars(value)
