"""What follows from minute after minute: suspect, firing, normal again; for one direction."""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import limits
from spendstream.core.detect.anomaly.columns import Column, Columns
from spendstream.core.detect.anomaly.judge import Mask
from spendstream.core.detect.finding import Level
from spendstream.core.timestamps import US

# Plain integers: numpy asks an enum member for a dozen attributes at each comparison.
_NORMAL, _SUSPECT, _FIRING = int(Level.NORMAL), int(Level.SUSPECT), int(Level.FIRING)
_LAYOUT: Final = {
    "level": (np.int8, _NORMAL),
    "run": (np.int16, 0),  # consecutive closed minutes beyond the bound, up to the last closed one
    "calm": (np.int8, 0),  # consecutive closed minutes that were normal, while firing
    "since_us": (np.int64, -1),
    "rise_us": (np.int64, -1),  # since when the last minutes' mean leans this way
}

Groups = NDArray[np.int64]


class Standing:
    """How all groups stand, upwards or downwards."""

    def __init__(self, side: Literal["up", "down"]) -> None:
        self.side = side
        self.columns = Columns(_LAYOUT)

    @property
    def firing(self) -> Mask:
        """Which groups fire."""
        mask: Mask = self.columns["level"] == _FIRING
        return mask

    def abnormal(self) -> Groups:
        """Return the groups that are suspect or firing."""
        return np.flatnonzero(self.columns["level"] != _NORMAL)

    def lean(self, minute_us: int, leaning: Mask) -> None:
        """Note since when the mean of the last minutes leans this way."""
        rise = self.columns["rise_us"]
        rise[~leaning] = -1
        rise[leaning & (rise < 0)] = minute_us

    def close(self, minute_us: int, hot: Mask, extreme: Mask, slow: Mask, free: Mask) -> Groups:
        """Take in a closed minute; return the groups that were suspect and are normal now.

        ``hot``: beyond the bound; ``extreme``: by so much that one minute is enough; ``slow``: the mean of the last
        minutes is. ``free``: the group does not fire the other way.
        """
        columns = self.columns
        level, run, since = columns["level"], columns["run"], columns["since_us"]
        quiet = level != _FIRING
        hot, slow = hot & free, slow & free
        columns["run"][:] = np.where(hot, np.minimum(run + 1, 30_000), 0)
        since[quiet & hot & (run == 1)] = minute_us
        fires = quiet & ((run >= limits.RUN) | (hot & extreme) | slow)
        self._date_slow(fires & slow, hot)
        was_suspect = level == _SUSPECT
        level[quiet] = np.where(fires, _FIRING, np.where(hot, _SUSPECT, _NORMAL))[quiet]
        columns["calm"][fires] = 0
        return np.flatnonzero(was_suspect & (level == _NORMAL))

    def _date_slow(self, fires: Mask, hot: Mask) -> None:
        """Who fires by the mean of the last minutes does so since it began to lean."""
        since, rise = self.columns["since_us"], self.columns["rise_us"]
        dated = fires & (rise >= 0)
        since[dated] = np.where(hot, np.minimum(since, rise), rise)[dated]

    def recover(self, minute_us: int, groups: Groups, normal: Mask, leaning: Mask) -> Groups:
        """Count normal minutes of firing ``groups``; return those that are normal again, and lean no more."""
        columns = self.columns
        counts = normal & (columns["since_us"][groups] < minute_us)
        columns["calm"][groups] = np.where(counts, np.minimum(columns["calm"][groups] + 1, limits.CALM), 0)
        ended = groups[(columns["calm"][groups] >= limits.CALM) & ~leaning]
        self.end(ended)
        return ended

    def lasting(self, minute_us: int, adopt_after_s: int) -> Groups:
        """Return the groups that have fired for so long that it is the new normal."""
        return np.flatnonzero(self.firing & (minute_us - self.columns["since_us"] >= adopt_after_s * US))

    def end(self, groups: Groups) -> None:
        """Make groups normal."""
        self.columns["level"][groups] = _NORMAL
        self.columns["run"][groups] = 0
        self.columns["calm"][groups] = 0
        self.columns["rise_us"][groups] = -1

    def glimpse(self, groups: Groups, level: int, since_us: Column) -> Groups:
        """Raise groups by evidence of minutes that are still open; return those for which it is news."""
        columns = self.columns
        raised = columns["level"][groups] < level
        news = groups[raised]
        fresh = columns["level"][news] == _NORMAL
        columns["since_us"][news[fresh]] = since_us[raised][fresh]
        columns["level"][news] = level
        columns["calm"][news] = 0
        return news

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        return self.columns.snapshot(f"{self.side}_")

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self.columns.restore(arrays, f"{self.side}_")
