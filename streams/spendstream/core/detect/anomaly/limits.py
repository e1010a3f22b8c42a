"""Every constant of the method, with its reason."""

from typing import Final

from spendstream.core.timestamps import MINUTE_US, US

HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

GRACE_US: Final = 15 * US
"""A minute closes this long after its end: the meter publishes four times a second, and clocks differ by seconds."""
FORGOTTEN_US: Final = 15 * MINUTE_US
"""Minutes this far behind the detection clock are imported history: no evidence of the present."""
GAP_US: Final = DAY_US
"""After a larger jump of the clock, the minutes between are skipped and levels are relearned."""

BOUND: Final = {"low": 6.0, "normal": 4.5, "high": 3.5}
"""Robust standard deviations, two minutes running. Heavy-tailed call costs pass 4.5 about once in 3,000 minutes."""
BOUND_SLOW: Final = {"low": 6.5, "normal": 5.0, "high": 4.0}
"""The same for the mean of the last minutes, whose errors are more correlated."""
EXTREME: Final = 2.0
"""Times the bound: one minute is enough."""
COUNT_BOUND: Final = 1.4
COUNT_CAP: Final = 1.25
"""Times the bound, when a call counts as no more than COUNT_CAP usual ones: the number of calls alone is the evidence.
It has no heavy tail, so one minute is enough, and the minute need not be over."""
CALL_CAP: Final = 2.0
"""For EXTREME, a call counts as no more than this many usual ones: a single huge call is no runaway."""
SPARSE_CALLS: Final = 10.0
SPARSE_CALL_CAP: Final = 2.0
"""The same for any verdict where fewer than SPARSE_CALLS calls a minute are expected: few calls mean little."""
TAIL: Final = 0.4
TAIL_CALLS: Final = 0.25
"""A minute's bound is wider by TAIL / √(usual calls); fewer than TAIL_CALLS count as TAIL_CALLS."""
RATIO_EXTREME_CALLS: Final = 5
"""Times ``min_calls``: the calls that a ratio needs to be extreme in one minute."""
RUN: Final = 2
"""Consecutive minutes beyond the bound that fire."""
NORMAL_MINUTES: Final = 3
"""Consecutive normal closed minutes that end an alert."""
STILL: Final = 0.5
"""Of the bound: beyond it a firing group keeps firing, so that it does not flap."""

ACTIVE_MINUTES: Final = 15
"""Minutes with calls that a baseline needs, besides its age."""

TAU_FAST: Final = 25.0
TAU_SLOW: Final = 90.0
TAU_FLAT: Final = 100.0
TAU_SEASONAL: Final = 150.0
"""Minutes over which the level follows: large quiet groups fast, noisy ones slowly; slower where this time of day is
known, or known to be flat: an incident must not be learned before it is found."""
QUIET: Final = 20.0
"""A group whose level over spread is at least this is followed at TAU_FAST."""
TREND_DAMPING: Final = 0.99
TREND_CAP: Final = 0.02
"""Of the level, per minute."""
CLIP: Final = 1.5
MIN_CLIP: Final = 0.2
"""Residuals are clipped (Huber) at CLIP standard deviations, but not below MIN_CLIP of the level.
Noisy groups must not learn an incident before it is found; quiet ones find it at once, and have mornings to follow."""
SPREAD_TAU: Final = 360.0
SPREAD_CLIP: Final = 5.0
WARM: Final = 20
"""Minutes until the level is followed with a trend and clipped."""
SLOPE: Final = 0.1
"""Of the level: what a minute may be off while the hour of the week is unknown and may be a steep one."""
MIN_SLOPE: Final = 0.03
SLOPE_SHARE: Final = 0.5
"""Of a known change within half an hour: what a minute may be off, since the level lags; at most SLOPE."""
DRIFT_SLOPE: Final = 0.4
DRIFT_SLOPE_SHARE: Final = 1.0
DRIFT_SLOPE_TRUSTED: Final = 0.3
"""The same for means over many minutes: where nothing is known; of a known change; with the hour of the week known."""
FLAT: Final = 0.06
"""A change within half an hour that counts as none."""
SLOPE_MINUTES: Final = 15
"""Minutes of a half-hour that must have been learned from."""
SLOPE_NOISE: Final = 0.5
"""Standard deviations of a minute: two of the difference between means of 30 minutes."""
SLOPE_FADES: Final = 0.9
"""A day. After a weekend 0.8 of Friday's is left."""
SLOPE_AROUND: Final = (0, 1, 2)
"""Half-hours that count: the one just over (the level still lags), the one that begins, and the next."""
STALE: Final = 0.002
STALE_CAP: Final = 0.5
"""Of the level, per frozen minute without a known hour of the week: a frozen baseline grows uncertain."""
STALE_SLOPE: Final = 0.7
STALE_BLIND: Final = 0.2
"""Added where it is steep: STALE_SLOPE of the known change within half an hour, or of STALE_BLIND where unknown."""
STALE_FADES: Final = 0.96
"""A minute, once it learns again."""
STALE_RESTART: Final = 60
"""Frozen minutes after which the level is relearned from what was last seen."""

TRUSTED: Final = 0.5
"""Trust in the hour of the week above which the mean of the last minutes counts; below, a morning's slope would."""
RECENT: Final = 0.2
"""Weight of the newest minute in the mean of the last ones: about five minutes."""
LONG: Final = 1 / 15
"""The same for about a quarter of an hour: small groups need that much to be sure."""
DRIFT_CLIP: Final = 3.0
DRIFT_FULL: Final = 0.5
"""A minute counts in these means for at most DRIFT_CLIP standard deviations, or DRIFT_FULL of the level."""
DRIFT_COLD: Final = 1.1
"""Times BOUND_SLOW, where the hour of the week is not known."""
DRIFT_TAIL: Final = 2.0
"""The bound is wider by this over √(calls behind a mean): sums of few calls have heavy tails."""
WANDER_COLD: Final = 0.04
WANDER: Final = 0.03
"""Of the level: standard deviation of such a mean however many the calls, because traffic wanders;
more where the hour of the week is not known."""
QUICK: Final = 0.3
QUICK_LEAN: Final = 1.3
"""The same for the last three minutes or so, in scores: what decides on recovery."""
USUAL: Final = 1 / 60
"""Weight of a minute in usual calls, spend and size of a call."""

WEEKS_MEMORY: Final = 6
"""Weeks over which the mean of an hour of the week follows."""
SEASON_AFTER_HOURS: Final = 1
"""Groups that live less long get no seasonal table; the others miss no hour of their first week."""
SEASON_MINUTES: Final = 30
"""Minutes of an hour that must have been learned from for the hour to count."""

SILENCE_MISSED: Final = 28.0
"""Expected calls that failed to come: even at half the rate P(none) = exp(-14) < 1e-6."""
GAP_FACTOR: Final = 2
"""A silence must be this many times the longest one known of the group."""
GAP_DECAY: Final = 0.9999
"""Per minute: known silences are forgotten over a week."""
