"""What calls cost under given rate sets: sums of products of integers."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spendstream.core.pricing.rate_set import bit
from spendstream.core.pricing.table import UNCACHED, Int32s, RateTable
from spendstream.core.pricing.timeline import Int64s
from spendstream.core.pricing.usage import Usage

Amounts = npt.NDArray[Any]
"""Pico-dollars: integers of 64 bits, or Python's own."""

MAX_PUSD: Final = np.iinfo(np.int64).max
"""About 9.2 million USD."""

_GPU_US_PER_HOUR: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Bill:
    """Costs of calls. They hold only where ``missing`` is 0."""

    by_bucket: dict[str, Amounts]
    total: Amounts
    missing: Int32s
    """The buckets that a call uses and its card has no rate for, as a mask."""
    rows: Int64s
    """The row of the table that priced each call."""


def bill(table: RateTable, sets: Int64s, usage: Usage) -> Bill:
    """Price each call under its rate set: 600 plain and 400 cached tokens at $3 and $0.30 per million: $0.00192."""
    rows = table.rows(sets, usage.total_input)
    missing = usage.used & ~table.rated.take(rows)
    amounts = {bucket: count * table.rates[bucket].take(rows) for bucket, count in usage.counts.items()}
    if table.largest["request"]:
        amounts["request"] = table.rates["request"].take(rows)
    if table.largest_gpu_hour:
        missing |= _bill_gpu(table, sets, usage, amounts)
    total = sum(amounts.values(), start=np.zeros(len(rows), dtype=np.int64))
    return Bill(amounts, total, missing, rows)


def lost_without_cache(table: RateTable, billed: Bill, usage: Usage) -> tuple[Amounts, Int32s]:
    """Return what cached tokens would have cost more as plain input, and the buckets whose plain rate is unknown."""
    extra: Amounts = np.zeros(len(billed.rows), dtype=np.int64)
    missing = np.zeros(len(billed.rows), dtype=np.int32)
    rated = table.rated.take(billed.rows)
    for bucket, plain in UNCACHED.items():
        count = usage.counts.get(bucket)
        if count is not None:
            extra = extra + count * table.rates[plain].take(billed.rows) - billed.by_bucket[bucket]
            missing |= usage.used & np.where(rated & bit(plain), np.int32(0), np.int32(bit(bucket)))
    return extra, missing


def may_overflow(table: RateTable, usage: Usage) -> bool:
    """Tell whether the dearest rates and largest counts of a batch, taken together, exceed 64 bits."""
    worst = table.largest["request"]
    for bucket, count in usage.counts.items():
        worst += int(count.max(initial=0)) * max(table.largest[bucket], table.largest[UNCACHED.get(bucket, bucket)])
    if table.largest_gpu_hour:
        worst += int(usage.gpu_us.max(initial=0)) * table.largest_gpu_hour // _GPU_US_PER_HOUR + 1
    return worst > MAX_PUSD


def gpu_cost_pusd(gpu_us: int, gpu_hour_pusd: int) -> int:
    """Return the cost of GPU time, to the nearest pico-dollar and the even one of two as near."""
    cost, rest = divmod(gpu_us * gpu_hour_pusd, _GPU_US_PER_HOUR)
    return cost + (2 * rest > _GPU_US_PER_HOUR or (2 * rest == _GPU_US_PER_HOUR and cost % 2 == 1))


def _bill_gpu(table: RateTable, sets: Int64s, usage: Usage, amounts: dict[str, Amounts]) -> Int32s:
    """Add GPU time to the amounts of calls that are billed by it. Returns ``gpu`` as missing where none was given."""
    billed = table.is_gpu.take(sets)
    if billed.any():
        costs = np.zeros(len(sets), dtype=object)
        for row in np.flatnonzero(billed):
            costs[row] = gpu_cost_pusd(int(usage.gpu_us[row]), table.sets[sets[row]].gpu_hour or 0)
        amounts["gpu"] = costs if usage.is_unbounded else costs.astype(np.int64)
    return np.where(billed & ~usage.has_gpu_time, np.int32(bit("gpu")), np.int32(0))
