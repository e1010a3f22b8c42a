"""Busy groups that fell silent: no call at all, for longer than chance or habit explains."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.columns import Column, Columns
from spendstream.core.detect.anomaly.judge import Mask
from spendstream.core.detect.anomaly.scale import Floats
from spendstream.core.detect.anomaly.standing import Groups
from spendstream.core.detect.finding import Level
from spendstream.core.timestamps import MINUTE_US, US

# Plain integers: numpy asks an enum member for a dozen attributes at each comparison.
_NORMAL, _FIRING = int(Level.NORMAL), int(Level.FIRING)
_LAYOUT: Final = {
    "level": (np.int8, _NORMAL),
    "since_us": (np.int64, -1),  # first minute of the present silence
    "empty": (np.int32, 0),  # its closed minutes
    "missed": (np.float64, 0),  # calls that were expected in it
    "rate": (np.float64, 0),  # usual calls a minute, empty ones included
    "gap": (np.float32, 0),  # the longest silence known that was none to speak of, in minutes
}


class Silence:
    """The silences of all groups. ``after_s``: no shorter one counts; None: none does."""

    def __init__(self, after_s: int | None, adopt_after_s: int) -> None:
        self._after_s = after_s
        self._adopt_after_s = adopt_after_s
        self.columns = Columns(_LAYOUT)

    @property
    def firing(self) -> Mask:
        """Which groups fire."""
        mask: Mask = self.columns["level"] == _FIRING
        return mask

    def close(self, minute_us: int, calls: Floats, expected: Floats, born: Mask, ready: Mask, held: Mask) -> Groups:
        """Take in a closed minute; return the groups whose silence is over, or has become their habit.

        ``expected``: calls, as the hour of the week has it; never more than the usual rate counts.
        """
        columns = self.columns
        quiet = born & (calls <= 0)
        back = ~quiet & (columns["empty"] > 0)
        ended = np.flatnonzero(~quiet & self.firing)
        self._learn(calls, quiet, back, held)
        columns["since_us"][quiet & (columns["empty"] == 0)] = minute_us
        columns["empty"][:] = np.where(quiet, columns["empty"] + 1, 0)
        missed = np.minimum(columns["rate"], expected)
        columns["missed"][:] = np.where(quiet, columns["missed"] + missed, 0.0)
        columns["level"][ended] = _NORMAL
        if self._after_s is not None:
            columns["level"][self._implausible(self._after_s) & ready] = _FIRING
        return np.concatenate([ended, self._adopt(minute_us)])

    def _implausible(self, after_s: int) -> Mask:
        columns = self.columns
        long = columns["empty"] * (MINUTE_US // US) >= after_s
        unusual = columns["empty"] >= limits.GAP_FACTOR * columns["gap"]
        mask: Mask = long & unusual & (columns["missed"] >= limits.SILENCE_MISSED)
        return mask

    def _learn(self, calls: Floats, quiet: Mask, back: Mask, held: Mask) -> None:
        """Empty minutes teach the rate only once they are over: until then they may be the alert."""
        columns = self.columns
        alert = self.firing
        columns["gap"][:] *= limits.GAP_DECAY
        habit = back & ~alert
        columns["gap"][habit] = np.maximum(columns["gap"], columns["empty"])[habit]
        keep = 1 - 2 * limits.USUAL
        passed = np.where(habit, np.power(keep, np.minimum(columns["empty"], 1000)), 1.0)
        teach = ~quiet & ~held
        rate = columns["rate"]
        rate[teach] = (keep * rate * passed + (1 - keep) * calls)[teach]

    def _adopt(self, minute_us: int) -> Groups:
        columns = self.columns
        groups = np.flatnonzero(self.firing & (minute_us - columns["since_us"] >= self._adopt_after_s * US))
        columns["level"][groups] = _NORMAL
        columns["rate"][groups] = 0.0
        columns["missed"][groups] = 0.0
        return groups

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        return self.columns.snapshot("silence_")

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self.columns.restore(arrays, "silence_")
