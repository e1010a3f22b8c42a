"""Alerts at a real Alertmanager, through Kafka: they fire, change, end, and survive every restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spendstream.embedded.broker import EmbeddedBroker
from spendstream.notifiers import alertmanager
from spendstream.notifiers.alertmanager import Alertmanager
from spendstream.schemas.watch import Notifier
from tests.alertmanager import LocalAlertmanager
from tests.integration.notify_world import World
from tests.unit.notifiers.make import NOON, Receiver, make_alert, make_notifier, receiver

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]


class Stack:
    """An Alertmanager with its webhook, and a topic of alerts."""

    def __init__(self, world: World, server: LocalAlertmanager, hook: Receiver) -> None:
        self.world, self.server, self.hook = world, server, hook

    @property
    def notifier(self) -> Notifier:
        return make_notifier(self.server.url, kind="alertmanager")

    def summaries(self) -> list[str]:
        return sorted(alert["annotations"]["summary"] for alert in self.server.alerts())

    def states(self) -> list[str]:
        return [alert["status"]["state"] for alert in self.server.alerts()]

    def notified(self) -> list[str]:
        """The status of each notification that Alertmanager has posted."""
        return [json.loads(request.body)["status"] for request in self.hook.requests]

    async def until(self, what: Callable[[], Any], expected: Any) -> None:
        found = None
        for _ in range(300):
            found = await asyncio.to_thread(what)
            if found == expected:
                return
            await asyncio.sleep(0.1)
        assert found == expected


@pytest.fixture
async def stack(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stack]:
    monkeypatch.setattr(Alertmanager, "refresh_s", 1.0)
    async with receiver() as hook:
        with LocalAlertmanager(tmp_path, f"{hook.url}/notified") as server:
            yield Stack(await World(embedded_broker.bootstrap).create(), server, hook)


async def test_an_alert_fires_is_updated_and_resolves(stack: Stack) -> None:
    async with stack.world.notifying(stack.notifier):
        await stack.world.publish(make_alert(1, title="spend is up"))
        await stack.until(stack.summaries, ["spend is up"])
        (alert,) = stack.server.alerts()
        assert alert["labels"] == {
            "alertname": "spend",
            "severity": "critical",
            "rule": "anomaly",
            "facet": "up",
            "team": "developer-platform",
            "feature": "code_agent",
        }
        assert datetime.fromisoformat(alert["startsAt"]) == NOON
        await stack.until(stack.notified, ["firing"])
        await stack.world.publish(make_alert(2, "updated", title="spend is up further", notify=False))
        await stack.until(stack.summaries, ["spend is up further"])
        await stack.world.publish(make_alert(3, "resolved"))
        await stack.until(stack.summaries, [])
        await stack.until(stack.notified, ["firing", "resolved"])
        await asyncio.sleep(2.5)  # two refreshes
        assert stack.summaries() == []


async def test_a_silence_here_keeps_a_new_alert_away_and_one_there_suppresses_it(stack: Stack) -> None:
    now = datetime.now(UTC)
    matcher = {"name": "team", "value": "search", "isRegex": False}
    span = {"startsAt": now.isoformat(), "endsAt": (now + timedelta(hours=1)).isoformat()}
    stack.server.silence({"matchers": [matcher], **span, "createdBy": "ada", "comment": "planned"})
    silenced_here = make_alert(group={"team": "legal"}, notify=False, silenced_by="night")
    async with stack.world.notifying(stack.notifier):
        await stack.world.publish(silenced_here, make_alert(group={"team": "search"}))
        await stack.until(stack.states, ["suppressed"])
        await asyncio.sleep(2.5)
        assert stack.states() == ["suppressed"]
    assert stack.notified() == []


async def test_active_alerts_return_after_a_restart_of_alertmanager_and_of_the_notifier(stack: Stack) -> None:
    """Alertmanager stores no alerts. Whoever sends them has to know which are active, also right after a restart."""
    lasting, over = make_alert(1, title="lasting"), make_alert(1, group={"team": "search"}, title="over")
    async with stack.world.notifying(stack.notifier):
        await stack.world.publish(lasting, over, make_alert(2, "resolved", group={"team": "search"}))
        await stack.until(stack.summaries, ["lasting"])
        await stack.world.until_committed("hook", 3)
        await asyncio.to_thread(stack.server.restart)
        await stack.until(stack.summaries, ["lasting"])
    await asyncio.to_thread(stack.server.restart)
    assert stack.summaries() == []
    async with stack.world.notifying(stack.notifier):
        await stack.until(stack.summaries, ["lasting"])
        assert datetime.fromisoformat(stack.server.alerts()[0]["startsAt"]) == NOON
        await stack.world.publish(make_alert(3, "resolved"))
        await stack.until(stack.summaries, [])


async def test_an_alert_that_is_no_longer_sent_ends_by_itself(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alertmanager, "EXPIRES_AFTER_S", 5.0)
    async with stack.world.notifying(stack.notifier):
        await stack.world.publish(make_alert())
        await stack.until(stack.states, ["active"])
        await asyncio.sleep(7)
        assert stack.states() == ["active"]
    await stack.until(stack.states, [])


async def test_an_alert_that_was_resolved_while_no_notifier_ran_stays_resolved(stack: Stack) -> None:
    """The new notifier reads the end beside what it recalls, which is older."""
    async with stack.world.notifying(stack.notifier):
        await stack.world.publish(make_alert())
        await stack.until(stack.states, ["active"])
        await stack.world.until_committed("hook", 1)
    await stack.world.publish(make_alert(2, "resolved"))
    async with stack.world.notifying(stack.notifier):
        await stack.until(stack.states, [])
        await asyncio.sleep(2.5)
        assert stack.states() == []
