"""A topic is read to its end, by its high watermark, by one function: it must neither stop short nor wait for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from spendstream.kafka.consumer import read_to_end, seen_end

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


@dataclass(frozen=True)
class Record:
    offset: int
    value: bytes | None = b"x"


class Consumer:
    """A consumer of logs given as records by partition. ListOffsets counts one record of the last batch, as Tansu's."""

    def __init__(self, logs: dict[TopicPartition, list[Record]], ends: dict[TopicPartition, int]) -> None:
        self.logs, self.ends = logs, ends
        self.positions: dict[TopicPartition, int] = {}
        self.fetch_size = 2
        self.later: list[Record] = []

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.positions = dict.fromkeys(partitions, 0)

    def seek(self, at: TopicPartition, offset: int) -> None:
        self.positions[at] = offset

    async def position(self, at: TopicPartition) -> int:
        return self.positions[at]

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {at: max(0, self.ends[at] - 3) for at in partitions}

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {at: self.logs[at][0].offset if self.logs[at] else self.ends[at] for at in partitions}

    def highwater(self, at: TopicPartition) -> int:
        return self.ends[at]

    async def getmany(self, *partitions: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        fetched = {}
        for at in partitions:
            ahead = [record for record in self.logs[at] if record.offset >= self.positions[at]][: self.fetch_size]
            if ahead:
                fetched[at] = ahead
                self.positions[at] = ahead[-1].offset + 1
        if partitions:
            self.logs[A] += self.later
            self.later = []
        return fetched


def log(*offsets: int) -> list[Record]:
    return [Record(offset) for offset in offsets]


async def offsets(consumer: Any, starts: dict[TopicPartition, int | None], **options: Any) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    async for at, records in read_to_end(consumer, starts, **options):
        found.setdefault(at.partition, []).extend(record.offset for record in records)
    return found


@pytest.mark.parametrize(
    ("start", "expected"),
    [(None, [4, 5, 6, 8]), (6, [6, 8]), (-2, [8]), (-100, [4, 5, 6, 8]), (0, [4, 5, 6, 8]), (9, []), (12, [])],
)
async def test_each_start_is_an_offset_the_beginning_or_counts_from_the_end(
    start: int | None, expected: list[int]
) -> None:
    consumer = Consumer({A: log(4, 5, 6, 8)}, {A: 9})
    assert (await offsets(consumer, {A: start})).get(0, []) == expected


async def test_several_partitions_are_read_each_to_its_own_end() -> None:
    consumer = Consumer({A: log(0, 1, 2), B: log(*range(10, 17))}, {A: 3, B: 17})
    assert await offsets(consumer, {A: 1, B: None}) == {0: [1, 2], 1: list(range(10, 17))}
    assert consumer.positions == {A: 3, B: 17}


async def test_tombstones_are_read_too() -> None:
    consumer = Consumer({A: [Record(0), Record(1, None)]}, {A: 2})
    assert await offsets(consumer, {A: None}) == {0: [0, 1]}


async def test_nothing_is_read_of_an_empty_partition_or_of_none() -> None:
    assert await offsets(Consumer({A: []}, {A: 7}), {A: None}) == {}
    assert await offsets(Consumer({}, {}), {}) == {}


@pytest.mark.parametrize(("until", "expected"), [(2, [0, 1]), (3, [0, 1, 2]), (99, [0, 1, 2, 3]), (0, [])])
async def test_reading_stops_before_an_offset_or_at_the_end(until: int, expected: list[int]) -> None:
    consumer = Consumer({A: log(0, 1, 2, 3)}, {A: 4})
    assert (await offsets(consumer, {A: None}, until={A: until})).get(0, []) == expected


async def test_records_written_meanwhile_are_not_waited_for() -> None:
    consumer = Consumer({A: log(0, 1)}, {A: 2})
    consumer.later = log(2, 3)
    assert await offsets(consumer, {A: None}) == {0: [0, 1]}
    assert consumer.positions == {A: 2}


async def test_a_partition_whose_last_offsets_hold_no_records_still_ends() -> None:
    """A transaction's marker, or what compaction removed: the position moves on without a record."""
    consumer = Consumer({A: log(0, 1)}, {A: 4})
    fetch = consumer.getmany

    async def getmany(*partitions: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        fetched = await fetch(*partitions, timeout_ms=timeout_ms)
        if not fetched and partitions:
            consumer.positions[A] = 4
        return fetched

    consumer.getmany = getmany  # type: ignore[method-assign]
    assert await offsets(consumer, {A: None}) == {0: [0, 1]}


async def test_a_broker_that_sends_nothing_is_an_error_that_says_where() -> None:
    consumer = Consumer({A: log(0, 1)}, {A: 5})
    with pytest.raises(TimeoutError, match=r"sent nothing for 0\.05 s: t\[0\] at 2 of 5"):
        await offsets(consumer, {A: None}, stalled_after_s=0.05)


async def test_the_end_of_a_partition_that_was_taken_away_is_unknown_and_no_error() -> None:
    consumer = AIOKafkaConsumer()
    consumer.assign([A])
    assert seen_end(consumer, A) is None  # nothing was fetched yet
    assert seen_end(consumer, B) is None
    consumer.unsubscribe()
    assert seen_end(consumer, A) is None
