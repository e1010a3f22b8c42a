"""A channel without a broker: what it recalls of a partition comes before what it reads of it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from spendstream.agents import notify
from spendstream.agents.notify import Channel, ChannelSettings
from spendstream.metrics import Metrics
from spendstream.notifiers import messenger_of
from spendstream.notifiers.alertmanager import Alertmanager
from spendstream.schemas.alert import Alert
from tests.unit.notifiers.make import NOON, make_alert, make_notifier, receiver, until

PARTITION = TopicPartition("alerts", 0)


def record(offset: int, alert: Alert) -> Any:
    value = alert.model_dump_json().encode()
    return SimpleNamespace(partition=0, offset=offset, value=value, timestamp=int(NOON.timestamp() * 1000))


class FakeConsumer:
    """Is assigned its partition within the first poll, which returns the records at once."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records

    def __call__(self, **_: Any) -> FakeConsumer:
        return self

    def subscribe(self, _topics: list[str], listener: Any) -> None:
        self._listener = listener

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        if not self._records:
            await asyncio.sleep(timeout_ms / 10_000)
            return {}
        await self._listener.on_partitions_assigned({PARTITION})
        records, self._records = self._records, []
        return {PARTITION: records}

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION}

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def commit(self, offsets: Any) -> None: ...


async def test_an_alert_whose_end_comes_with_the_assignment_is_not_raised_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Recalled after its end, the alert would stay active at Alertmanager for ever."""

    async def recalled(*_: Any) -> list[Any]:
        return [record(0, make_alert())]

    async def started(*_: Any) -> bool:
        return True

    monkeypatch.setattr(notify, "read_committed_alerts", recalled)
    monkeypatch.setattr(notify, "commit_start_offset", started)
    monkeypatch.setattr(Alertmanager, "refresh_s", 0.01)
    async with receiver() as hook:
        messenger = messenger_of(make_notifier(hook.url, kind="alertmanager"), {})
        channel = Channel(
            messenger,
            ChannelSettings("alerts", "group"),
            Metrics(),
            consumer=FakeConsumer([record(1, make_alert(2, "resolved"))]),
            clock=lambda: NOON.timestamp() + 600,
        )
        running = asyncio.create_task(channel.run())
        await until(lambda: len(hook.requests) >= 1)
        await asyncio.sleep(0.3)
        await channel.stop()
        await running
    ends = [alert["endsAt"] for request in hook.requests for alert in json.loads(request.body)]
    assert ends == ["2026-03-04T12:09:00.000Z"]
