"""A series as steps of totals, whatever it came from."""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.finding import Values
from spendstream.schemas.watch import Measure

MINUTE_S: Final = 60
"""Seconds of a minute: when its totals are whole."""


class Part(NamedTuple):
    """What became known at a moment of a minute: ``known_s`` seconds after its open, at most 60.

    Row i of ``sums`` (int64, in the order of ``SUMS``) is added to the combination ``members[i]``.
    """

    known_s: int
    members: list[Values]
    sums: NDArray[np.int64]


class Step(NamedTuple):
    """A step of the series, ``[open_us, open_us + step)``, and what came in it, in order of ``known_s``."""

    open_us: int
    parts: tuple[Part, ...]


class Feed(Protocol):
    """A series. ``steps`` leaves out steps without anything, and can be gone through more than once.

    ``dimensions``: what its combinations are made of. ``measures``: what can be judged of it. ``start_us`` and
    ``end_us``: the whole span, end exclusive. ``step_us``: whole minutes. ``has_reasons``: it tells tokens, models and
    prices, so that a change can be explained.
    """

    dimensions: tuple[str, ...]
    measures: frozenset[Measure]
    start_us: int
    end_us: int
    step_us: int
    has_reasons: bool

    def steps(self) -> Iterator[Step]:
        """Yield the steps in which something came, in order of time."""
        ...
