"""All parts together, without Kafka: rollups in, alerts out, across restarts and reloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache

import numpy as np
import pytest

from spendstream.core.detect.budget import BudgetEvaluator
from spendstream.core.detect.detector import Detector
from spendstream.core.timestamps import MINUTE_US, US, from_epoch_us
from spendstream.schemas.alert import Alert, Silence
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Notifier, ThresholdRule, Watch, Watches
from tests.unit.detect.rollup_log import NAMES, RollupLog, minute

LATENESS_S = 600
FEATURE_SPEND = Watch(name="feature-spend", group_by=("team", "feature"), rule=AnomalyRule(kind="anomaly"))
BUDGET = Watch(
    name="team-budget",
    group_by=("team",),
    rule=BudgetRule(kind="budget", amount_usd=Decimal(50), period="day", forecast=False, burn_rates=()),
)
FAILURES = Watch(
    name="failures", rule=ThresholdRule(kind="threshold", measure="failure_share", above=0.3, min_calls=20)
)
SLACK = Notifier(name="slack", kind="slack", url="http://localhost/slack")


class World:
    """Meters of some partitions, a detector, and the alert topic."""

    def __init__(self, *watches: Watch, partitions: int = 2) -> None:
        self.file = Watches(watches=watches or (FEATURE_SPEND,), notifiers=(SLACK,))
        self.meters = [RollupLog(partition) for partition in range(partitions)]
        self.detector = Detector(NAMES, LATENESS_S)
        self.detector.configure(self.file)
        self.topic: list[Alert] = []
        self.chance = np.random.default_rng(7)
        self.now_us = minute(0)

    def play(
        self,
        minutes: Iterable[int],
        *,
        factor: Callable[[str], float] = lambda feature: 1.0,
        steps: int = 6,
        failing: float = 0.0,
        features: tuple[str, ...] = ("answers", "summary", "agent"),
    ) -> list[Alert]:
        """Let minutes pass, each in several steps; return what was published in them."""
        published: list[Alert] = []
        for number in minutes:
            for step in range(steps):
                for feature in features:
                    calls = self.chance.poisson(60 * factor(feature) / steps)
                    for _ in range(calls):
                        meter = self.meters[self.chance.integers(len(self.meters))]
                        failed = int(self.chance.random() < failing)
                        cost = 0.01 * self.chance.lognormal(0, 0.7)
                        meter.usd(number, ("api", "search", feature, "m-1"), cost, failed_calls=failed)
                published += self.pass_time(number, (step + 1) * 60 / steps)
        return published

    def pass_time(self, number: int, seconds: float) -> list[Alert]:
        """Let the meters flush and the detector decide, at some seconds of a minute."""
        self.now_us = minute(number) + round(seconds * US)
        for meter in self.meters:
            self.detector.absorb(meter.flush(self.now_us // 1000), self.now_us)
        return self.judge()

    def judge(self) -> list[Alert]:
        decided = self.detector.decide(self.now_us, is_live=True)
        self.detector.published(decided)
        self.topic += decided
        return decided

    def restart(self, *, snapshot: dict[str, dict[str, np.ndarray]] | None = None) -> None:
        """Replace the detector by a successor: from a snapshot, or from its present state, and the alert topic."""
        sections = snapshot if snapshot is not None else self.detector.snapshot()
        self.detector = Detector(NAMES, LATENESS_S)
        self.detector.restore(sections, self.now_us)
        self.detector.configure(self.file)
        self.detector.published(self.topic)


def runaway(feature: str) -> float:
    return 8.0 if feature == "agent" else 1.0


def firing(alerts: Iterable[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.transition == "firing"]


def test_calm_traffic_raises_nothing() -> None:
    assert World().play(range(90)) == []


def test_a_runaway_is_reported_within_the_running_minute_with_its_reason() -> None:
    world = World()
    world.play(range(60))
    (alert,) = firing(world.play([60], factor=runaway, steps=30))
    assert alert.group == {"team": "search", "feature": "agent"}
    assert alert.facet == "up"
    assert alert.at < from_epoch_us(minute(60) + 30 * US)
    assert alert.notify
    assert alert.notifiers == ("slack",)
    assert alert.attribution is not None
    assert alert.attribution.parts[0].factor == "volume"
    assert "more calls" in alert.attribution.reason
    change = alert.attribution.observed_usd_per_minute - alert.attribution.expected_usd_per_minute
    assert sum(part.change_usd_per_minute for part in alert.attribution.parts) == change
    assert alert.projection is not None
    assert alert.projection.excess_by_end_of_month_usd > alert.projection.excess_by_end_of_hour_usd > 0


def test_an_incident_is_updated_while_it_lasts_and_ends_once() -> None:
    world = World()
    world.play(range(60))
    world.play(range(60, 70), factor=runaway)
    world.play(range(70, 80))
    mine = [alert for alert in world.topic if alert.group["feature"] == "agent"]
    states = [alert.transition for alert in mine]
    assert states[-1] == "resolved"
    assert states.count("firing") == states.count("resolved") == 1
    assert states.count("updated") >= 5
    assert len({alert.alert_id for alert in mine}) == 1
    assert [alert.seq for alert in mine] == list(range(1, len(mine) + 1))


@cache
def incident(restart_at: int | None) -> list[tuple[str, str]]:
    """Return the transitions of an incident from minute 60 to 70, with a restart before a minute, or without."""
    world = World()
    world.play(range(60))
    for number in range(60, 80):
        if number == restart_at:
            world.restart()
        world.play([number], factor=runaway if number < 70 else lambda _: 1.0)
    return [(str(alert.transition_id), alert.transition) for alert in world.topic]


@pytest.mark.parametrize("at_minute", [60, 61, 64, 69, 71, 73])
def test_a_restart_anywhere_changes_no_transition(at_minute: int) -> None:
    assert incident(None)
    assert incident(at_minute) == incident(None)


def test_a_successor_with_an_older_snapshot_repeats_nothing_that_was_published() -> None:
    world = World()
    world.play(range(60))
    old = {section: dict(arrays) for section, arrays in world.detector.snapshot().items()}
    old = {section: {name: a.copy() for name, a in arrays.items()} for section, arrays in old.items()}
    world.play(range(60, 63), factor=runaway)
    before = list(world.topic)
    assert firing(before)
    world.restart(snapshot=old)
    for meter in world.meters:  # compaction left the newest total of each aggregate
        world.detector.absorb(meter.everything(world.now_us // 1000), world.now_us)
    world.judge()
    world.play(range(63, 80))
    assert len(firing(world.topic)) == len(firing(before))
    assert world.topic[-1].transition == "resolved"
    assert len({alert.transition_id for alert in world.topic}) == len(world.topic)


def test_an_alert_that_no_rule_reports_after_a_restart_is_closed_but_not_at_once() -> None:
    twin, world = World(), World()
    twin.play(range(60))
    twin.play([60], factor=runaway)
    world.play(range(61))
    world.topic += twin.topic  # another detector published it, whose evidence this one never sees
    world.restart()
    assert world.play(range(61, 64)) == []
    (over,) = world.play(range(64, 70))
    assert (over.transition, over.alert_id) == ("resolved", twin.topic[0].alert_id)


def spent_of(world: World) -> int:
    """What the budget's only group has spent, in pico-dollars."""
    _, evaluator = world.detector.evaluator("team-budget")
    assert isinstance(evaluator, BudgetEvaluator)
    (spent,) = evaluator.spent(0).values()
    return spent


def test_a_budget_counts_every_partition_and_its_sum_is_exact() -> None:
    world = World(BUDGET)
    world.play(range(40))
    half = next(alert for alert in world.topic if alert.facet == "50%")
    assert half.budget is not None
    assert half.budget.spent_usd >= 25
    world.play(range(40, 60))
    whole = sum(sum(meter.truth.values()) for meter in world.meters)
    last = world.topic[-1]
    assert last.budget is not None
    assert last.state == "firing"
    exact = [alert.budget.spent_usd for alert in world.topic if alert.budget is not None]
    assert exact == sorted(exact)
    assert spent_of(world) == whole


def test_a_watch_that_is_taken_up_later_knows_what_the_book_holds() -> None:
    world = World()
    world.play(range(10))
    world.detector.configure(Watches(watches=(FEATURE_SPEND, BUDGET)))
    assert spent_of(world) == sum(sum(meter.truth.values()) for meter in world.meters)


def test_a_reload_that_changes_only_notifiers_keeps_what_was_learned() -> None:
    world = World()
    world.play(range(60))
    changed = FEATURE_SPEND.model_copy(update={"severity": "critical", "runbook": "https://example.com/runbook"})
    world.detector.configure(Watches(watches=(changed,), notifiers=(SLACK,)))
    (alert,) = firing(world.play([60], factor=runaway))
    assert (alert.severity, alert.runbook) == ("critical", "https://example.com/runbook")


def test_a_watch_that_is_removed_ends_its_alerts() -> None:
    world = World()
    world.play(range(60))
    world.play([60, 61], factor=runaway)
    world.detector.configure(Watches(watches=(FAILURES,), notifiers=(SLACK,)))
    (over,) = world.judge()
    assert over.transition == "resolved"
    assert "no longer watched" in over.title


def test_failures_are_reported_by_their_share() -> None:
    world = World(FAILURES)
    world.play(range(10))
    assert world.topic == []
    world.play(range(10, 16), failing=0.8)
    (alert,) = firing(world.topic)
    assert alert.observed > 0.3
    assert alert.unit == "share"


def test_a_silenced_alert_names_the_silence() -> None:
    world = World()
    silence = Silence(
        silence_id="s1",
        starts_at=from_epoch_us(minute(0)),
        ends_at=from_epoch_us(minute(500)),
        group={"feature": "agent"},
    )
    world.detector.silences.put(silence)
    world.play(range(60))
    (alert,) = firing(world.play([60], factor=runaway))
    assert not alert.notify
    assert alert.silenced_by is not None
    assert "s1" in alert.silenced_by


def test_an_import_of_history_raises_nothing_and_counts_in_its_budget() -> None:
    world = World(FEATURE_SPEND, BUDGET, FAILURES)
    world.now_us = minute(400 * 1440)
    for number in range(200):
        for _ in range(50 if number < 150 else 5_000 // 50):
            world.meters[0].usd(number, ("api", "search", "agent", "m-1"), 0.5, failed_calls=1)
    world.detector.absorb(world.meters[0].flush(world.now_us // 1000), world.now_us)
    assert world.judge() == []
    world.now_us += 2 * MINUTE_US
    assert world.judge() == []
