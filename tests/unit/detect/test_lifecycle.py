"""The life of an alert: what is published, who is notified, and that nothing is decided twice."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from spendstream.core.detect.finding import Finding, Level
from spendstream.core.detect.lifecycle import NOTIFY_AGAIN_FACTOR, UPDATE_EVERY_S, Case, Lifecycle, Why
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import AnomalyRule, Watch
from tests.unit.detect.rollup_log import BEGAN_US

WATCH = Watch(name="feature-spend", group_by=("team", "feature"), rule=AnomalyRule(kind="anomaly"), renotify=3600)
GROUP = {"team": "search", "feature": "answers"}
NOW = BEGAN_US + 30 * US


class World:
    """A lifecycle with a clock; publishes what it decides, by default."""

    def __init__(self, watch: Watch = WATCH) -> None:
        self.watch = watch
        self.life = Lifecycle()
        self.life.notifiers = ("slack", "hook")
        self.now = NOW
        self.silence: str | None = None
        self.is_live = True
        self.log: list[Alert] = []

    def see(self, level: Level, observed: float = 10.0, *, since: int = BEGAN_US, publish: bool = True) -> Alert | None:
        finding = Finding(0, "up", level, since, observed, expected=2.0, limit=4.0, score=9.0)
        alert = self.life.decide(
            Case(self.watch, GROUP, finding),
            self.now,
            explain=lambda _: Why(),
            quiet=lambda _w, _g, _at: self.silence,
            is_live=self.is_live,
        )
        if alert is not None and publish:
            self.log.append(alert)
            self.life.published(alert)
        return alert

    def after(self, seconds: float) -> World:
        self.now += round(seconds * US)
        return self

    def transitions(self) -> list[str]:
        return [alert.transition for alert in self.log]


def seen(alert: Alert | None) -> Alert:
    assert alert is not None
    return alert


def test_a_suspicion_becomes_an_alert_and_ends() -> None:
    world = World()
    world.see(Level.SUSPECT)
    world.after(1).see(Level.SUSPECT)
    world.after(60).see(Level.FIRING)
    world.after(60).see(Level.NORMAL, 2.0)
    assert world.transitions() == ["pending", "firing", "resolved"]
    assert [alert.seq for alert in world.log] == [1, 2, 3]
    assert [alert.notify for alert in world.log] == [False, True, True]
    assert len({alert.alert_id for alert in world.log}) == 1
    assert len({alert.transition_id for alert in world.log}) == 3
    assert world.log[-1].ends_at == world.log[-1].at


def test_a_suspicion_that_comes_to_nothing_notifies_nobody() -> None:
    world = World()
    world.see(Level.SUSPECT)
    world.after(60).see(Level.NORMAL)
    assert world.transitions() == ["pending", "resolved"]
    assert not any(alert.notify for alert in world.log)


def test_a_normal_finding_without_an_alert_does_nothing() -> None:
    assert World().see(Level.NORMAL) is None


def test_a_firing_alert_is_updated_once_a_minute_and_notifies_again_after_the_renotify_interval() -> None:
    world = World()
    world.see(Level.FIRING)
    for _ in range(10 * 3900):  # ten times a second would be too many: ten minutes over the hour, each tenth
        world.after(0.1).see(Level.FIRING)
    updates = [alert for alert in world.log if alert.transition == "updated"]
    assert len(updates) == 3900 // UPDATE_EVERY_S
    told = [alert for alert in updates if alert.notify]
    assert [alert.at - world.log[0].at for alert in told] == [timedelta(hours=1)]


def test_an_alert_that_has_grown_notifies_before_its_interval() -> None:
    world = World()
    world.see(Level.FIRING, 10.0)
    world.after(60).see(Level.FIRING, 10.0 * NOTIFY_AGAIN_FACTOR - 0.1)
    assert not world.log[-1].notify
    world.after(60).see(Level.FIRING, 10.0 * NOTIFY_AGAIN_FACTOR)
    assert world.log[-1].notify
    world.after(60).see(Level.FIRING, 10.0 * NOTIFY_AGAIN_FACTOR)
    assert not world.log[-1].notify


def test_renotify_zero_notifies_once() -> None:
    world = World(WATCH.model_copy(update={"renotify": 0}))
    world.see(Level.FIRING)
    world.after(86_400).see(Level.FIRING)
    assert [alert.notify for alert in world.log] == [True, False]


def test_a_silenced_alert_is_recorded_and_notifies_once_the_silence_is_over() -> None:
    world = World()
    world.silence = "silence 1"
    world.see(Level.FIRING)
    world.after(60).see(Level.FIRING)
    assert [(a.transition, a.notify, a.silenced_by) for a in world.log] == [
        ("firing", False, "silence 1"),
        ("updated", False, "silence 1"),
    ]
    world.silence = None
    world.after(2).see(Level.FIRING)
    assert (world.log[-1].transition, world.log[-1].notify, world.log[-1].silenced_by) == ("updated", True, None)


def test_an_alert_that_notified_nobody_ends_silently() -> None:
    world = World()
    world.silence = "maintenance db"
    world.see(Level.FIRING)
    world.silence = None
    world.after(0.5).see(Level.NORMAL)
    assert [(a.transition, a.notify) for a in world.log] == [("firing", False), ("resolved", False)]


def test_what_is_found_in_a_backlog_is_recorded_and_notifies_only_if_it_continues() -> None:
    world = World()
    world.is_live = False
    world.see(Level.FIRING)
    assert not world.log[-1].notify
    world.is_live = True
    world.after(5).see(Level.FIRING)
    assert world.log[-1].notify


def test_what_was_decided_and_not_published_is_decided_again_with_the_same_ids() -> None:
    world = World()
    first = seen(world.see(Level.FIRING, publish=False))
    again = seen(world.after(0.2).see(Level.FIRING))
    assert (again.alert_id, again.transition_id, again.seq) == (first.alert_id, first.transition_id, first.seq)


@pytest.mark.parametrize("died_after", range(1, 6))
def test_a_successor_that_reads_the_alert_topic_neither_loses_nor_invents_a_transition(died_after: int) -> None:
    steps: list[tuple[float, Level, float]] = [
        (0, Level.SUSPECT, 10),
        (60, Level.FIRING, 10),
        (61, Level.FIRING, 25),
        (5, Level.FIRING, 25),
        (60, Level.NORMAL, 2),
    ]

    def run(world: World, part: list[tuple[float, Level, float]]) -> None:
        for wait, level, observed in part:
            world.after(wait).see(level, observed)

    whole = World()
    run(whole, steps)
    before = World()
    run(before, steps[:died_after])
    after = World()
    after.now = before.now
    for alert in before.log:
        after.life.published(alert)
    after.log = list(before.log)
    run(after, steps[died_after:])
    assert [(a.transition_id, a.notify) for a in after.log] == [(a.transition_id, a.notify) for a in whole.log]


def test_the_order_in_which_the_topic_is_read_does_not_matter() -> None:
    world = World()
    world.see(Level.SUSPECT)
    world.after(60).see(Level.FIRING)
    world.after(60).see(Level.NORMAL, 2.0)
    backwards = Lifecycle()
    backwards.restore(reversed(world.log))
    assert backwards.open_alerts() == []
    assert backwards.snapshot() == [world.log[-1]]


def test_a_new_episode_is_a_new_alert() -> None:
    world = World()
    world.see(Level.FIRING)
    world.after(60).see(Level.NORMAL)
    world.after(600).see(Level.FIRING, since=BEGAN_US + 12 * MINUTE_US)
    assert world.log[0].alert_id != world.log[-1].alert_id
    assert world.log[-1].seq == 1


def test_a_budget_alert_that_comes_back_within_its_period_keeps_its_id() -> None:
    world = World()
    world.see(Level.FIRING)
    world.after(60).see(Level.NORMAL)
    back = seen(world.after(60).see(Level.FIRING))
    assert back.alert_id == world.log[0].alert_id
    assert (back.transition, back.seq, back.notify) == ("firing", 3, True)


def test_resolved_alerts_are_forgotten_eventually() -> None:
    world = World()
    world.see(Level.FIRING)
    world.after(60).see(Level.NORMAL)
    world.life.forget_resolved(world.now + 30 * 86_400 * US)
    assert len(world.life.snapshot()) == 1
    world.life.forget_resolved(world.now + 40 * 86_400 * US)
    assert world.life.snapshot() == []


def test_a_watch_notifies_the_notifiers_it_names_or_else_all() -> None:
    assert seen(World().see(Level.FIRING)).notifiers == ("slack", "hook")
    assert seen(World(WATCH.model_copy(update={"notify": ("hook",)})).see(Level.FIRING)).notifiers == ("hook",)
    assert seen(World(WATCH.model_copy(update={"notify": ()})).see(Level.FIRING)).notifiers == ()


def test_the_title_says_who_how_much_and_how_much_was_expected() -> None:
    title = seen(World().see(Level.FIRING)).title
    assert title == "answers (team search): spend at $10.00/min, expected $2.00/min"


def test_an_alert_keeps_the_start_it_was_given_first() -> None:
    world = World()
    world.see(Level.SUSPECT)
    later = seen(world.after(60).see(Level.FIRING, since=BEGAN_US + MINUTE_US))
    assert later.started_at == world.log[0].started_at
    assert isinstance(later.started_at, datetime)


def test_withdrawing_an_alert_notifies_those_who_were_notified() -> None:
    world = World()
    firing = seen(world.see(Level.FIRING))
    over = world.life.withdraw(firing, world.now + US, "no longer watched")
    assert (over.state, over.seq, over.notify) == ("resolved", 2, True)
    assert "no longer watched" in over.title
