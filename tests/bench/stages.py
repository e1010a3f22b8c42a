"""Where the metering stage's CPU goes: each step alone, in one thread, from the bytes of a fetch to those of a flush.

CPU time, unlike a rate, can be compared on a machine that does other work. It leaves out sockets, asyncio and Faust.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from spendstream.agents.meter_state import PRICED_MAX_BYTES, PRICED_MAX_ROWS
from spendstream.core.batch import RecordBatch
from spendstream.core.decode import decode
from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.core.progress import write_progress
from spendstream.core.rollup_record import rollup_record
from spendstream.kafka.batched import fetch_columns
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS
from spendstream.worker import collect_rarely
from tests.bench.load import events

BATCH: Final = 20_000
_WIRE_BATCH: Final = 1_000
_BATCHES_A_FLUSH: Final = 3
_WARM_BATCHES: Final = 3

T = TypeVar("T")


class _Client:
    """Stands for aiokafka's consumer: knows which topics to fetch as columns."""

    _value_deserializer: Any = None


class Stages:
    """Adds up CPU seconds by step."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    def run(self, step: str, work: Callable[[], T]) -> T:
        started = time.process_time()
        done = work()
        self.cpu_s[step] = self.cpu_s.get(step, 0.0) + time.process_time() - started
        return done


def measure_stages(count: int) -> str:
    """Return a Markdown table of CPU µs per event by step, over so many events of one partition."""
    client, tp = _Client(), TopicPartition("usage", 0)
    fetch_columns(client, [tp.topic])
    meter = PartitionMeter(new_marker(0, "bench", -1), MeterRules(), PriceBook.load())
    stages = Stages()
    load = list(events(count + _WARM_BATCHES * BATCH))
    collect_rarely()
    for number, start in enumerate(range(0, len(load), BATCH)):
        if number == _WARM_BATCHES:
            stages = Stages()
        raw = _wire(load[start : start + BATCH], start)

        def read(raw: bytes = raw, start: int = start) -> RecordBatch:
            deserializer = client._value_deserializer
            parsed = fetcher.PartitionRecords(tp, MemoryRecords(raw), [], start, None, deserializer, True, 0)
            return RecordBatch.joined(list(parsed))

        batch = stages.run("read the wire (checksum, records, columns)", read)
        stages.run("decode, with proof", lambda batch=batch: decode(batch.values))  # type: ignore[misc]
        stages.run("absorb", lambda batch=batch: meter.absorb(batch, datetime.now(UTC)))  # type: ignore[misc]
        if number % _BATCHES_A_FLUSH == _BATCHES_A_FLUSH - 1:
            _flush(meter, stages)
    return _table(stages.cpu_s, len(load) - _WARM_BATCHES * BATCH)


def read_batch(records: list[tuple[bytes, bytes]], base_offset: int) -> RecordBatch:
    """Return (key, value) records as a fetch of one partition gives them."""
    client, tp = _Client(), TopicPartition("usage", 0)
    fetch_columns(client, [tp.topic])
    raw = MemoryRecords(_wire(records, base_offset))
    deserializer = client._value_deserializer
    return RecordBatch.joined(list(fetcher.PartitionRecords(tp, raw, [], base_offset, None, deserializer, True, 0)))


def _wire(records: list[tuple[bytes, bytes]], base_offset: int) -> bytes:
    """Return records as the bytes of a fetch."""
    raw = bytearray()
    for start in range(0, len(records), _WIRE_BATCH):
        builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1_000_000)
        for delta, (key, value) in enumerate(records[start : start + _WIRE_BATCH]):
            builder.append(delta, timestamp=int(time.time() * 1000), key=key, value=value, headers=[])
        packed = bytearray(builder.build())
        packed[0:8] = (base_offset + start).to_bytes(8, "big")
        raw += packed
    return bytes(raw)


def _flush(meter: PartitionMeter, stages: Stages) -> None:
    taken = stages.run("take", meter.take)
    assert taken.calls is not None
    calls = taken.calls
    table = stages.run("encode: ledger columns", lambda: ledger_table(calls, partition=0, source_log="bench"))
    stages.run("encode: Arrow IPC", lambda: list(ledger_records(table, PRICED_MAX_ROWS, PRICED_MAX_BYTES)))
    stages.run(
        "encode: rollups",
        lambda: [rollup_record("bench", 0, DEFAULT_DIMENSIONS, key, totals) for key, totals in taken.rollups],
    )
    progress = meter.rollups_written(taken, 0)
    stages.run("encode: marker with ids", lambda: write_progress(progress))
    meter.mark_durable(progress, 0)


def _table(cpu_s: dict[str, float], count: int) -> str:
    steps = dict(cpu_s)
    steps["dedupe, price, fold"] = steps.pop("absorb") - steps["decode, with proof"]
    lines = ["| step | CPU µs per event |", "| --- | ---: |"]
    lines += [f"| {step} | {seconds / count * 1e6:.2f} |" for step, seconds in steps.items()]
    total = sum(steps.values()) / count * 1e6
    cores = len(os.sched_getaffinity(0))
    lines.append(f"| all | {total:.2f} (of one core: {1e6 / total:,.0f}/s; of {cores}: {cores * 1e6 / total:,.0f}/s) |")
    return "\n".join(lines)
