"""The world of the sinks' tests: a topic and a database of its own, and the sinks between them."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.client import ClickHouseSettings
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.kafka.consumer import end_offsets
from spendstream.kafka.topics import TopicSpec, ensure_topics
from spendstream.sinks.encoders import RowEncoder
from spendstream.sinks.kafka_sink import KafkaSink, KafkaSinkSettings
from spendstream.sinks.writer import ClickHouseWriter, NoMetrics
from spendstream.waiting import Backoff
from tests.unit.sinks.make import ipc, priced_calls

PARTITIONS = 3
SESSION_S = 2.0
DRAIN_TIMEOUT_S = 120.0


class Seen(NoMetrics):
    def __init__(self) -> None:
        self.rows = 0
        self.failures = 0
        self.bad = 0

    def inserted(self, table: str, rows: int, seconds: float) -> None:
        self.rows += rows

    def insert_failed(self, table: str, kind: str) -> None:
        self.failures += 1

    def undecodable(self, topic: str, reason: str) -> None:
        self.bad += 1


class World:
    """A topic and a database of its own, and the sinks between them."""

    def __init__(self, broker: Any, client: Client, url: str) -> None:
        name = uuid.uuid4().hex[:12]
        self.bootstrap: str = broker.bootstrap
        self.topic, self.group, self.database = f"topic-{name}", f"sink-{name}", f"db_{name}"
        self.client = client
        self.url = url
        self.seen = Seen()
        self.insert_timeout_s = 20.0

    @property
    def partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self.topic, number) for number in range(PARTITIONS)]

    async def create(self, *, migrate: bool = True) -> None:
        await ensure_topics({"bootstrap_servers": self.bootstrap}, [TopicSpec(self.topic, PARTITIONS)], replication=1)
        if migrate:
            self.migrate()

    def migrate(self) -> None:
        Migrator(self.client, MigrationSettings(Target(self.database))).up()

    def sink(self, encoder: RowEncoder, **settings: Any) -> KafkaSink:
        clickhouse = ClickHouseSettings(self.url, database=self.database, insert_timeout_s=self.insert_timeout_s)
        writer = ClickHouseWriter(clickhouse, metrics=self.seen, backoff=Backoff(0.02, 0.2))
        kafka = {"bootstrap_servers": self.bootstrap}
        chosen = {"linger_s": 0.05, "session_timeout_s": SESSION_S, "stop_timeout_s": 1.0, **settings}
        return KafkaSink(encoder, writer, KafkaSinkSettings(self.topic, self.group, kafka, **chosen), metrics=self.seen)

    async def publish(self, values: Sequence[bytes | None], key: bytes = b"key") -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", max_request_size=5_000_000)
        await producer.start()
        try:
            for number, value in enumerate(values):
                await producer.send(self.topic, value, key=key, partition=number % PARTITIONS)
            await producer.flush()
        finally:
            await producer.stop()

    async def committed(self) -> dict[TopicPartition, int]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, group_id=self.group, enable_auto_commit=False)
        await consumer.start()
        try:
            return {partition: await consumer.committed(partition) or 0 for partition in self.partitions}
        finally:
            await consumer.stop()

    async def drained(self) -> None:
        """Return once everything published is committed by the sink's group."""
        ends = await end_offsets({"bootstrap_servers": self.bootstrap}, self.partitions)
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while await self.committed() != ends:  # noqa: ASYNC110 - another process knows
                await asyncio.sleep(0.2)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(sql.replace("{db}", self.database)).result_rows]

    def ledger(self) -> tuple[int, Decimal]:
        ((count, cost),) = self.rows("SELECT count(), sum(cost_usd) FROM {db}.calls_v")
        return count, cost


@asynccontextmanager
async def running(*sinks: KafkaSink) -> AsyncIterator[None]:
    """The sinks run. What one of them raises is raised here."""
    tasks = [asyncio.create_task(sink.run()) for sink in sinks]
    try:
        yield
    finally:
        for sink in sinks:
            await sink.stop()
    await asyncio.gather(*tasks)


def count_calls(sink: KafkaSink, name: str) -> list[Any]:
    """Return a list that grows with each call of a method of the sink."""
    calls: list[Any] = []
    method = getattr(sink, name)

    async def counted(*arguments: Any) -> None:
        calls.append(arguments)
        await method(*arguments)

    setattr(sink, name, counted)
    return calls


def calls_values(streams: int, rows: int, seed: int = 1) -> tuple[list[bytes], int, Decimal]:
    """Streams of priced calls with amounts to the pico-dollar, their number, and their sum."""
    draw = random.Random(seed)
    values, total = [], Decimal(0)
    for _ in range(streams):
        amounts = [Decimal(draw.randrange(10**14)).scaleb(-12) for _ in range(rows)]
        total += sum(amounts)
        teams = [f"team-{draw.randrange(5)}" for _ in range(rows)]
        values.append(ipc(priced_calls(rows, cost_usd=amounts, team=teams)))
    return values, streams * rows, total
