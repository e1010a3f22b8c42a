"""Rules, scopes and durations as text."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, assert_never

from spendstream.core.money import exact_dollars
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Measure, Rule, ThresholdRule

_UNITS: Final = ((604_800, "w"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_DEPARTS: Final = {
    "up": "more than {} above usual",
    "down": "more than {} below usual",
    "both": "more than {} above or below usual",
}
_MONEY: Final = ("cost", "cost_per_call")
_SHARES: Final = (
    "reasoning_share",
    "cache_hit_rate",
    "failure_share",
    "retry_share",
    "unpriced_share",
    "partly_priced_share",
    "substituted_share",
)


def explain_rule(rule: Rule) -> str:
    """Return a rule in one line: ``$5,000 a month, Europe/Berlin: 50%, 80%, 100%, forecast, burn 1h/5m at 14.4x``."""
    match rule:
        case AnomalyRule():
            return _anomaly(rule)
        case BudgetRule():
            return _budget(rule)
        case ThresholdRule():
            return _threshold(rule)
    assert_never(rule)


def explain_duration(seconds: int) -> str:
    """Return seconds in the largest unit that needs no fraction: 5400 is ``90m``."""
    if seconds == 0:
        return "0"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    return f"{seconds // size}{unit}"


def explain_scope(scope: Mapping[str, Sequence[str]]) -> str:
    """Return a scope as ``team search, environment production or staging``; ``everything`` if it is empty."""
    if not scope:
        return "everything"
    return ", ".join(f"{name} {' or '.join(value or '(none)' for value in values)}" for name, values in scope.items())


def percent(share: float) -> str:
    """Return a share as ``50%`` or ``12.5%``."""
    return f"{share * 100:.6g}%"


def _anomaly(rule: AnomalyRule) -> str:
    text = f"{_name(rule.measure)} {_DEPARTS[rule.direction].format(percent(rule.min_change))}"
    if rule.sensitivity != "normal":
        text += f", {rule.sensitivity} sensitivity"
    if rule.no_data_after is not None:
        text += f", or no calls for {explain_duration(rule.no_data_after)}"
    return text


def _budget(rule: BudgetRule) -> str:
    text = f"{exact_dollars(rule.amount_usd)} a {rule.period}"
    if rule.amounts:
        text += f" ({len(rule.amounts)} groups differ)" if len(rule.amounts) > 1 else " (1 group differs)"
    marks = [percent(threshold) for threshold in rule.thresholds]
    marks += ["forecast"] if rule.forecast else []
    period_s = {"day": 86_400, "week": 604_800, "month": 28 * 86_400}[rule.period]
    rates = [
        f"{explain_duration(rate.long)}/{explain_duration(rate.short)} at {rate.factor:g}x"
        for rate in rule.burn_rates
        if rate.long < period_s
    ]
    marks += ["burn " + ", ".join(rates)] if rates else []
    return f"{text}, {rule.time_zone}: {', '.join(marks) or 'no alerts'}"


def _threshold(rule: ThresholdRule) -> str:
    bound, side = (rule.above, "above") if rule.above is not None else (rule.below, "below")
    assert bound is not None
    text = f"{_name(rule.measure)} {side} {_value(rule.measure, bound)} over {explain_duration(rule.window)}"
    return text + (f", for {explain_duration(rule.lasting)}" if rule.lasting else "")


def _value(measure: Measure, value: float) -> str:
    if measure in _SHARES:
        return percent(value)
    if measure in _MONEY:
        return exact_dollars(Decimal(repr(value))) + ("/min" if measure == "cost" else "")
    if measure in ("calls", "tokens"):
        return f"{_number(value)}/min"
    return f"{_number(value)} ms" if measure == "latency_ms" else _number(value)


def _number(value: float) -> str:
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _name(measure: Measure) -> str:
    return measure.removesuffix("_ms").replace("_", " ")
