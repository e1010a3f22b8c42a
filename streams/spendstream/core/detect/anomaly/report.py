"""What is said of groups that are not normal, and of those that have just become so."""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly.columns import Column, Columns
from spendstream.core.detect.anomaly.judge import Verdict
from spendstream.core.detect.finding import Finding, Level
from spendstream.core.detect.measures import unit
from spendstream.schemas.watch import Measure

Facet = Literal["up", "down", "no_data"]
FACETS: Final[tuple[Facet, ...]] = ("up", "down", "no_data")
_SHOWN: Final = ("observed", "expected", "limit", "score")
_LAYOUT: Final = dict.fromkeys(_SHOWN, (np.float64, 0))
_NEVER: Final = -(2**62)


class Report:
    """The latest figures of each group, and which (group, facet) ended lately."""

    def __init__(self, measure: Measure) -> None:
        self._unit = unit(measure)
        self._shown = Columns(_LAYOUT)
        self._told_us = _NEVER
        self._ended: dict[tuple[int, int, int], None] = {}  # group, facet, since_us; told at the moment _told_us
        self._ending: dict[tuple[int, int, int], None] = {}  # ended since then

    def grow(self, size: int) -> None:
        """Make room for groups below ``size``."""
        self._shown.grow(size)

    def at(self, now_us: int) -> None:
        """A moment of the detection clock to tell at: what was told as ended at an earlier one is told no more."""
        if now_us != self._told_us:
            self._ended = {}
        self._told_us = now_us
        self._ended |= self._ending
        self._ending = {}

    def show(self, rows: NDArray[np.int64], verdict: Verdict, at: NDArray[np.int64]) -> None:
        """Keep the figures of groups ``rows``, which stand at ``at`` in the verdict."""
        rising = verdict.score[at] >= 0
        band = verdict.band
        self._shown["observed"][rows] = verdict.observed[at]
        self._shown["expected"][rows] = band.expected[at]
        self._shown["limit"][rows] = np.where(rising, band.upper[at], band.lower[at])
        self._shown["score"][rows] = verdict.score[at]

    def end(self, groups: NDArray[np.int64], facet: Facet, since_us: Column) -> None:
        """Note that groups have become normal under a facet."""
        for group, since in zip(groups.tolist(), since_us[groups].tolist(), strict=True):
            self._ending[group, FACETS.index(facet), since] = None

    def ended(self) -> list[tuple[int, Facet, int]]:
        """Return what has just ended: group, facet, since."""
        return [(group, FACETS[facet], since) for group, facet, since in self._ended]

    def finding(self, group: int, facet: Facet, level: Level, since_us: int) -> Finding:
        """Return a finding with the latest figures. A normal group stands where it is expected."""
        observed, expected, limit, score = (float(self._shown[name][group]) for name in _SHOWN)
        return Finding(group, facet, level, since_us, observed, expected, limit, score, self._unit)

    def snapshot(self) -> dict[str, Column]:
        """Return all state."""
        return {
            **self._shown.snapshot("shown_"),
            "told_us": np.array([self._told_us], dtype=np.int64),
            "ended": np.array(list(self._ended), dtype=np.int64).reshape(-1, 3),
            "ending": np.array(list(self._ending), dtype=np.int64).reshape(-1, 3),
        }

    def restore(self, arrays: Mapping[str, Column]) -> None:
        """Take over a snapshot."""
        self._shown.restore(arrays, "shown_")
        self._told_us = int(arrays["told_us"][0])
        self._ended = dict.fromkeys(map(tuple, arrays["ended"].tolist()))
        self._ending = dict.fromkeys(map(tuple, arrays["ending"].tolist()))

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._shown.nbytes
