"""Fetched records as columns: what aiokafka's own reader delivers, without an object a record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from spendstream.core.batch import RecordBatch
from spendstream.kafka.batched import Backlog, ColumnTopics, FetchedBatch, fetch_columns

PARTITION = 3
GZIP = 1
Row = tuple[int, int, bytes | None, bytes | None]


def wire(
    base_offset: int, deltas: list[int], *, compression: int = 0, append_time_ms: int = 0, control: bool = False
) -> bytes:
    """Return a batch of the Kafka protocol whose records have these offset deltas."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1_000_000,
    )
    for delta in deltas:
        key, value = (None, None) if delta % 5 == 4 else (b"k%d" % delta, b"value %d" % delta)
        builder.append(delta, timestamp=1_000 + 7 * delta, key=key, value=value, headers=[])
    buffer = bytearray(builder.build())
    buffer[0:8] = base_offset.to_bytes(8, "big")
    if append_time_ms or control:
        buffer[22] |= 0x08 if append_time_ms else 0x20
        if append_time_ms:
            buffer[35:43] = append_time_ms.to_bytes(8, "big")
        buffer[17:21] = calc_crc32c(bytes(buffer[21:])).to_bytes(4, "big")
    return bytes(buffer)


class Client:
    """Stands for aiokafka's consumer: knows which topics to fetch as columns."""

    _value_deserializer: ColumnTopics | None = None


def read(
    raw: bytes, fetch_offset: int, *, columns: str | None = "usage", topic: str = "usage"
) -> tuple[list[Any], int]:
    """Return what is delivered of a fetch's bytes, and where the next fetch begins."""
    client = Client()
    if columns is not None:
        fetch_columns(client, [columns])
    reader = fetcher.PartitionRecords(
        TopicPartition(topic, PARTITION),
        MemoryRecords(raw),
        [],
        fetch_offset,
        None,
        client._value_deserializer,
        True,
        0,
    )
    return list(reader), reader.next_fetch_offset


def rows(batches: list[RecordBatch]) -> Iterator[Row]:
    for batch in batches:
        assert batch.partition == PARTITION
        yield from zip(batch.offsets.tolist(), batch.timestamps_ms.tolist(), batch.keys, batch.values, strict=True)


@pytest.mark.parametrize("fetch_offset", [100, 103, 107, 112, 118])
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(wire(100, list(range(12))) + wire(112, list(range(6))), id="without gaps"),
        pytest.param(wire(100, [0, 1, 5, 9]) + wire(112, [2, 5]), id="compacted"),
        pytest.param(wire(100, list(range(12)), compression=GZIP) + wire(112, [0, 5]), id="compressed"),
        pytest.param(wire(100, list(range(12)), append_time_ms=5_000) + wire(112, [0, 5]), id="the broker's time"),
        pytest.param(wire(100, [0, 1]) + wire(102, [0], control=True) + wire(103, [0, 15]), id="a control record"),
    ],
)
def test_columns_hold_what_the_clients_own_reader_delivers(raw: bytes, fetch_offset: int) -> None:
    plain, plain_next = read(raw, fetch_offset, columns=None)
    as_columns, columns_next = read(raw, fetch_offset)
    assert list(rows(as_columns)) == [(r.offset, r.timestamp, r.key, r.value) for r in plain]
    assert columns_next == plain_next


@pytest.mark.parametrize("columns", [None, "another"])
def test_other_consumers_and_other_topics_are_read_as_before(columns: str | None) -> None:
    read(wire(0, [0]), 0)  # a consumer that fetches columns lives in the process
    delivered, _ = read(wire(0, [0, 1]), 0, columns=columns)
    assert [(record.topic, record.offset, record.value) for record in delivered] == [
        ("usage", 0, b"value 0"),
        ("usage", 1, b"value 1"),
    ]


def test_a_flipped_bit_is_refused() -> None:
    raw = bytearray(wire(0, list(range(20))))
    raw[-3] ^= 1
    with pytest.raises(CorruptRecordException):
        read(bytes(raw), 0)


def test_joined_batches_keep_the_order() -> None:
    batches, _ = read(wire(0, [0, 1, 2]) + wire(3, [0, 4]), 1)
    whole = RecordBatch.joined(batches)
    assert list(rows([whole])) == list(rows(batches))
    assert (whole.first_offset, whole.last_offset) == (1, 7)


def test_a_fetch_waits_until_it_is_taken_or_forgotten() -> None:
    batches, _ = read(wire(0, [0, 1, 2]), 0)
    backlog = Backlog()
    taken, forgotten = FetchedBatch(batches, backlog), FetchedBatch(batches, backlog)
    assert backlog.records == 6
    assert [len(batch.values) for batch in taken.take()] == [3]
    assert (backlog.records, len(taken)) == (3, 3)
    taken.take()
    assert backlog.records == 3
    del forgotten
    assert backlog.records == 0
