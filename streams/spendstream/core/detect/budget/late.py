"""Thresholds of the last period that became known after its end."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.budget.calendar import Ints
from spendstream.core.detect.budget.ledger import Small
from spendstream.core.timestamps import MINUTE_US, US

KNOWN_WITHIN_US: Final = 86_400 * US
"""A period that ended longer ago raises nothing any more; its sums are still corrected."""

STANDS_US: Final = 2 * MINUTE_US
"""A late threshold fires for so long, then it is over: so is its period."""


class LateThresholds:
    """By group: thresholds ``first`` to before ``end`` fire until a minute."""

    def __init__(self) -> None:
        self._standing: dict[int, tuple[int, int, int]] = {}

    def learn(self, groups: Ints, were: Small, are: Small, minute_us: int) -> None:
        """Take note of groups whose count of reached thresholds in the last period has just grown."""
        for row in np.flatnonzero(are > were).tolist():
            group = int(groups[row])
            first, end, _ = self._standing.get(group, (int(were[row]), 0, 0))
            self._standing[group] = first, max(end, int(are[row])), minute_us + STANDS_US

    def forget(self, before_us: int) -> None:
        """Let go of what has stood long enough."""
        self._standing = {group: late for group, late in self._standing.items() if late[2] > before_us}

    def forget_all(self) -> None:
        """A new period has begun: the last one is another."""
        self._standing.clear()

    def of(self, group: int) -> range:
        """Return the positions of a group's late thresholds."""
        first, end, _ = self._standing.get(group, (0, 0, 0))
        return range(first, end)

    def __contains__(self, group: int) -> bool:
        """Whether a group has any."""
        return group in self._standing

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return the state: group, first, end, until."""
        rows = [(group, *late) for group, late in self._standing.items()]
        return {"late_thresholds": np.array(rows, dtype=np.int64).reshape(-1, 4)}

    def restore(self, arrays: Any) -> None:
        """Take over what ``snapshot`` returned."""
        self._standing = {group: (first, end, until) for group, first, end, until in arrays["late_thresholds"].tolist()}
