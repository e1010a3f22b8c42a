"""Files into a real broker's partitions, and dead letters out of the real engine and back into Kafka."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from clickhouse_connect.driver.client import Client

from spendstream.cli.root import run
from spendstream.clickhouse.client import INSERT_SETTINGS, ClickHouseSettings, open_client
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.embedded.broker import EmbeddedBroker
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.kafka.consumer import end_offsets
from spendstream.kafka.topics import TopicSpec, ensure_topics
from spendstream.schemas.dead_letter import Reason
from spendstream.sinks.encoders import DeadLetterEncoder
from tests.unit.sinks.make import dead_letter_value, records

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

PARTITIONS = 4


@pytest.fixture
def broker(embedded_broker: EmbeddedBroker) -> EmbeddedBroker:
    return embedded_broker


@pytest.fixture
def topic(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> str:
    prefix = f"t{uuid.uuid4().hex[:12]}."
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", prefix)
    name = f"{prefix}llm.usage.v1"
    asyncio.run(ensure_topics({"bootstrap_servers": broker.bootstrap}, [TopicSpec(name, PARTITIONS)], replication=1))
    return name


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "event_id": str(uuid.UUID(int=number + 1)),
        "occurred_at": "2023-11-16T18:17:03Z",
        "service": "api",
        "provider": "openai",
        "model_served": "gpt-4o",
        "input_tokens": number,
        **fields,
    }


def read(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic."""

    async def consume() -> list[Any]:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        expected = sum((await end_offsets({"bootstrap_servers": bootstrap}, partitions)).values())
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
        await consumer.start()
        consumer.assign(partitions)
        found: list[Any] = []
        async with asyncio.timeout(90):
            while len(found) < expected:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += batch
        await consumer.stop()
        return found

    return asyncio.run(consume())


def write(path: Path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_valid_rows_are_published_unchanged_and_invalid_ones_reported_by_line(
    topic: str, broker: EmbeddedBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [event(number, conversation_id=f"c{number % 5}" if number % 2 else None) for number in range(200)]
    before_ms = int(time.time() * 1000)
    assert run(["publish", write(tmp_path / "usage.jsonl", *events, "{}"), "--json"]) == 1
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["published"], summary["invalid"]) == (200, 1)
    assert captured.err.startswith(f"{tmp_path / 'usage.jsonl'}:201: event_id:")
    found = read(broker.bootstrap, topic)
    assert sorted(record.value for record in found) == sorted(json.dumps(each).encode() for each in events)
    by_value = {record.value: record for record in found}
    for each in events:
        record = by_value[json.dumps(each).encode()]
        assert record.key.decode() == (each["conversation_id"] or each["event_id"])
        assert record.timestamp >= before_ms, "the time of publishing: retention counts from it"


def test_keys_choose_the_partition_that_any_other_producer_would_choose(
    topic: str, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    events = [event(number) for number in range(40)]
    assert run(["publish", write(tmp_path / "usage.jsonl", *events)]) == 0
    ours = {record.key: record.partition for record in read(broker.bootstrap, topic)}

    async def send() -> dict[bytes, int]:
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
        await producer.start()
        sent = {key: (await producer.send_and_wait(topic, b"{}", key=key)).partition for key in ours}
        await producer.stop()
        return sent

    assert asyncio.run(send()) == ours
    assert len(set(ours.values())) == PARTITIONS


def test_a_dry_run_publishes_nothing(topic: str, broker: EmbeddedBroker, tmp_path: Path) -> None:
    assert run(["publish", write(tmp_path / "usage.jsonl", event(1)), "--dry-run"]) == 0
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    assert set(asyncio.run(end_offsets({"bootstrap_servers": broker.bootstrap}, partitions)).values()) == {0}


def test_a_missing_topic_is_reported_and_not_created(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", "absent.")
    assert run(["publish", write(tmp_path / "usage.jsonl", event(1))]) == 1
    assert "spendstream topics" in capsys.readouterr().err


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, Callable[[bytes], None]]]:
    with EmbeddedClickHouse(tmp_path) as server, open_client(ClickHouseSettings(server.url)) as client:
        monkeypatch.setenv("CLICKHOUSE_URL", server.url)
        Migrator(client, MigrationSettings(Target("spendstream"))).up()

        def insert(*values: bytes) -> None:
            for one in DeadLetterEncoder().encode(records(values)).inserts:
                client.raw_insert(
                    f"spendstream.{one.table}", one.columns, one.body, fmt="ArrowStream", settings=INSERT_SETTINGS
                )

        yield client, insert


@pytest.mark.clickhouse
def test_dead_letters_are_listed_published_again_unchanged_and_marked(
    topic: str, broker: EmbeddedBroker, letters: tuple[Client, Callable[..., None]], capsys: pytest.CaptureFixture[str]
) -> None:
    client, insert = letters
    raw = b"\xff\x00{ no UTF-8"
    insert(
        dead_letter_value(1, raw, topic=topic, key="YQ=="),
        dead_letter_value(2, b"{}", topic=topic, reason=Reason.MISSING_FIELD, service="api"),
        dead_letter_value(3, b"{}", topic="another.topic"),
    )
    assert run(["deadletters", "--json", "--service", "api"]) == 0
    (listed,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (listed["offset"], listed["reason"], listed["replayed_at"]) == (2, "missing_field", None)

    assert run(["deadletters", "--replay", "--yes", "--json", "--reason", "not_json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"replayed": 1}
    (record,) = read(broker.bootstrap, topic)
    assert (record.key, record.value) == (b"a", raw)

    insert(dead_letter_value(1, raw, topic=topic, key="YQ=="))  # the sink writes it once more
    rows = client.query(
        f"SELECT offset, replayed_at IS NOT NULL, hex(original), hex(key) FROM spendstream.dead_letters FINAL "
        f"WHERE topic = '{topic}' ORDER BY offset"
    ).result_rows
    assert [tuple(row) for row in rows] == [(1, 1, raw.hex().upper(), "61"), (2, 0, b"{}".hex().upper(), None)]

    assert run(["deadletters", "--replay", "--yes", "--json", "--reason", "not_json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"replayed": 0}
