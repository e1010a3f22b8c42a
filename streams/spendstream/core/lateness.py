"""Watermark and lateness: how late an event is, by the log alone.

The watermark is the running maximum of event time in offset order; it never goes back. A minute closes when the
watermark reaches its end. An event of a closed minute is *late*; beyond the allowed lateness it is a *correction*.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.timestamps import MINUTE_US

ON_TIME_CODE: Final = 0
LATE_CODE: Final = 1
CORRECTION_CODE: Final = 2
"""Index into ``spendstream.schemas.priced.LATENESS``."""

NO_WATERMARK: Final = -(2**62)


def advance(watermark_us: int, occurred_at_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the watermark after each event, µs."""
    return np.maximum(np.maximum.accumulate(occurred_at_us), watermark_us)


def window_of(occurred_at_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return when each event's minute opened, µs: ``[open, open + 60 s)``."""
    return occurred_at_us // MINUTE_US * MINUTE_US


def classify_lateness(
    minute_us: NDArray[np.int64], watermark_us: NDArray[np.int64], allowed_lateness_s: int
) -> NDArray[np.int8]:
    """Return 0 on time, 1 late or 2 correction for each event. A minute closes when the watermark reaches its end."""
    closed = minute_us + MINUTE_US <= watermark_us
    over = minute_us + MINUTE_US + allowed_lateness_s * 1_000_000 <= watermark_us
    return closed.astype(np.int8) + over.astype(np.int8)


def is_final(minute_us: int, watermark_us: int, allowed_lateness_s: int) -> bool:
    """Whether events can no longer revise a minute, at a watermark."""
    return minute_us + MINUTE_US + allowed_lateness_s * 1_000_000 <= watermark_us
