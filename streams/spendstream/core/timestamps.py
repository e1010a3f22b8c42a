"""Time as integers: microseconds since 1970 in UTC, and the minute windows cut from them."""

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
US: Final = 1_000_000
MINUTE_US: Final = 60 * US


def epoch_us(at: datetime) -> int:
    """Return an aware time as µs since 1970, exactly (no float)."""
    return (at - EPOCH) // timedelta(microseconds=1)


def from_epoch_us(us: int) -> datetime:
    """Return µs since 1970 as an aware UTC time."""
    return EPOCH + timedelta(microseconds=us)
