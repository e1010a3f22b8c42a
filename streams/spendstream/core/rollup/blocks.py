"""Which of a minute's aggregates a call goes to, so that no sum can pass 64 bits. A function of the log alone.

An aggregate's sums are signed 64-bit integers: money in pico-dollars up to 9.2 million USD. So a minute's calls are
kept apart by size and offset, and readers, who sum over blocks anyway, see the whole: calls below 2^42 (4.40 USD)
share an aggregate within 2^21 offsets, calls below 2^51 (2,252 USD) within 2^12, and one above that is alone. The
product of a size and a number of calls is 2^63 at most, and the sum is less.

A state that says "this one is full, open another" would decide otherwise in a replay; size and offset don't change.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spendstream.core.lateness import CORRECTION_CODE
from spendstream.core.rollup.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.rollup.measures import COST, COUNTERFACTUALS
from spendstream.schemas.rollup import ON_TIME

SIZES: Final = (COST, *COUNTERFACTUALS, "gpu_us")
"""The columns that can pass 64 bits; the other sums are of counts below 2^31 (or, per bucket, parts of the cost)."""


@dataclass(frozen=True)
class Tier:
    """Calls whose greatest column is below ``below`` share a block within ``offsets`` successive offsets."""

    below: int
    offsets: int


TIERS: Final = (Tier(2**42, 2**21), Tier(2**51, CORRECTION_BLOCK_OFFSETS), Tier(2**63, 1))
ALONE: Final = len(TIERS) - 1
"""The tier of a call that shares with none, too late or not: a block of corrections could not hold 4,096 of them."""


def blocks(calls: pl.DataFrame) -> NDArray[np.int64]:
    """Return each priced call's ``correction_block``. Columns: ``offset``, ``lateness`` and ``SIZES``.

    On time: ``ON_TIME - (3 * (offset // tier.offsets) + tier)``, so -1 for ordinary calls of the first 2 million
    offsets, then -4; too late: the offset's block of 4,096, from 0 on.
    """
    offset = calls["offset"].to_numpy()
    tier = _tiers(calls)
    width = np.take(np.array([each.offsets for each in TIERS]), tier)
    on_time = ON_TIME - (len(TIERS) * (offset // width) + tier)
    too_late = (calls["lateness"].to_numpy() == CORRECTION_CODE) & (tier != ALONE)
    return np.where(too_late, offset // CORRECTION_BLOCK_OFFSETS, on_time)


def _tiers(calls: pl.DataFrame) -> NDArray[np.int64]:
    columns = [calls[name].to_numpy() for name in SIZES]
    tier = np.zeros(calls.height, dtype=np.int64)
    if max((int(column.max(initial=0)) for column in columns), default=0) < TIERS[0].below:
        return tier  # as almost always
    size = np.maximum.reduce(columns)
    for each in TIERS[:-1]:
        tier += size >= each.below
    return tier
