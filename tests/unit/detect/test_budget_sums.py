"""A budget's sums equal the ledger's, whatever arrives in whatever order."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.detect.budget import BudgetEvaluator, period_of
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import COST
from spendstream.schemas.watch import BudgetRule
from tests.unit.detect.spending import DAY, HOUR, MINUTE, at, groups, spend, updates

BERLIN_MARCH = at("2026-03-28 12:00")
rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(-50 * 24, 60),  # hours from the clock: late by weeks, or ahead by days
        st.integers(0, 59),
        st.integers(-(2**62), 2**62) | st.integers(-5, 5),
    ),
    max_size=12,
)
steps = st.lists(st.tuples(st.integers(0, 40 * 60), rows), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    steps=steps,
    period=st.sampled_from(["day", "week", "month"]),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]),
    cut=st.integers(0, 8),
)
def test_spent_is_the_sum_by_period_after_any_updates(steps: list, period: str, zone: str, cut: int) -> None:
    rule = BudgetRule(kind="budget", amount_usd=1, period=period, time_zone=zone)
    known = groups("a", "b", "c", "d")
    evaluator, truth, now = BudgetEvaluator(rule, known), defaultdict(int), BERLIN_MARCH
    for number, (minutes, several) in enumerate(steps):
        now += minutes * MINUTE
        batch = [(group, now + hours * HOUR + m * MINUTE, pusd) for group, hours, m, pusd in several]
        evaluator.apply(updates([(group, time, {"calls": 1, COST: pusd}) for group, time, pusd in batch]), now)
        for group, time, pusd in batch:
            truth[group, period_of(time // MINUTE_US * MINUTE_US, period, zone)[0]] += pusd
        list(evaluator.findings(now))
        if number == cut:
            restored = BudgetEvaluator(rule, known)
            restored.restore(evaluator.snapshot())
            evaluator = restored
    oldest = period_of(now, period, zone)[0]
    for _ in range(3):
        oldest = period_of(oldest - 1, period, zone)[0]
    for group in range(4):
        expected = {opened: pusd for (of, opened), pusd in truth.items() if of == group and opened >= oldest and pusd}
        assert evaluator.spent(group) == expected


def test_a_period_of_more_than_int64_is_exact() -> None:
    evaluator = BudgetEvaluator(BudgetRule(kind="budget", amount_usd=10**8, period="day"), groups())
    now = at("2026-05-05 12:00")
    most = 2**63 - 1
    for _ in range(20):
        evaluator.apply(updates([(0, now, {COST: most})] * 3), now)
    assert evaluator.spent(0) == {at("2026-05-05 00:00"): 60 * most}
    restored = BudgetEvaluator(BudgetRule(kind="budget", amount_usd=10**8, period="day"), groups())
    restored.restore(evaluator.snapshot())
    assert restored.spent(0) == evaluator.spent(0)
    finding = next(iter(restored.findings(now)))
    assert finding.facet == "50%"
    assert finding.budget is not None
    assert finding.budget.spent_usd * PUSD == 60 * most


def test_the_month_turns_at_midnight_of_the_zone() -> None:
    rule = BudgetRule(kind="budget", amount_usd=100, period="month", time_zone="Europe/Berlin")
    evaluator = BudgetEvaluator(rule, groups())
    turn = at("2026-10-31 23:00")  # midnight in winter time, after the October that has an hour more
    spend(evaluator, turn - MINUTE, 1)
    spend(evaluator, turn, 2)
    assert evaluator.spent(0) == {at("2026-09-30 22:00"): PUSD, turn: 2 * PUSD}


def test_new_york_s_long_day_is_one_day() -> None:
    rule = BudgetRule(kind="budget", amount_usd=100, period="day", time_zone="America/New_York")
    evaluator = BudgetEvaluator(rule, groups())
    opened = at("2026-11-01 04:00")
    for hour in range(26):
        spend(evaluator, opened + hour * HOUR, 1)
    assert evaluator.spent(0) == {opened: 25 * PUSD, opened + 25 * HOUR: PUSD}


def test_periods_before_the_last_three_are_forgotten() -> None:
    evaluator = BudgetEvaluator(BudgetRule(kind="budget", amount_usd=100, period="day"), groups())
    for day in range(6):
        spend(evaluator, at("2026-05-01 12:00") + day * DAY, 1)
    assert list(evaluator.spent(0)) == [at("2026-05-03 00:00") + day * DAY for day in range(4)]


def test_a_group_without_cost_leaves_no_trace() -> None:
    evaluator = BudgetEvaluator(BudgetRule(kind="budget", amount_usd=1), groups())
    now = at("2026-05-05 12:00")
    evaluator.apply(updates([(0, now, {"calls": 5}), (90_000, now, {"unpriced_calls": 5})]), now)
    assert list(evaluator.findings(now)) == []
    assert sum(array.nbytes for array in evaluator.snapshot().values()) < 1000


def test_the_memory_of_ten_thousand_groups_is_bounded() -> None:
    rule = BudgetRule(kind="budget", amount_usd=1_000_000)
    known = groups(*map(str, range(10_000)))
    evaluator, start = BudgetEvaluator(rule, known), at("2026-05-05 12:00")
    sizes = []
    for day in range(0, 80, 20):
        now = start + day * DAY
        evaluator.apply(updates([(group, now, {COST: 7}) for group in range(10_000)]), now)
        assert list(evaluator.findings(now)) == []
        sizes.append(sum(array.nbytes for array in evaluator.snapshot().values()))
    assert sizes[-1] < 10_000 * 2_000
    assert np.diff(sizes).max() <= 8 + 10_000 * 18  # a period more: two numbers and a small one
