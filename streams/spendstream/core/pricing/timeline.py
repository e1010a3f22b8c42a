"""Which rates were in force when: periods of whole UTC days, and times of day where a provider has off-peak prices."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

DAY_US: Final = 86_400_000_000
_EPOCH: Final = date(1970, 1, 1)

UNKNOWN: Final = 0
"""The rate set of calls that no card prices."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Indices of rate sets over time. Times are inclusive where they open: a period starts at its midnight."""

    starts_us: tuple[int, ...] = ()
    """Midnights (epoch µs, rising) at which another period opens; the first period has no beginning."""
    slots_us: tuple[int, ...] = ()
    """Times of day (µs since midnight, rising) at which another slot opens; the first opens at midnight."""
    sets: tuple[int, ...] = (UNKNOWN,)
    """Period by period, and within each slot by slot."""

    def at(self, time_us: int) -> int:
        """Return the rate set in force at an instant."""
        period = bisect_right(self.starts_us, time_us)
        return self.sets[period * (len(self.slots_us) + 1) + bisect_right(self.slots_us, time_us % DAY_US)]

    def at_each(self, times_us: Int64s) -> Int64s:
        """Return the rate set in force at each of many instants."""
        period = np.searchsorted(self.starts_us, times_us, "right")
        slot = np.searchsorted(self.slots_us, times_us % DAY_US, "right")
        return np.array(self.sets, dtype=np.int64).take(period * (len(self.slots_us) + 1) + slot)

    def throughout(self, first_us: int, last_us: int) -> int | None:
        """Return the rate set in force from the first to the last instant; None if it changes between them."""
        if len(self.sets) == 1:
            return self.sets[0]
        if self.slots_us or bisect_right(self.starts_us, first_us) != bisect_right(self.starts_us, last_us):
            return None
        return self.at(first_us)

    def start_of(self, time_us: int) -> int | None:
        """Return when the period of an instant opened; None for the first one."""
        period = bisect_right(self.starts_us, time_us)
        return self.starts_us[period - 1] if period else None

    def end_of(self, time_us: int) -> int | None:
        """Return when the period of an instant closes; None for the last one."""
        period = bisect_right(self.starts_us, time_us)
        return self.starts_us[period] if period < len(self.starts_us) else None


def midnight_us(day: date) -> int:
    """Return the midnight (UTC) at which a day begins, in epoch µs."""
    return (day.toordinal() - _EPOCH.toordinal()) * DAY_US


def openings(starts_us: Sequence[int], slots_us: Sequence[int]) -> list[int]:
    """Return an instant in each slot of each period, in the order of ``Timeline.sets``."""
    before_all = (starts_us[0] - DAY_US) if starts_us else 0
    return [start + slot for start in (before_all, *starts_us) for slot in (0, *slots_us)]


def overlay(layers: Sequence[Timeline]) -> Timeline:
    """Return the timeline on which each instant takes the first layer that knows a rate set for it."""
    if len(layers) == 1:
        return layers[0]
    starts = sorted({start for layer in layers for start in layer.starts_us})
    slots = sorted({slot for layer in layers for slot in layer.slots_us})
    instants = openings(starts, slots)
    sets = (next((s for layer in layers if (s := layer.at(t)) != UNKNOWN), UNKNOWN) for t in instants)
    return Timeline(tuple(starts), tuple(slots), tuple(sets))
