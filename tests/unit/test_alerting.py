"""Detector and notifiers beside the meter: kept running, stopped in order, handed new watches."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from spendstream import alerting
from spendstream.alerting import Alerting
from spendstream.metrics import Metrics
from spendstream.settings import Settings
from spendstream.waiting import Backoff
from spendstream.watches import WatchesError

WATCHES = "watches: [{name: %s, rule: {kind: anomaly}}]"


class FakeAgent:
    """Fails a number of times at first, then runs until it is stopped."""

    made = 0
    failing = 0

    def __init__(self, _settings: Any, watches: Any, _metrics: Any) -> None:
        type(self).made += 1
        self.fails = type(self).made <= type(self).failing
        self.watches = watches
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        if self.fails:
            raise RuntimeError("a fault")
        await self.stopped.wait()

    async def stop(self) -> None:
        self.stopped.set()

    def reconfigure(self, watches: Any) -> None:
        self.watches = watches


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> type[FakeAgent]:
    kind = type("Agent", (FakeAgent,), {"made": 0, "failing": 0})
    monkeypatch.setattr(alerting, "DetectAgent", kind)
    monkeypatch.setattr(alerting, "RESTARTS", Backoff(0.01, 0.1))
    monkeypatch.setattr(alerting, "CHECK_WATCHES_EVERY_S", 0.01)
    return kind


def settings(**more: Any) -> Settings:
    return Settings(worker_roles=("detect",), **more)


async def until(what: Any) -> None:
    async with asyncio.timeout(90):
        while not what():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.01)


async def test_an_agent_that_fails_is_restarted_and_counted(agent: type[FakeAgent]) -> None:
    agent.failing = 3
    metrics = Metrics()
    running = Alerting(settings(), metrics)
    tasks = running.tasks()
    await until(lambda: agent.made == 4)
    assert not any(task.done() for task in tasks)
    assert metrics.registry.get_sample_value("spendstream_agent_failures_total", {"agent": "detect"}) == 3
    await running.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert agent.made == 4


async def test_stopping_ends_a_pause_after_a_failure(agent: type[FakeAgent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "RESTARTS", Backoff(3600, 3600))
    agent.failing = 10**6
    running = Alerting(settings(), Metrics())
    tasks = running.tasks()
    await until(lambda: agent.made == 1)
    await running.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_an_edited_file_reaches_the_running_agent(agent: type[FakeAgent], tmp_path: Path) -> None:
    path = tmp_path / "watches.yaml"
    path.write_text(WATCHES % "first")
    running = Alerting(settings(watches=str(path)), Metrics())
    tasks = running.tasks()
    await until(lambda: "detect" in running._running)
    path.write_text(WATCHES % "second")
    await until(lambda: running._running["detect"].watches.watches[0].name == "second")
    await running.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_an_invalid_watches_file_stops_the_worker_at_startup(tmp_path: Path) -> None:
    path = tmp_path / "watches.yaml"
    path.write_text("watches: [{name: a, rule: {kind: anomaly, mesure: cost}}]")
    with pytest.raises(WatchesError, match="mesure"):
        Alerting(settings(watches=str(path)), Metrics())


async def test_a_worker_without_the_roles_runs_no_agents_and_needs_no_file(tmp_path: Path) -> None:
    none = Settings(worker_roles=("meter",), watches=str(tmp_path / "absent.yaml"))
    assert Alerting(none, Metrics()).tasks() == []
