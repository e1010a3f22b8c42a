"""A finding in one line of plain words."""

from spendstream.core.detect.finding import Finding, Level
from spendstream.core.money import dollars
from spendstream.schemas.measures import WATCHED
from spendstream.schemas.watch import Watch


def who(group: dict[str, str]) -> str:
    """Return a group in words: ``code_agent (team developer-platform)``; ``all`` where a watch has one group."""
    if not group:
        return "all"
    names = list(group)
    last = names[-1]
    rest = ", ".join(f"{name} {group[name] or '(none)'}" for name in names[:-1])
    return f"{group[last] or '(none)'}" + (f" ({rest})" if rest else "")


def title(watch: Watch, group: dict[str, str], finding: Finding) -> str:
    """Return what a finding says, in one line."""
    subject = who(group)
    if finding.level is Level.NORMAL and finding.budget is not None:
        return f"{subject}: no longer firing; {_budget(finding)}"
    if finding.level is Level.NORMAL:
        return f"{subject}: {_topic(watch)} is back to {amount(finding.observed, finding.unit)}"
    if finding.budget is not None:
        return f"{subject}: {_budget(finding)}"
    if finding.facet == "no_data":
        return f"{subject}: no more calls; expected {amount(finding.expected or 0.0, finding.unit)}"
    words = f"{subject}: {_topic(watch)} at {amount(finding.observed, finding.unit)}"
    if finding.expected is not None:
        return f"{words}, expected {amount(finding.expected, finding.unit)}"
    return words + (f", limit {amount(finding.limit, finding.unit)}" if finding.limit is not None else "")


def amount(value: float, unit: str) -> str:
    """Return a value with its unit: ``$41.20/min``, ``37%``, ``1,204 tokens/call``."""
    if unit.startswith("USD"):
        return f"{dollars(value)}{unit.removeprefix('USD')}"
    if unit == "share":
        return f"{value:.1%}"
    if unit == "x":
        return f"{value:.1f}x"
    return f"{value:,.0f} {unit}" if abs(value) >= 10 else f"{value:,.2g} {unit}"


def _topic(watch: Watch) -> str:
    return WATCHED[getattr(watch.rule, "measure", "cost")].title


def _budget(finding: Finding) -> str:
    budget = finding.budget
    assert budget is not None
    of = f"of {dollars(budget.amount_usd)} until {budget.period_end:%Y-%m-%d %H:%M}Z"
    spent = dollars(budget.spent_usd)
    if finding.facet == "forecast":
        return f"{dollars(budget.forecast_usd or 0)} forecast {of}; {spent} spent"
    if finding.facet.startswith("burn"):
        return f"the budget burns at {finding.observed:.1f} times the even pace; {spent} spent {of}"
    return f"{spent} spent {of}: {float(budget.spent_usd / budget.amount_usd):.0%}"
