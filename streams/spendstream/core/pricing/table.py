"""All rate sets in use, as arrays: one row for each step of each set."""

from typing import Final

import numpy as np
import numpy.typing as npt

from spendstream.core.pricing.rate_set import NO_RATE, SERVICE_TIERS, RateSet, bit
from spendstream.core.pricing.timeline import UNKNOWN, Int64s
from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS

Int32s = npt.NDArray[np.int32]

UNCACHED: Final = {
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "input",
    "cache_write": "input",
    "cache_read_audio": "input_audio",
}
"""What a cached bucket would have been, had nothing been cached."""

_NEVER: Final = np.iinfo(np.int64).max
_NOTHING: Final = RateSet("custom", "", "", "", None, "", (), ((NO_RATE,) * len(TOKEN_BUCKETS),))


class RateTable:
    """Rate sets by index. Sets are only ever added; index ``UNKNOWN`` prices nothing.

    ``rates[bucket]`` holds pico-dollars a unit by row, and ``rated`` the buckets that have a rate, as a mask, by row.
    """

    def __init__(self) -> None:
        self.sets: list[RateSet] = [_NOTHING]
        self._index = {"": UNKNOWN}
        self._built = 0

    def intern(self, rate_set: RateSet) -> int:
        """Return the index of a set, adding it if no equal one is there."""
        index = self._index.setdefault(rate_set.ref.id, len(self.sets))
        if index == len(self.sets):
            self.sets.append(rate_set)
        return index

    def refresh(self) -> None:
        """Bring the arrays up to date with the sets. Call it before reading them."""
        if self._built == len(self.sets):
            return
        steps = [len(s.steps) for s in self.sets]
        self._first_row = np.cumsum([0, *steps[:-1]], dtype=np.int64)
        widest = max(steps) - 1
        self._thresholds = np.full((widest, len(self.sets)), _NEVER, dtype=np.int64)
        for index, rate_set in enumerate(self.sets):
            self._thresholds[: len(rate_set.thresholds), index] = rate_set.thresholds
        matrix = np.array([row for s in self.sets for row in _rows(s)], dtype=np.int64).T
        self.rated = _mask_of(matrix)
        self.rates = dict(zip(COST_BUCKETS, np.ascontiguousarray(np.maximum(matrix, 0)), strict=False))
        self.largest = {bucket: int(rates.max()) for bucket, rates in self.rates.items()}
        self.is_gpu = np.array([s.gpu_hour is not None for s in self.sets])
        self.largest_gpu_hour = max((s.gpu_hour or 0 for s in self.sets), default=0)
        self.tier = np.array([tier_code(s.tier_applied) for s in self.sets], dtype=np.int8)
        self._built = len(self.sets)

    def rows(self, sets: Int64s, total_input: Int64s) -> Int64s:
        """Return the row that prices each call. A step applies from one token above its threshold on."""
        rows = self._first_row.take(sets)
        for thresholds in self._thresholds:
            rows += total_input > thresholds.take(sets)
        return rows


def tier_code(service_tier: str) -> int:
    """Return a service tier as a small number, -1 if it is none."""
    return SERVICE_TIERS.index(service_tier) if service_tier in SERVICE_TIERS else -1


def _rows(rate_set: RateSet) -> list[tuple[int, ...]]:
    return [(*step, rate_set.web_search, rate_set.request) for step in rate_set.steps]


def _mask_of(matrix: Int64s) -> Int32s:
    rated = np.zeros(matrix.shape[1], dtype=np.int32)
    for bucket, rates in zip(COST_BUCKETS, matrix, strict=False):
        rated |= np.where(rates != NO_RATE, np.int32(bit(bucket)), np.int32(0))
    return rated
