"""Named arrays that grow with the groups: the state of 100,000 groups without a Python object for each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
Rows = slice | NDArray[np.int64]
"""Which groups: all of them, or some by number."""

_GROWTH = 1.2  # little slack: memory per group is what limits the number of groups


class Columns:
    """Arrays of one length. ``layout``: name to (dtype, value of a new group). ``columns[name]`` is a view."""

    def __init__(self, layout: Mapping[str, tuple[Any, float]]) -> None:
        self._layout = dict(layout)
        self._arrays: dict[str, Column] = {name: np.empty(0, dtype=dtype) for name, (dtype, _) in layout.items()}
        self._capacity = 0
        self.size = 0

    def __getitem__(self, name: str) -> Column:
        return self._arrays[name][: self.size]

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``; never shrinks."""
        if size > self._capacity:
            self._capacity = max(size, int(self._capacity * _GROWTH))
            for name, (dtype, fill) in self._layout.items():
                grown = np.full(self._capacity, fill, dtype=dtype)
                grown[: self.size] = self._arrays[name][: self.size]
                self._arrays[name] = grown
        self.size = max(self.size, size)

    def snapshot(self, prefix: str = "") -> dict[str, Column]:
        """Return copies of all columns."""
        return {prefix + name: self[name].copy() for name in self._layout}

    def restore(self, arrays: Mapping[str, Column], prefix: str = "") -> None:
        """Take over a snapshot. Raises KeyError where a column is missing."""
        taken = {name: arrays[prefix + name].astype(dtype) for name, (dtype, _) in self._layout.items()}
        self._arrays = taken
        self.size = self._capacity = len(next(iter(taken.values())))

    @property
    def nbytes(self) -> int:
        """Memory held, slack included."""
        return sum(array.nbytes for array in self._arrays.values())
