"""Rules, durations and scopes as text."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from spendstream.schemas.watch import Rule
from spendstream.watches import explain_duration, explain_rule, explain_scope

RULE: TypeAdapter[Any] = TypeAdapter(Rule)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"kind": "anomaly", "no_data_after": None}, "cost more than 50% above or below usual"),
        (
            {"kind": "anomaly", "measure": "cache_hit_rate", "direction": "down", "min_change": 0.125},
            "cache hit rate more than 12.5% below usual, or no calls for 10m",
        ),
        (
            {"kind": "anomaly", "direction": "up", "sensitivity": "high", "no_data_after": None},
            "cost more than 50% above usual, high sensitivity",
        ),
        (
            {
                "kind": "budget",
                "amount_usd": "5000",
                "time_zone": "Europe/Berlin",
                "burn_rates": [{"long": "1h", "short": "5m", "factor": 14.4}],
            },
            "$5,000 a month, Europe/Berlin: 50%, 80%, 100%, forecast, burn 1h/5m at 14.4x",
        ),
        # of the usual burn rates only those within the period: 3d is longer than a day
        (
            {"kind": "budget", "amount_usd": "0.5", "period": "day", "thresholds": [1], "forecast": False},
            "$0.50 a day, UTC: 100%, burn 1h/5m at 14.4x, 6h/30m at 6x",
        ),
        (
            {"kind": "budget", "amount_usd": "1234.567", "period": "week", "thresholds": [], "burn_rates": []},
            "$1,234.567 a week, UTC: forecast",
        ),
        (
            {
                "kind": "budget",
                "amount_usd": "1",
                "amounts": [{"group": {"team": "a"}, "amount_usd": "2"}],
                "burn_rates": [],
                "forecast": False,
            },
            "$1 a month (1 group differs), UTC: 50%, 80%, 100%",
        ),
        (
            {"kind": "threshold", "measure": "failure_share", "above": 0.3, "lasting": "2m"},
            "failure share above 30% over 5m, for 2m",
        ),
        ({"kind": "threshold", "measure": "cost", "above": 12.5, "window": "1h"}, "cost above $12.50/min over 1h"),
        ({"kind": "threshold", "measure": "cost_per_call", "above": 1e-7}, "cost per call above $0.0000001 over 5m"),
        ({"kind": "threshold", "measure": "calls", "below": 1000}, "calls below 1,000/min over 5m"),
        ({"kind": "threshold", "measure": "tokens", "above": 2_500_000}, "tokens above 2,500,000/min over 5m"),
        ({"kind": "threshold", "measure": "latency_ms", "above": 1500}, "latency above 1,500 ms over 5m"),
    ],
)
def test_a_rule_is_explained_in_one_line(rule: dict[str, Any], text: str) -> None:
    assert explain_rule(RULE.validate_python(rule)) == text


def test_a_duration_has_the_largest_unit_that_needs_no_fraction() -> None:
    assert [explain_duration(s) for s in (0, 90, 5400, 7200, 86_400, 1_209_600)] == [
        "0",
        "90s",
        "90m",
        "2h",
        "1d",
        "2w",
    ]


def test_a_scope_is_explained_in_one_line() -> None:
    assert explain_scope({}) == "everything"
    said = explain_scope({"team": ("search",), "environment": ("staging", "")})
    assert said == "team search, environment staging or (none)"
