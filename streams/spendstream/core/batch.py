"""A fetch batch: consecutive records of one source partition, as columns."""

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

    @property
    def first_offset(self) -> int:
        return int(self.offsets[0])

    @property
    def last_offset(self) -> int:
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(len(each) for column in (self.keys, self.values) for each in column if each is not None)

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
            self.partition, self.offsets[rows], self.timestamps_ms[rows], self.keys[rows], self.values[rows]
        )
