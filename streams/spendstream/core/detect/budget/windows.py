"""Spend in sliding windows of the detection clock, for every group: what burn rates and forecasts look at."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import Ints
from spendstream.core.detect.steps import Ahead, Floats, StepRing
from spendstream.core.money import PUSD
from spendstream.core.timestamps import US


def step_of(window_s: int) -> int:
    """Return the step in which a window slides, in seconds: minutes up to an hour, 5 minutes up to 6 hours, hours."""
    return 60 if window_s <= 3600 else 300 if window_s <= 21_600 else 3600


class SpendWindows:
    """Spend of each group in windows that end with the running minute, 5 minutes or hour.

    A window holds as many steps as fill it, the running one included: never more time than it says, and nothing is
    extrapolated. Sums are floats of pico-dollars: exact up to $9,007 a step, and never overflowing.
    Memory a group, with the windows of the default burn rates: 60 + 72 + 72 numbers, 1.6 kB.
    """

    def __init__(self, windows_s: Iterable[int]) -> None:
        self._widths = {window: -(-window // step_of(window)) for window in windows_s}
        steps = {step_of(window) for window in self._widths}
        self._rings = {
            step: StepRing(step * US, max(w for s, w in self._widths.items() if step_of(s) == step), dtype=np.float64)
            for step in sorted(steps)
        }
        self._ahead = Ahead(dtype=np.float64)

    def advance(self, now_us: int) -> None:
        """Move to the detection clock, which never goes back."""
        for ring in self._rings.values():
            ring.advance(now_us)
        for groups, minutes_us, spent in self._ahead.due(now_us):
            self._add(groups, minutes_us, spent)

    def add(self, groups: Ints, minutes_us: Ints, spent_pusd: Ints, now_us: int) -> None:
        """Add row i to its group and minute; what is older than every window is no part of any."""
        spent = spent_pusd.astype(np.float64)[:, None]
        ahead = minutes_us > now_us
        if ahead.any():
            self._ahead.keep(groups[ahead], minutes_us[ahead], spent[ahead])
            groups, minutes_us, spent = groups[~ahead], minutes_us[~ahead], spent[~ahead]
        self._add(groups, minutes_us, spent)

    def usd(self, groups: Ints, window_s: int) -> Floats:
        """Return what each of the groups spent in the window, USD."""
        window: Floats = self._rings[step_of(window_s)].window(groups, self._widths[window_s])[:, 0] / PUSD
        return window

    def covered_us(self, window_s: int, now_us: int) -> int:
        """Return how much time the window holds at a moment: up to a step less than it says."""
        step_us = step_of(window_s) * US
        return now_us - (now_us // step_us - self._widths[window_s] + 1) * step_us

    def snapshot(self, groups: int) -> dict[str, NDArray[np.generic]]:
        """Return the state as arrays."""
        arrays = self._ahead.snapshot()
        for step, ring in self._rings.items():
            arrays |= ring.snapshot(f"spend_{step}s", groups)
        return arrays

    def restore(self, arrays: Any) -> None:
        """Take over what ``snapshot`` returned."""
        self._ahead.restore(arrays)
        for step, ring in self._rings.items():
            ring.restore(f"spend_{step}s", arrays)

    def _add(self, groups: Ints, minutes_us: Ints, spent: Floats) -> None:
        for ring in self._rings.values():
            ring.add(groups, minutes_us, spent)
