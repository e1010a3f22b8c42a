"""A fetch batch: consecutive records of one source partition, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_TIMESTAMP = -1


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

    def after(self, offset: int) -> "RecordBatch | None":
        """Return the records behind an offset, or None where there are none."""
        start = int(np.searchsorted(self.offsets, offset, side="right"))
        if start == 0:
            return self
        if start == len(self.values):
            return None
        return RecordBatch(
            self.partition, self.offsets[start:], self.timestamps_ms[start:], self.keys[start:], self.values[start:]
        )
