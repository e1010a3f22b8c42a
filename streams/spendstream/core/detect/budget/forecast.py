"""What a group will have spent when the period ends, if it goes on like this."""

from typing import Final

import numpy as np

from spendstream.core.detect.budget.calendar import Ints
from spendstream.core.detect.steps import Floats
from spendstream.core.timestamps import MINUTE_US, US

RECENT_S: Final = 86_400
"""The window of the recent pace: a whole day, so that the hour of the day does not matter."""

EVIDENCE: Final = 0.05
"""Part of the period that must have passed, and part that the group must be known for (a day is always enough)."""

CLEARS_BELOW: Final = 0.95
"""A forecast that fired is over once it falls below this part of the amount."""


def forecast_usd(
    spent_usd: Floats, recent_usd: Floats, recent_us: int, first_us: Ints, now_us: int, opened_us: int, closes_us: int
) -> Floats:
    """Return the forecast of each group's spend at the period's end, USD; NaN where it is too early to say.

    ``spent + pace × remaining time``, where the pace is the mean of two: that of the last 24 hours, which sees a
    change soon and knows no weekend, and the period's own so far, which knows weekends and is slow. Both count from
    the group's first spend (``first_us``) where that is later: a feature of two days is not spread over the month.
    $60 in 10 days of 30, of which $10 in the last 24 h: a pace of (10 + 6) / 2 = $8 a day, so 60 + 20 × 8 = $220.

    Too early: less than ``EVIDENCE`` of the period has passed (month: 36 hours; day: 72 minutes), or the group is
    known for less than that and less than a day.
    """
    length = closes_us - opened_us
    known = (now_us - first_us).astype(np.float64)
    recent_pace = recent_usd / np.clip(known, MINUTE_US, max(recent_us, MINUTE_US))
    own_pace = spent_usd / np.clip(known, MINUTE_US, max(now_us - opened_us, MINUTE_US))
    pace = np.maximum((recent_pace + own_pace) / 2, 0)
    told = (now_us - opened_us >= EVIDENCE * length) & (known >= min(EVIDENCE * length, RECENT_S * US))
    forecast: Floats = np.where(told, spent_usd + pace * (closes_us - now_us), np.nan)
    return forecast
