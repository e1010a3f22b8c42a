"""Fetched records as columns, one ``RecordBatch`` for each batch on the wire, without a Python step a record.

aiokafka passes every parsed record through two generators and wraps it in a ``ConsumerRecord`` of eleven fields, which
costs more than parsing it. A batched topic needs four of them (offset, timestamp, key, value), as columns.
aiokafka has no hook for this, so its partition reader is replaced, for the named topics of one consumer alone; every
other consumer of the process reads as before. Checksums, aborted transactions and control records are still handled by
aiokafka.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from aiokafka.consumer import fetcher

from spendstream.core.batch import NO_TIMESTAMP, RecordBatch

_LOG_APPEND_TIME: Final = 1
"""The timestamp type of records that the broker stamped, with one time for a whole batch."""


class ColumnTopics(frozenset[str]):
    """The topics that a consumer fetches as columns. It takes the place of the consumer's value deserializer."""


@dataclass(frozen=True)
class WireBatch:
    """The records of one batch on the wire. ``offset``: its last record's, after which the reader continues."""

    records: Sequence[Any]

    @property
    def offset(self) -> int:
        return int(self.records[-1].offset)


def record_batch(partition: int, records: Sequence[Any]) -> RecordBatch:
    """Return parsed records, at least one, of one batch on the wire as columns."""
    first, last, n = records[0], records[-1], len(records)
    return RecordBatch(
        partition=partition,
        offsets=(
            np.arange(first.offset, last.offset + 1, dtype=np.int64)
            if last.offset + 1 - first.offset == n  # offsets grow: without a gap between the ends there is none inside
            else np.array([r.offset for r in records], dtype=np.int64)
        ),
        timestamps_ms=(
            np.full(n, last.timestamp, dtype=np.int64)
            if first.timestamp_type == _LOG_APPEND_TIME and first.timestamp == last.timestamp
            else np.array([NO_TIMESTAMP if r.timestamp is None else r.timestamp for r in records], dtype=np.int64)
        ),
        keys=[r.key for r in records],
        values=[r.value for r in records],
    )


class _WholeBatch:
    """A batch of aiokafka's parser that iterates in one step: over a ``WireBatch`` of all its records, if any."""

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parsed, name)

    def __next__(self) -> Any:
        return next(self._parsed)

    def __iter__(self) -> Iterator[WireBatch]:
        records = list(self._parsed)
        return iter([WireBatch(records)] if records else [])


class _WholeBatches:
    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed

    def has_next(self) -> bool:
        return bool(self._parsed.has_next())

    def next_batch(self) -> _WholeBatch:
        return _WholeBatch(self._parsed.next_batch())


class _PartitionRecords(fetcher.PartitionRecords):
    def __init__(
        self, tp: Any, records: Any, aborted: Any, offset: int, keys: Any, values: Any, crcs: bool, isolation: int
    ) -> None:
        as_columns = isinstance(values, ColumnTopics)
        whole = as_columns and tp.topic in values
        super().__init__(
            tp,
            _WholeBatches(records) if whole else records,
            aborted,
            offset,
            keys,
            None if as_columns else values,
            crcs,
            isolation,
        )

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if not isinstance(record, WireBatch):
            return super()._consumer_record(tp, record)
        batch = record_batch(tp.partition, record.records)
        # a batch is fetched whole, though it may begin before the offset that was asked for
        return batch.after(self.next_fetch_offset - 1)


def fetch_columns(consumer: Any, topics: Iterable[str]) -> None:
    """Let an ``AIOKafkaConsumer``, before its start, deliver these topics as a ``RecordBatch`` for each wire batch."""
    consumer._value_deserializer = ColumnTopics(topics)
    fetcher.PartitionRecords = _PartitionRecords
