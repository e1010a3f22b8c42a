"""The counts of a batch of calls, as columns: only the buckets that any call of the batch uses."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from spendstream.core.pricing.rate_set import bit
from spendstream.core.pricing.table import Int32s
from spendstream.core.pricing.timeline import Int64s
from spendstream.schemas.buckets import INPUT_BUCKETS, TOKEN_BUCKETS, tokens_field

COLUMN_OF_COUNT: Final = {**{bucket: tokens_field(bucket) for bucket in TOKEN_BUCKETS}, "web_search": "web_searches"}


@dataclass(frozen=True, slots=True)
class Usage:
    """What each call used. Arrays have one element a call."""

    counts: dict[str, npt.NDArray[Any]]
    """Tokens, or searches, by bucket; integers of 64 bits, or Python's own where those might not do."""
    used: Int32s
    """The buckets that a call uses, as a mask."""
    total_input: Int64s
    """Tokens of all input buckets, which decide the tier."""
    gpu_us: Int64s
    has_gpu_time: npt.NDArray[np.bool_]
    """Whether the GPU time was reported: a call that used none is not one that nobody timed."""
    is_unbounded: bool = False
    """Counts are Python integers."""

    def take(self, rows: Int64s) -> "Usage":
        """Return the usage of some calls."""
        counts = {bucket: count[rows] for bucket, count in self.counts.items()}
        gpu_us, has_gpu_time = self.gpu_us[rows], self.has_gpu_time[rows]
        return Usage(counts, self.used[rows], self.total_input[rows], gpu_us, has_gpu_time, self.is_unbounded)

    def unbounded(self) -> "Usage":
        """Return the same usage in Python integers, whose products can't overflow."""
        counts = {bucket: count.astype(object) for bucket, count in self.counts.items()}
        return Usage(counts, self.used, self.total_input, self.gpu_us, self.has_gpu_time, True)


def usage_of(calls: pl.DataFrame) -> Usage:
    """Read the counts. Columns: ``<bucket>_tokens`` of each token bucket, ``web_searches``, ``gpu_us`` (or null)."""
    columns = {bucket: calls[column].to_numpy() for bucket, column in COLUMN_OF_COUNT.items()}
    counts = {bucket: count for bucket, count in columns.items() if count.any()}
    used = np.zeros(calls.height, dtype=np.int32)
    total_input = np.zeros(calls.height, dtype=np.int64)
    for bucket, count in counts.items():
        used |= (count > 0) * np.int32(bit(bucket))
        if bucket in INPUT_BUCKETS:
            total_input += count
    gpu_us = calls["gpu_us"].cast(pl.Int64)
    return Usage(counts, used, total_input, gpu_us.fill_null(0).to_numpy(), gpu_us.is_not_null().to_numpy())
