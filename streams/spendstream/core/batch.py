"""A fetch batch: consecutive records of one source partition, as columns."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

NO_TIMESTAMP = -1


class CutValue(bytes):
    """The beginning of a value too large to keep. ``size``: bytes of the whole; ``sha256``: of the whole, in hex."""

    size: int
    sha256: str

    @classmethod
    def of(cls, beginning: bytes, size: int, sha256: str) -> "CutValue":
        value = cls(beginning)
        value.size, value.sha256 = size, sha256
        return value


class UnreadableValue(bytes):
    """In place of a value that could not be read from the wire: the beginning of its batch. ``error``: why."""

    error: str

    @classmethod
    def of(cls, beginning: bytes, error: str) -> "UnreadableValue":
        value = cls(beginning)
        value.error = error
        return value


def record_hash(timestamp_ms: int, key: bytes | None, value: bytes | None) -> str:
    """Return 16 hex digits that tell whether an offset still holds the same record."""
    return hashlib.blake2b(repr((timestamp_ms, key, value)).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class RecordBatch:
    """Records in offset order; all sequences have the same length, at least 1.

    ``timestamps_ms``: Kafka timestamps, ms since 1970, ``NO_TIMESTAMP`` where the record has none.
    """

    partition: int
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    leader_epoch: int = -1
    """Of the leader that took the last record in; -1: unknown. It grows with each election, also an unclean one."""

    @property
    def first_offset(self) -> int:
        return int(self.offsets[0])

    @property
    def last_offset(self) -> int:
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))

    def checkpoints(self, count: int) -> list[tuple[int, str]]:
        """Return offset and hash of up to ``count`` records, evenly spaced, the last one included if it is whole."""
        n = len(self.values)
        rows = range(n) if n <= count else [(step * n) // count - 1 for step in range(1, count + 1)]
        return [
            (int(self.offsets[row]), record_hash(int(self.timestamps_ms[row]), self.keys[row], self.values[row]))
            for row in rows
            if not any(isinstance(each, CutValue | UnreadableValue) for each in (self.keys[row], self.values[row]))
        ]

    @staticmethod
    def joined(batches: "Sequence[RecordBatch]") -> "RecordBatch":
        """Return successive batches of one partition as one."""
        if len(batches) == 1:
            return batches[0]
        return RecordBatch(
            partition=batches[0].partition,
            offsets=np.concatenate([batch.offsets for batch in batches]),
            timestamps_ms=np.concatenate([batch.timestamps_ms for batch in batches]),
            keys=list(chain.from_iterable(batch.keys for batch in batches)),
            values=list(chain.from_iterable(batch.values for batch in batches)),
            leader_epoch=batches[-1].leader_epoch,
        )

    def after(self, offset: int) -> "RecordBatch | None":
        """Return the records after an offset, or None if there are none."""
        start = int(np.searchsorted(self.offsets, offset, side="right"))
        if start == 0:
            return self
        return None if start == len(self.values) else self._part(slice(start, None))

    def split(self, records: int) -> "tuple[RecordBatch, RecordBatch | None]":
        """Return the first records, at least one, and the rest."""
        if records >= len(self.values):
            return self, None
        return self._part(slice(records)), self._part(slice(records, None))

    def _part(self, rows: slice) -> "RecordBatch":
        return RecordBatch(
            self.partition,
            self.offsets[rows],
            self.timestamps_ms[rows],
            self.keys[rows],
            self.values[rows],
            self.leader_epoch,
        )
