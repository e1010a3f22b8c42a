"""Fills the ledger again from the priced calls that Kafka still holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from aiokafka import AIOKafkaConsumer, TopicPartition

from spendstream.clickhouse.client import clickhouse_settings
from spendstream.kafka.consumer import partitions_of, read_to_end
from spendstream.reconcile.compare import Range
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.sinks.calls import calls_insert, read_priced
from spendstream.sinks.writer import ClickHouseWriter

_INSERT_TIMEOUT_S: Final = 120.0


async def refill(settings: Settings, within: Range, on_progress: Callable[[int], None] | None = None) -> int:
    """Write every priced call of the range that Kafka holds into the ledger; those that are there replace themselves.

    ``on_progress``: called with the number of calls written so far. Returns how many were written.

    Raises: LookupError, where the topic doesn't exist; TimeoutError, when ClickHouse takes no rows in 120 s, or the
    broker sends nothing; aiokafka's KafkaError.
    """
    topic = settings.topic(topics.PRICED)
    numbers = (await partitions_of(settings.kafka_client(), [topic]))[topic]
    starts = dict.fromkeys((TopicPartition(topic, number) for number in numbers), None)
    consumer = AIOKafkaConsumer(
        **settings.kafka_client(), enable_auto_commit=False, max_partition_fetch_bytes=8 * 1024 * 1024
    )
    writer = ClickHouseWriter(clickhouse_settings(settings))
    written = 0
    try:
        await consumer.start()
        async for _, records in read_to_end(consumer, starts):
            tables = [_within(read_priced(record.value), within) for record in records if record.value is not None]
            if tables := [table for table in tables if table.num_rows]:
                async with asyncio.timeout(_INSERT_TIMEOUT_S):
                    await writer.insert(calls_insert(tables))
                written += sum(table.num_rows for table in tables)
                if on_progress is not None:
                    on_progress(written)
    finally:
        await consumer.stop()
        await writer.close()
    return written


def _within(calls: pa.Table, within: Range) -> Any:
    at = calls["occurred_at"]
    for bound, compare in ((within.start, pc.greater_equal), (within.end, pc.less)):
        if bound is not None:
            kept = compare(at, pa.scalar(bound, at.type))
            calls, at = calls.filter(kept), at.filter(kept)
    return calls
