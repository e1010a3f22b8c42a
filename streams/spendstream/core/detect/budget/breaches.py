"""Which groups burn too fast, and since when: both windows to begin, the short one to end."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import Ints
from spendstream.core.detect.steps import Floats, grown
from spendstream.core.timestamps import MINUTE_US

CALM_US: Final = 3 * MINUTE_US
"""A burn is over once its short window has been below the factor for so long."""


class Breaches:
    """One pair of windows. A breach begins when both are at or above the factor; its open is the running minute."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._since: Ints = np.zeros(0, dtype=np.int64)
        self._calm_since: Ints = np.zeros(0, dtype=np.int64)

    def judge(self, groups: Ints, long_rate: Floats, short_rate: Floats, minute_us: int) -> Ints:
        """Return since when each group is in breach, µs; 0 where it is not. Judging twice in a minute changes nothing
        unless the rates did."""
        self._reserve(int(groups.max(initial=-1)) + 1)
        since, calm_since = self._since[groups], self._calm_since[groups]
        is_low = short_rate < self._factor
        calm_since = np.where(is_low, np.where(calm_since == 0, minute_us, calm_since), 0)
        begins = (since == 0) & ~is_low & (long_rate >= self._factor)
        ends = (since > 0) & is_low & (minute_us - calm_since >= CALM_US)
        since = np.where(begins, minute_us, np.where(ends, 0, since))
        self._since[groups], self._calm_since[groups] = since, np.where(since > 0, calm_since, 0)
        return since

    def snapshot(self, name: str, groups: int) -> dict[str, NDArray[np.generic]]:
        """Return the state of the first ``groups`` groups as arrays."""
        self._reserve(groups)
        return {f"{name}_since": self._since[:groups].copy(), f"{name}_calm_since": self._calm_since[:groups].copy()}

    def restore(self, name: str, arrays: Any) -> None:
        """Take over what ``snapshot`` returned."""
        self._since = np.array(arrays[f"{name}_since"], dtype=np.int64)
        self._calm_since = np.array(arrays[f"{name}_calm_since"], dtype=np.int64)

    def _reserve(self, groups: int) -> None:
        self._since, self._calm_since = grown(self._since, groups), grown(self._calm_since, groups)
