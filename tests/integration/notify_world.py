"""The world of the notifiers' tests: a topic of its own, and agents that send what is written to it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from spendstream.agents.notify import NotifyAgent
from spendstream.kafka.topics import TopicSpec, ensure_topics
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier
from spendstream.settings import Settings
from spendstream.waiting import Backoff
from tests.unit.notifiers.make import Receiver, make_alert

PARTITIONS = 2


class World:
    """A topic of its own, and agents that send what is written to it."""

    def __init__(self, bootstrap: str) -> None:
        prefix = uuid.uuid4().hex[:10]
        self.metrics = Metrics()
        self.settings = Settings(
            kafka_bootstrap_servers=bootstrap,
            kafka_topic_prefix=f"{prefix}-",
            kafka_group=prefix,
            kafka_session_timeout_s=6.0,
        )
        self.topic = self.settings.topic(topics.ALERT)
        self.bootstrap = bootstrap

    async def create(self) -> World:
        await ensure_topics({"bootstrap_servers": self.bootstrap}, [TopicSpec(self.topic, PARTITIONS)], replication=1)
        return self

    def agent(self, *notifiers: Notifier, **settings: Any) -> NotifyAgent:
        chosen = {"environ": {}, "backoff": Backoff(0.05, 0.2), **settings}
        return NotifyAgent(self.settings, notifiers, self.metrics, **chosen)

    @asynccontextmanager
    async def notifying(self, *notifiers: Notifier, **settings: Any) -> AsyncIterator[NotifyAgent]:
        """Yield a running agent whose groups have committed their start."""
        agent = self.agent(*notifiers, **settings)
        task = asyncio.create_task(agent.run())
        try:
            for notifier in notifiers:
                await self.started(notifier.name)
            yield agent
            assert not task.done()
        finally:
            await agent.stop()
            await task

    async def started(self, name: str) -> None:
        async with asyncio.timeout(90):
            while None in (await self.committed(name)).values():  # noqa: ASYNC110 - the broker knows
                await asyncio.sleep(0.1)

    async def publish(self, *values: Alert | bytes, timestamp_ms: int | None = None) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        await producer.start()
        try:
            for value in values:
                key, raw = (value, value) if isinstance(value, bytes) else (value.alert_id.bytes, wire(value))
                await producer.send_and_wait(
                    self.topic, raw, key=key, partition=key[0] % PARTITIONS, timestamp_ms=timestamp_ms
                )
        finally:
            await producer.stop()

    async def committed(self, name: str) -> dict[int, int | None]:
        group = self.settings.group(f"notify-{name}")
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            return {n: await consumer.committed(TopicPartition(self.topic, n)) for n in range(PARTITIONS)}
        finally:
            await consumer.stop()

    async def committed_records(self, name: str) -> int:
        return sum(offset or 0 for offset in (await self.committed(name)).values())

    async def until_committed(self, name: str, records: int) -> None:
        """Return once a group has committed this many records."""
        async with asyncio.timeout(90):
            while await self.committed_records(name) != records:  # noqa: ASYNC110 - the broker knows
                await asyncio.sleep(0.1)

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"spendstream_notifications_{metric}_total", labels) or 0.0


def wire(alert: Alert) -> bytes:
    return alert.model_dump_json().encode()


def sent_ids(hook: Receiver) -> list[list[str]]:
    """The transition ids of each request."""
    return [[alert["transition_id"] for alert in json.loads(request.body)["alerts"]] for request in hook.requests]


def ids(*alerts: Alert) -> list[str]:
    return [str(alert.transition_id) for alert in alerts]


def of_groups(count: int, **fields: Any) -> list[Alert]:
    return [make_alert(group={"team": f"team-{number}"}, **fields) for number in range(count)]
