"""Alerts through kills, rebalances and an absent ClickHouse: each transition once, budgets equal to the ledger."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from spendstream.core.detect.budget import BudgetEvaluator
from spendstream.core.money import PUSD
from spendstream.schemas.alert import Alert
from tests.alerts.receiver import Receiver
from tests.alerts.world import SPEND_ABOVE, AlertWorld, call

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

TEAMS = 30
BUDGETS = """
  - name: budget
    group_by: [team]
    notify: []
    rule: {kind: budget, amount_usd: 40, period: day, forecast: false, burn_rates: []}
"""


def test_kills_and_rebalances_neither_lose_nor_invent_a_transition_and_budgets_equal_the_ledger(
    tmp_path: Path,
) -> None:
    chance = random.Random(5)
    with Receiver() as receiver, AlertWorld(tmp_path, receiver, SPEND_ABOVE + BUDGETS) as world:
        world.keep_running(2)
        world.wait_until_watching()
        kill_at = time.monotonic() + 3
        for number in range(TEAMS):
            team = f"team-{number:02}"
            late = {"occurred_at": _ago(minutes=chance.randint(12, 55))}  # beyond the allowed lateness: a correction
            world.send([call(team, 60.0), call(team, 0.123457), call(team, 0.5, **late)])
            if time.monotonic() > kill_at:
                chance.choice(world.workers).kill()
                kill_at = time.monotonic() + chance.uniform(2, 6)
            world.keep_running(2)
            time.sleep(0.7)
        receiver.wait_for(lambda r: len({a["alert_id"] for a in r.of("resolved")}) == TEAMS, 300)
        alerts = world.alerts()
        _assert_sound([alert for alert in alerts if alert.watch == "spend"], TEAMS)
        _assert_sound_budgets([alert for alert in alerts if alert.watch == "budget"])
        due = {str(alert.transition_id) for alert in alerts if alert.notify and alert.notifiers}
        told = {told.alert["transition_id"] for told in receiver.told}
        assert told == due
        time.sleep(5)  # longer than a snapshot takes to come
        ledger = dict(world.query("SELECT team, toString(sum(cost_usd)) FROM spendstream.calls_v GROUP BY team"))
        assert _budget_sums(world) == {team: Decimal(usd) for team, usd in ledger.items()}
        stored = world.query("SELECT count(), uniqExact(transition_id) FROM spendstream.alerts_v")
        assert stored == [(len({alert.transition_id for alert in alerts}),) * 2]


def test_alerts_continue_while_clickhouse_is_away_and_are_stored_when_it_returns(tmp_path: Path) -> None:
    with Receiver() as receiver, AlertWorld(tmp_path, receiver) as world:
        world.start_worker()
        world.wait_until_watching()
        world.clickhouse.stop()
        world.send([call("search", 60.0)])
        (firing,) = receiver.wait_for(lambda r: r.of("firing"))
        assert firing["group"] == {"team": "search"}
        world.clickhouse.start()
        deadline = time.monotonic() + 90
        stored: list[tuple[object, ...]] = []
        while not stored and time.monotonic() < deadline:
            time.sleep(0.5)
            stored = world.query("SELECT toString(alert_id), group['team'] FROM spendstream.alerts_v")
        assert stored == [(firing["alert_id"], "search")]


def _assert_sound(alerts: list[Alert], count: int) -> None:
    """Every alert fired once and ended once, its transitions are numbered without a gap, and none has two contents."""
    by_alert: dict[object, dict[int, Alert]] = defaultdict(dict)
    for alert in alerts:
        former = by_alert[alert.alert_id].setdefault(alert.seq, alert)
        assert (former.transition_id, former.transition) == (alert.transition_id, alert.transition)
    assert len(by_alert) == count
    for transitions in by_alert.values():
        assert sorted(transitions) == list(range(1, len(transitions) + 1))
        kinds = [transitions[seq].transition for seq in sorted(transitions)]
        assert kinds.count("firing") == kinds.count("resolved") == 1
        assert kinds[-1] == "resolved"


def _assert_sound_budgets(alerts: list[Alert]) -> None:
    """Each team reached 50%, 80% and 100% of its budget, each once: $60.62 of $40."""
    firing = {(alert.group["team"], alert.facet): alert for alert in alerts if alert.transition == "firing"}
    assert len(firing) == 3 * TEAMS
    assert len({alert.alert_id for alert in alerts}) == 3 * TEAMS


def _budget_sums(world: AlertWorld) -> dict[str, Decimal]:
    """Return what the detector's last snapshot holds of each team's budget."""
    detector, _ = world.last_detector()
    groups, evaluator = detector.evaluator("budget")
    assert isinstance(evaluator, BudgetEvaluator)
    return {
        groups.named(number)["team"]: Decimal(sum(evaluator.spent(number).values())) / PUSD
        for number in range(len(groups))
    }


def _ago(minutes: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
