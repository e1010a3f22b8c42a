"""The life of each facet of a budget."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.detect.budget import BudgetEvaluator
from spendstream.core.detect.budget.limits import Amounts, burns, threshold_facet
from spendstream.core.detect.finding import Groups, Level
from spendstream.schemas.measures import COST
from spendstream.schemas.watch import BudgetRule, Watch
from tests.unit.detect.spending import DAY, HOUR, MINUTE, at, found, groups, spend, updates

MAY_5 = at("2026-05-05 00:00")


def budget(amount: Any = 100, period: str = "day", *features: str, **more: Any) -> BudgetEvaluator:
    more = {"forecast": False, "burn_rates": (), **more}
    return BudgetEvaluator(BudgetRule(kind="budget", amount_usd=amount, period=period, **more), groups(*features))


@pytest.mark.parametrize(
    ("threshold", "facet"), [(0.5, "50%"), (0.8, "80%"), (1.0, "100%"), (1.25, "125%"), (0.125, "12.5%"), (10, "1000%")]
)
def test_a_threshold_s_name_is_its_percentage(threshold: float, facet: str) -> None:
    assert threshold_facet(threshold) == facet


def test_a_threshold_fires_at_exactly_its_pico_dollar() -> None:
    evaluator, now = budget("0.1"), MAY_5 + HOUR
    evaluator.apply(updates([(0, now, {COST: 80_000_000_000 - 1})]), now)
    assert set(found(evaluator, now)) == {"50%"}
    evaluator.apply(updates([(0, now, {COST: 1})]), now)
    assert set(found(evaluator, now)) == {"50%", "80%"}


def test_a_threshold_fires_until_its_period_ends_and_ends_once() -> None:
    evaluator = budget()
    spend(evaluator, MAY_5 + HOUR, 55)
    first = found(evaluator, MAY_5 + HOUR)["50%"]
    assert (first.level, first.since_us, first.observed, first.limit, first.unit) == (
        Level.FIRING,
        MAY_5,
        55,
        50,
        "USD",
    )
    assert first.budget is not None
    assert first.budget.spent_usd == Decimal(55)
    spend(evaluator, MAY_5 + HOUR, -30, now=MAY_5 + 2 * HOUR)  # a correction does not end it
    assert found(evaluator, MAY_5 + 2 * HOUR)["50%"].level is Level.FIRING
    end = MAY_5 + DAY
    assert found(evaluator, end - 1)["50%"].level is Level.FIRING
    for _ in range(2):  # evaluated twice at one moment
        over = found(evaluator, end)["50%"]
        assert (over.level, over.since_us) == (Level.NORMAL, MAY_5)
    assert found(evaluator, end + 1) == {}


def test_a_threshold_crossed_again_in_the_next_period_ends_the_old_alert_first() -> None:
    evaluator, end = budget(), MAY_5 + DAY
    spend(evaluator, MAY_5 + HOUR, 55)
    found(evaluator, end - MINUTE)
    spend(evaluator, end, 60)
    over = found(evaluator, end)["50%"]
    assert (over.level, over.since_us) == (Level.NORMAL, MAY_5)
    again = found(evaluator, end + 1)["50%"]
    assert (again.level, again.since_us) == (Level.FIRING, end)


def test_spend_ahead_of_the_clock_counts_when_its_period_comes() -> None:
    evaluator, end = budget(), MAY_5 + DAY
    spend(evaluator, end + MINUTE, 60, now=end - MINUTE)
    assert found(evaluator, end - MINUTE) == {}
    assert found(evaluator, end)["50%"].since_us == end


def test_a_crossing_known_within_a_day_of_the_period_s_end_fires_for_two_minutes() -> None:
    evaluator, end = budget(), MAY_5 + DAY
    spend(evaluator, end - MINUTE, 45)
    assert found(evaluator, end - 1) == {}
    spend(evaluator, end - MINUTE, 10, now=end + HOUR)
    late = found(evaluator, end + HOUR)["50%"]
    assert (late.level, late.since_us, late.observed) == (Level.FIRING, MAY_5, 55)
    assert late.budget is not None
    assert late.budget.spent_usd == 55
    assert found(evaluator, end + HOUR + MINUTE)["50%"].level is Level.FIRING
    assert found(evaluator, end + HOUR + 2 * MINUTE)["50%"].level is Level.NORMAL
    assert found(evaluator, end + HOUR + 3 * MINUTE) == {}
    spend(evaluator, end - MINUTE, 1, now=end + 2 * HOUR)
    assert found(evaluator, end + 2 * HOUR) == {}, "told once"


def test_a_late_crossing_never_interrupts_the_running_period_s() -> None:
    evaluator, end = budget(), MAY_5 + DAY
    spend(evaluator, end + MINUTE, 60)
    assert found(evaluator, end + MINUTE)["50%"].since_us == end
    spend(evaluator, end - MINUTE, 85, now=end + HOUR)
    standing = found(evaluator, end + HOUR)
    assert (standing["50%"].level, standing["50%"].since_us) == (Level.FIRING, end)
    assert standing["80%"].since_us == MAY_5


def test_a_period_that_ended_more_than_a_day_ago_raises_nothing_and_is_corrected() -> None:
    evaluator = budget()
    now = MAY_5 + 2 * DAY + MINUTE
    spend(evaluator, MAY_5 + HOUR, 500, now=now)
    assert found(evaluator, now) == {}
    assert evaluator.spent(0) == {MAY_5: 500 * 10**12}
    spend(evaluator, now, 49)
    assert found(evaluator, now) == {}, "nothing leaks into the running period"


def test_a_week_that_ended_two_days_ago_raises_nothing() -> None:
    evaluator, monday = budget(100, "week"), at("2026-05-04 00:00")
    spend(evaluator, monday - HOUR, 45)
    spend(evaluator, monday - HOUR, 500, now=monday + 2 * DAY)
    assert found(evaluator, monday + 2 * DAY) == {}


def test_a_group_may_have_an_amount_of_its_own() -> None:
    evaluator = budget(100, "day", "chat", "search", amounts=[{"group": {"feature": "search"}, "amount_usd": 10}])
    spend(evaluator, MAY_5, 6, group=0)
    spend(evaluator, MAY_5, 6, group=1)
    (finding,) = evaluator.findings(MAY_5)
    assert (finding.group, finding.facet, finding.limit) == (1, "50%", 5)
    assert finding.budget is not None
    assert finding.budget.amount_usd == 10


def test_of_several_amounts_the_one_that_names_the_most_holds() -> None:
    known = Groups(
        Watch(name="w", group_by=("feature", "model"), rule={"kind": "budget", "amount_usd": 1}), ("feature", "model")
    )
    for members in (("chat", "large"), ("chat", "small"), ("search", "large")):
        known.number(members)
    amounts = [
        {"group": {"feature": "chat"}, "amount_usd": 2},
        {"group": {"feature": "chat", "model": "large"}, "amount_usd": 3},
        {"group": {"model": "large"}, "amount_usd": 4},
    ]
    rule = BudgetRule(kind="budget", amount_usd=1, amounts=amounts)
    chosen = Amounts(rule, known, ()).chosen(np.arange(3))
    assert Amounts(rule, known, ()).floats(chosen).tolist() == [3, 2, 4]


# --- burn rates


def test_burn_rates_as_long_as_the_period_are_left_out() -> None:
    def names(period: str) -> list[str]:
        return [burn.facet for burn in burns(BudgetRule(kind="budget", amount_usd=1, period=period))]

    assert names("day") == ["burn_1h_5m", "burn_6h_30m"]
    assert names("month") == ["burn_1h_5m", "burn_6h_30m", "burn_3d_6h"]


FAST = {"long": "1h", "short": "5m", "factor": 14.4}


def burning(**more: Any) -> BudgetEvaluator:
    """A month of 30 days with 720 dollars: the even pace is a dollar an hour, so 14.4 dollars in an hour burn."""
    return budget(720, "month", burn_rates=(FAST,), thresholds=(), **more)


APRIL_10 = at("2026-04-10 00:00")


def test_a_burn_fires_when_both_windows_hold() -> None:
    evaluator = burning()
    spend(evaluator, APRIL_10, 14.3)
    assert found(evaluator, APRIL_10) == {}
    spend(evaluator, APRIL_10 + MINUTE, 0.1)
    finding = found(evaluator, APRIL_10 + MINUTE + 1)["burn_1h_5m"]
    assert (finding.level, finding.since_us, finding.unit, finding.limit) == (
        Level.FIRING, APRIL_10 + MINUTE, "x", 14.4
    )  # fmt: skip
    assert finding.observed == pytest.approx(14.4)
    assert finding.budget is not None
    assert finding.budget.burn_rate == pytest.approx(14.4)
    assert finding.budget.burn_rate_short == pytest.approx(14.4 * 12)


def test_a_long_window_alone_does_not_burn() -> None:
    evaluator = burning()
    spend(evaluator, APRIL_10, 14)
    spend(evaluator, APRIL_10 + 30 * MINUTE, 1)  # 15 in the hour, but 1 in five minutes is 12 times the pace
    assert found(evaluator, APRIL_10 + 30 * MINUTE) == {}


def test_a_short_window_alone_does_not_burn() -> None:
    evaluator = burning()
    spend(evaluator, APRIL_10, 10)
    assert found(evaluator, APRIL_10) == {}


def test_a_burn_ends_three_minutes_after_the_short_window_falls_below_the_factor() -> None:
    evaluator = burning()
    spend(evaluator, APRIL_10, 20)
    assert found(evaluator, APRIL_10)["burn_1h_5m"].level is Level.FIRING
    levels = [found(evaluator, APRIL_10 + minute * MINUTE).get("burn_1h_5m") for minute in range(10)]
    assert [finding and finding.level for finding in levels] == [Level.FIRING] * 8 + [Level.NORMAL, None]
    assert {finding.since_us for finding in levels if finding} == {APRIL_10}


def test_windows_reach_into_the_last_period() -> None:
    evaluator, turn = burning(), at("2026-05-01 00:00")
    spend(evaluator, turn - MINUTE, 15)
    assert found(evaluator, turn + MINUTE)["burn_1h_5m"].level is Level.FIRING


def test_spend_older_than_the_windows_burns_nothing() -> None:
    evaluator = burning()
    spend(evaluator, APRIL_10 - HOUR, 500, now=APRIL_10)
    assert found(evaluator, APRIL_10) == {}


def test_a_backlog_of_one_partition_burns_when_the_clock_gets_there() -> None:
    evaluator = burning()
    spend(evaluator, APRIL_10, 20, now=APRIL_10 - DAY)
    assert found(evaluator, APRIL_10 - DAY) == {}
    assert found(evaluator, APRIL_10 - 1) == {}
    assert found(evaluator, APRIL_10)["burn_1h_5m"].since_us == APRIL_10


def test_slow_burns_are_seen_over_days() -> None:
    evaluator = budget(720, "month", burn_rates=({"long": "3d", "short": "6h", "factor": 1},), thresholds=())
    for hour in range(80):
        spend(evaluator, APRIL_10 + hour * HOUR, 1.05)
        standing = found(evaluator, APRIL_10 + hour * HOUR)
        # 1.05 an hour for 69 hours are 72.45: more than three days' even pace of 72
        assert set(standing) == ({"burn_3d_6h"} if hour >= 68 else set()), hour


# --- forecast


def test_a_forecast_needs_a_twentieth_of_the_period() -> None:
    evaluator = budget(100, "day", forecast=True, thresholds=())
    for minute in range(0, 80):
        now = MAY_5 + minute * MINUTE
        spend(evaluator, now, 0.2)
        assert set(found(evaluator, now)) == ({"forecast"} if minute >= 72 else set()), minute


def test_a_young_group_is_not_forecast_and_a_day_is_always_enough() -> None:
    evaluator = budget(100, "month", forecast=True, thresholds=())
    start = at("2026-05-15 00:00")
    for hour in range(26):
        spend(evaluator, start + hour * HOUR, 0.5)
        assert set(found(evaluator, start + hour * HOUR)) == ({"forecast"} if hour >= 24 else set()), hour


def test_a_forecast_is_the_spend_and_the_mean_of_two_paces() -> None:
    evaluator = budget(200, "month", forecast=True, thresholds=())
    april = at("2026-04-01 00:00")
    for hour in range(9 * 24):
        spend(evaluator, april + hour * HOUR, 50 / (9 * 24))
    for hour in range(9 * 24, 10 * 24):
        spend(evaluator, april + hour * HOUR, 10 / 24)
    finding = found(evaluator, april + 10 * DAY - MINUTE)["forecast"]
    assert finding.observed == pytest.approx(220, rel=0.001)
    assert finding.since_us == april
    assert (finding.limit, finding.unit) == (200, "USD")
    assert finding.budget is not None
    assert float(finding.budget.forecast_usd or 0) == pytest.approx(220, rel=0.001)


def test_a_forecast_clears_below_95_percent_and_not_before() -> None:
    evaluator = budget(100, "day", forecast=True, thresholds=())
    spend(evaluator, MAY_5, 52)
    levels = {}
    for hour in range(2, 24):
        finding = found(evaluator, MAY_5 + hour * HOUR).get("forecast")
        if finding:
            levels[finding.observed] = finding.level
    assert all((level is Level.FIRING) == (forecast >= 95) for forecast, level in levels.items())
    assert any(95 <= forecast < 100 for forecast in levels), "hysteresis was at work"
    assert list(levels.values()).count(Level.NORMAL) == 1


def test_a_forecast_is_silent_once_the_amount_is_spent() -> None:
    evaluator, now = budget(100, "day", forecast=True), MAY_5 + 6 * HOUR
    spend(evaluator, MAY_5, 40)
    assert found(evaluator, now)["forecast"].level is Level.FIRING
    spend(evaluator, now, 60)
    standing = found(evaluator, now)
    assert standing["forecast"].level is Level.NORMAL
    assert standing["100%"].level is Level.FIRING
    assert "forecast" not in found(evaluator, now + 1)


# --- laws

moves = st.lists(
    st.tuples(
        st.integers(0, 400),  # minutes on
        st.lists(st.tuples(st.integers(0, 2), st.integers(-2000, 30), st.integers(-3, 30)), max_size=4),
    ),
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(moves=moves, cut=st.integers(0, 25), period=st.sampled_from(["day", "month"]))
def test_a_restored_evaluator_continues_as_if_nothing_had_happened(moves: list, cut: int, period: str) -> None:
    def fresh() -> BudgetEvaluator:
        rates = (FAST, {"long": "6h", "short": "30m", "factor": 2}, {"long": "3d", "short": "6h", "factor": 1})
        return budget(60, period, "a", "b", "c", forecast=True, burn_rates=rates)

    evaluator, now = fresh(), MAY_5
    other = evaluator
    for number, (minutes, rows) in enumerate(moves):
        now += minutes * MINUTE + 1  # what ended at the moment of the snapshot was returned before it was taken
        batch = updates([(group, now + late * MINUTE, {COST: usd * 10**12}) for group, late, usd in rows])
        evaluator.apply(batch, now)
        if other is not evaluator:
            other.apply(batch, now)
        key = lambda finding: (finding.group, finding.facet, finding.level)  # noqa: E731
        expected = sorted(evaluator.findings(now), key=key)
        assert sorted(evaluator.findings(now), key=key) == expected, "judged twice"
        assert other is evaluator or sorted(other.findings(now), key=key) == expected
        if number == cut:
            other = fresh()
            other.restore(evaluator.snapshot())


@settings(max_examples=60, deadline=None)
@given(moves=moves)
def test_every_alert_that_begins_ends_once_before_the_next(moves: list) -> None:
    evaluator, now, standing = budget(60, "day", "a", "b", "c", forecast=True, burn_rates=(FAST,)), MAY_5, {}
    for minutes, rows in moves:
        now += minutes * MINUTE + 1
        batch = updates([(group, now + late * MINUTE, {COST: usd * 10**12}) for group, late, usd in rows])
        evaluator.apply(batch, now)
        findings = list(evaluator.findings(now))
        assert len({(f.group, f.facet) for f in findings}) == len(findings), "one finding a facet"
        for finding in findings:
            key = finding.group, finding.facet
            assert standing.get(key, finding.since_us) == finding.since_us
            if finding.level is Level.NORMAL:
                del standing[key]
            else:
                standing[key] = finding.since_us
        assert set(standing) == {(f.group, f.facet) for f in findings if f.level}
