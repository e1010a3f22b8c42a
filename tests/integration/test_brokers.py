"""One contract for every broker the project runs on, and what each adds to it or takes from it."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError

from spendstream.embedded.broker import EmbeddedBroker
from spendstream.embedded.process import LOOPBACK, answers_metadata, lasting_port
from spendstream.kafka.consumer import end_offsets, read_to_end
from spendstream.kafka.topics import TopicNotCreated, TopicReport, TopicSpec, ensure_topics
from tests.kafka import install
from tests.kafka.server import LocalKafka

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

Broker = LocalKafka | EmbeddedBroker

MIB = 1024 * 1024
READ_TIMEOUT_S = 90.0
SENT_AT_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.fixture
def unique_topic() -> str:
    return f"topic-{uuid.uuid4().hex[:12]}"


async def make_topic(broker: Broker, name: str, partitions: int = 1, **config: str) -> None:
    settings = {key.replace("_", "."): value for key, value in config.items()}
    (report,) = await ensure_topics(
        {"bootstrap_servers": broker.bootstrap}, [TopicSpec(name, partitions, settings)], replication=1
    )
    assert report.created


@asynccontextmanager
async def producing(broker: Broker, **settings: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", **settings)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def consuming(broker: Broker, *partitions: TopicPartition, **settings: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer with ``partitions`` assigned to it by hand, at their beginning when it has no group."""
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **settings}
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, **settings)
    await consumer.start()
    try:
        consumer.assign(partitions)
        yield consumer
    finally:
        await consumer.stop()


async def read(consumer: AIOKafkaConsumer, count: int) -> list[ConsumerRecord]:
    async with asyncio.timeout(READ_TIMEOUT_S):
        return [await consumer.getone() for _ in range(count)]


async def send_batch(producer: AIOKafkaProducer, to: TopicPartition, count: int) -> int:
    """Send ``count`` records as one batch and return the offset of its first."""
    batch = producer.create_batch()
    for i in range(count):
        assert batch.append(key=b"task", value=b"%d" % i, timestamp=SENT_AT_MS + i) is not None
    acknowledged = await producer.send_batch(batch, to.topic, partition=to.partition)
    return int((await acknowledged).offset)


async def test_records_of_a_partition_come_back_in_order_with_key_headers_and_timestamp(
    broker: Broker, unique_topic: str
) -> None:
    await make_topic(broker, unique_topic, partitions=2)
    async with producing(broker) as producer:
        for i in range(50):
            await producer.send(
                unique_topic,
                b"%d" % i,
                key=b"task",
                partition=1,
                timestamp_ms=SENT_AT_MS + i,
                headers=[("reason", b"why")],
            )
    async with consuming(broker, TopicPartition(unique_topic, 1)) as consumer:
        records = await read(consumer, 50)
    assert [record.value for record in records] == [b"%d" % i for i in range(50)]
    assert [record.offset for record in records] == list(range(50))
    assert [record.timestamp for record in records] == [SENT_AT_MS + i for i in range(50)]
    assert {(record.key, record.headers) for record in records} == {(b"task", (("reason", b"why"),))}


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_survives_the_round_trip(broker: Broker, unique_topic: str, codec: str | None) -> None:
    await make_topic(broker, unique_topic)
    async with producing(broker, compression_type=codec) as producer:
        await send_batch(producer, TopicPartition(unique_topic, 0), 100)
    async with consuming(broker, TopicPartition(unique_topic, 0)) as consumer:
        assert [record.value for record in await read(consumer, 100)] == [b"%d" % i for i in range(100)]


async def test_an_acknowledged_batch_tells_the_offset_of_its_first_record(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic)
    async with producing(broker) as producer:
        first_offsets = [await send_batch(producer, TopicPartition(unique_topic, 0), count) for count in (5, 7, 20)]
    assert first_offsets == [0, 5, 12]


async def test_end_offsets_count_every_record_of_the_last_batch(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic, partitions=2)
    full, empty = TopicPartition(unique_topic, 0), TopicPartition(unique_topic, 1)
    assert await end_offsets({"bootstrap_servers": broker.bootstrap}, [full, empty]) == {full: 0, empty: 0}
    async with producing(broker) as producer:
        for count in (5, 20):
            await send_batch(producer, full, count)
    assert await end_offsets({"bootstrap_servers": broker.bootstrap}, [full, empty]) == {full: 25, empty: 0}
    assert await end_offsets({"bootstrap_servers": broker.bootstrap}, []) == {}


async def test_topics_are_read_to_the_last_record_of_the_last_batch(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic, partitions=3)
    partitions = [TopicPartition(unique_topic, number) for number in range(3)]
    async with producing(broker) as producer:
        for partition, counts in zip(partitions, ((5, 20), (1,), ()), strict=True):
            for count in counts:
                await send_batch(producer, partition, count)
    found: dict[int, list[int]] = {}
    async with consuming(broker) as consumer:
        starts = {partitions[0]: 3, partitions[1]: -4, partitions[2]: None}
        async for at, records in read_to_end(consumer, starts, stalled_after_s=READ_TIMEOUT_S):
            found.setdefault(at.partition, []).extend(record.offset for record in records)
        assert [await consumer.position(at) for at in partitions] == [25, 1, 0]
    assert found == {0: list(range(3, 25)), 1: [0]}


async def test_a_seek_into_the_middle_of_a_batch_starts_at_that_record(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic)
    partition = TopicPartition(unique_topic, 0)
    async with producing(broker) as producer:
        await send_batch(producer, partition, 10)
    async with consuming(broker, partition) as consumer:
        consumer.seek(partition, 6)
        (record,) = await read(consumer, 1)
    assert (record.offset, record.value) == (6, b"6")


async def test_committed_offsets_are_read_back_and_resumed_from(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic, partitions=2)
    group, first, second = f"group-{unique_topic}", TopicPartition(unique_topic, 0), TopicPartition(unique_topic, 1)
    async with producing(broker) as producer:
        await send_batch(producer, first, 10)
    async with consuming(broker, first, second, group_id=group) as consumer:
        await consumer.commit({first: 4})
    async with consuming(broker, first, second, group_id=group) as consumer:
        assert await consumer.committed(first) == 4
        assert await consumer.committed(second) is None
        (record,) = await read(consumer, 1)
    assert record.offset == 4
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        # The partitions are named: for all of a group's, the embedded broker's answer can't be read.
        committed = await admin.list_consumer_group_offsets(group, partitions=[first, second])
    finally:
        await admin.close()
    assert {partition: found.offset for partition, found in committed.items()} == {first: 4, second: -1}


async def test_a_member_takes_over_when_the_other_leaves(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic, partitions=2)
    settings = {"session_timeout_ms": 2_000, "heartbeat_interval_ms": 200, "enable_auto_commit": False}
    members = [
        AIOKafkaConsumer(unique_topic, bootstrap_servers=broker.bootstrap, group_id=f"group-{unique_topic}", **settings)
        for _ in range(2)
    ]
    try:
        await asyncio.gather(*(member.start() for member in members))
        await until(lambda: [len(member.assignment()) for member in members] == [1, 1])
        await members[0].stop()
        await until(lambda: len(members[1].assignment()) == 2)
    finally:
        await asyncio.gather(*(member.stop() for member in members))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(READ_TIMEOUT_S):
        while not holds():  # noqa: ASYNC110 - the client offers no event for its assignment
            await asyncio.sleep(0.05)


async def test_a_record_of_4_mib_comes_back_whole(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic)
    large = os.urandom(4 * MIB)
    async with producing(broker, max_request_size=8 * MIB) as producer:
        await producer.send_and_wait(unique_topic, large, partition=0)
        await producer.send_and_wait(unique_topic, b"next", partition=0)
    # Fetched with the client's default of 1 MiB a partition: a first record larger than that is still delivered.
    async with consuming(broker, TopicPartition(unique_topic, 0)) as consumer:
        records = await read(consumer, 2)
    assert [record.value == expected for record, expected in zip(records, [large, b"next"], strict=True)] == [True] * 2


async def test_ensure_topics_creates_what_is_missing_and_then_nothing(broker: Broker, unique_topic: str) -> None:
    specs = [
        TopicSpec(f"{unique_topic}-a", 3, {"cleanup.policy": "compact,delete", "retention.ms": "604800000"}),
        TopicSpec(f"{unique_topic}-b", 1),
    ]
    made = await ensure_topics({"bootstrap_servers": broker.bootstrap}, specs, replication=1)
    assert made == [TopicReport(f"{unique_topic}-a", True), TopicReport(f"{unique_topic}-b", True)]
    again = await ensure_topics({"bootstrap_servers": broker.bootstrap}, specs, replication=1)
    assert again == [TopicReport(f"{unique_topic}-a", False), TopicReport(f"{unique_topic}-b", False)]
    assert all(report.as_specified for report in again)


async def test_ensure_topics_reports_differences_and_alters_nothing(broker: Broker, unique_topic: str) -> None:
    await make_topic(broker, unique_topic, partitions=2, retention_ms="60000", cleanup_policy="delete,compact")
    wanted = TopicSpec(unique_topic, 4, {"retention.ms": "90000", "cleanup.policy": "compact, delete"})
    expected = TopicReport(unique_topic, False, ("partitions: 2, specified 4", "retention.ms: 60000, specified 90000"))
    for _ in range(2):
        assert await ensure_topics({"bootstrap_servers": broker.bootstrap}, [wanted], replication=1) == [expected]
    assert not expected.as_specified


async def test_ensure_topics_called_twice_at_once_creates_each_topic_once(broker: Broker, unique_topic: str) -> None:
    specs = [TopicSpec(f"{unique_topic}-{i}", 1) for i in range(5)]
    reports = await asyncio.gather(
        *(ensure_topics({"bootstrap_servers": broker.bootstrap}, specs, replication=1) for _ in range(2))
    )
    assert [sum(report.created for report in pair) for pair in zip(*reports, strict=True)] == [1] * 5


async def test_embedded_broker_comes_back_empty_on_the_same_port_after_a_kill(unique_topic: str) -> None:
    partition = TopicPartition(unique_topic, 0)
    with EmbeddedBroker() as broker:
        address = broker.bootstrap
        await make_topic(broker, unique_topic)
        async with producing(broker) as producer:
            await send_batch(producer, partition, 3)
        broker.kill()
        assert not broker.is_running()
        assert broker.start().bootstrap == address
        assert await end_offsets({"bootstrap_servers": address}, [partition]) == {partition: 0}


async def test_end_offsets_without_a_broker_say_so() -> None:
    with pytest.raises(KafkaConnectionError):
        await end_offsets({"bootstrap_servers": f"{LOOPBACK}:{lasting_port()}"}, [TopicPartition("any", 0)])


async def test_real_kafka_names_the_setting_it_refuses_and_creates_the_topic_without_it(
    real_kafka: LocalKafka, unique_topic: str
) -> None:
    spec = TopicSpec(unique_topic, 1, {"no.such.setting": "1"})
    (report,) = await ensure_topics({"bootstrap_servers": real_kafka.bootstrap}, [spec], replication=1)
    assert report.created
    assert "no.such.setting" in report.configs_refused
    assert not report.as_specified


async def test_real_kafka_refuses_more_replicas_than_brokers(real_kafka: LocalKafka, unique_topic: str) -> None:
    with pytest.raises(TopicNotCreated, match=unique_topic):
        await ensure_topics({"bootstrap_servers": real_kafka.bootstrap}, [TopicSpec(unique_topic, 1)], replication=3)


async def test_real_kafka_keeps_what_it_acknowledged_through_a_kill(tmp_path: Path) -> None:
    partition, group = TopicPartition("kept", 0), "kept-group"
    with LocalKafka(tmp_path) as broker:
        address = broker.bootstrap
        await make_topic(broker, partition.topic)
        async with producing(broker) as producer:
            await send_batch(producer, partition, 1_000)
            async with consuming(broker, partition, group_id=group) as consumer:
                await consumer.commit({partition: 600})
            broker.kill()
            await asyncio.to_thread(broker.start)
            assert broker.bootstrap == address
            # The client that was connected before goes on by itself.
            assert await send_batch(producer, partition, 10) == 1_000
        async with consuming(broker, partition, group_id=group) as consumer:
            records = await read(consumer, 410)
    assert [record.offset for record in records] == list(range(600, 1_010))


def test_a_cluster_id_that_begins_with_a_dash_is_formatted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xf8" + bytes(15)))
    with LocalKafka(tmp_path):
        assert "cluster.id=-" in (tmp_path / "data" / "meta.properties").read_text()


def test_missing_kafka_is_an_error_that_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPENDSTREAM_CACHE", str(tmp_path))
    with pytest.raises(install.KafkaNotInstalled, match="make kafka"):
        LocalKafka(tmp_path / "state")


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_install_without_a_tool_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    if missing != "java":
        (tools / "java").symlink_to(install.java_executable())
    monkeypatch.setenv("SPENDSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tools))
    assert install.main() == 1
    assert f"`{missing}` was not found" in capsys.readouterr().err


def test_a_port_where_nothing_listens_is_not_ready() -> None:
    assert answers_metadata(LOOPBACK, lasting_port())() is False
