"""Days, weeks and months that begin at midnight of a time zone, as spans of µs since 1970."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from spendstream.core.timestamps import EPOCH, epoch_us, from_epoch_us

Period = Literal["day", "week", "month"]
Ints = NDArray[np.int64]

MIN_PERIOD_S: Final[dict[Period, int]] = {"day": 86_400, "week": 7 * 86_400, "month": 28 * 86_400}
"""Seconds of the shortest period of each kind, clock changes aside."""

EARLIEST_US: Final = epoch_us(datetime(1900, 1, 1, tzinfo=UTC))
LATEST_US: Final = epoch_us(datetime(9000, 1, 1, tzinfo=UTC))
"""Times outside these are clipped: a hostile clock exceeds what a date library can represent."""

_SPANS_KEPT: Final = 4096


@lru_cache(maxsize=4096)
def period_of(minute_us: int, period: Period, zone: str) -> tuple[int, int]:
    """Return open (inclusive) and close (exclusive) of the period that an instant lies in, µs since 1970.

    Periods join without gap or overlap. Where midnight does not exist, the day begins with its first instant; where
    it exists twice, with the first of the two: 29 October 2023 in Europe/Berlin has 25 hours.
    """
    instant = min(max(minute_us, EARLIEST_US), LATEST_US)
    first = _first_date(from_epoch_us(instant).astimezone(ZoneInfo(zone)).date(), period)
    # Where clocks are set back over midnight, the old date's hour comes again after the new day has begun.
    while _opens(_next_date(first, period), zone) <= instant:
        first = _next_date(first, period)
    return _opens(first, zone), _opens(_next_date(first, period), zone)


class Calendar:
    """The periods of one kind in one zone, for many minutes at once."""

    def __init__(self, period: Period, zone: str) -> None:
        self.period = period
        self.zone = zone
        self._opens: Ints = np.zeros(0, dtype=np.int64)
        self._closes: Ints = np.zeros(0, dtype=np.int64)

    def span(self, minute_us: int) -> tuple[int, int]:
        """Return open and close of the period of one instant, as ``period_of``."""
        return period_of(minute_us, self.period, self.zone)

    def opens(self, minutes_us: Ints) -> Ints:
        """Return the open of each minute's period. Looks a period up once, however many minutes lie in it."""
        minutes = np.clip(minutes_us, EARLIEST_US, LATEST_US)
        while True:
            at = np.searchsorted(self._opens, minutes, side="right") - 1
            known = (at >= 0) & (minutes < self._closes[at]) if len(self._opens) else np.zeros(len(minutes), dtype=bool)
            if known.all():
                return self._opens[at] if len(minutes) else np.zeros(0, dtype=np.int64)
            if len(self._opens) >= _SPANS_KEPT:  # dates all over the calendar: start over rather than grow
                self._opens = self._closes = np.zeros(0, dtype=np.int64)
            opened, closed = self.span(int(minutes[np.argmin(known)]))
            before = int(np.searchsorted(self._opens, opened))
            self._opens = np.insert(self._opens, before, opened)
            self._closes = np.insert(self._closes, before, closed)

    def back(self, opened_us: int, periods: int) -> int:
        """Return the open of the period that lies ``periods`` before the one that opened then."""
        for _ in range(periods):
            opened_us, _ = self.span(opened_us - 1)
        return opened_us


def _first_date(day: date, period: Period) -> date:
    match period:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)


def _next_date(first: date, period: Period) -> date:
    match period:
        case "day":
            return first + timedelta(days=1)
        case "week":
            return first + timedelta(days=7)
        case "month":
            return (first + timedelta(days=32)).replace(day=1)


@lru_cache(maxsize=4096)
def _opens(day: date, zone: str) -> int:
    """Return the first instant at which the zone's clocks show this date or a later one."""
    rules = ZoneInfo(zone)
    midnight = datetime.combine(day, time(), tzinfo=rules)
    earliest = epoch_us(midnight.astimezone(UTC))
    if _shown(earliest, rules) == midnight.replace(tzinfo=None):
        return earliest
    # Skipped. The change lies between midnight by the offset after it and midnight by the offset before it.
    before, after = epoch_us(midnight.replace(fold=1).astimezone(UTC)) - 1, earliest
    while after - before > 1:
        middle = (before + after) // 2
        if _shown(middle, rules).date() >= day:
            after = middle
        else:
            before = middle
    return after


def _shown(us: int, rules: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(microseconds=us)).astimezone(rules).replace(tzinfo=None)
