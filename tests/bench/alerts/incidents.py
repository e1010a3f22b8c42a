"""What goes wrong, with labels."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.bench.alerts.traffic import Rates, Services

SLOT: Final = 480
"""Minutes from one incident of a group to the next at least."""
WORTH_USD: Final = 0.10
"""Per minute, expected: incidents that move less are not played. Twice the rule's default ``min_spend_usd``."""
WITHIN: Final = 15
"""Minutes of an incident whose evidence counts for ``detectable``: who hears later might as well read the bill."""
CLEAR: Final = 6.0
"""Standard deviations for ``detectable``: 5 are needed to be wrong once in a million minutes, one for bad luck."""
LEAST_UP: Final = 1.5 * 1.1
LEAST_DOWN: Final = 0.5 * 0.9
"""Factors on the spend for ``detectable``: the rule's ``min_change``, and the tenth that usual spend wanders."""


@dataclass(frozen=True)
class Kind:
    """A kind of incident: factors on the number and on the cost of calls, and its length in minutes; ranges."""

    name: str
    calls: tuple[float, float]
    cost: tuple[float, float]
    minutes: tuple[int, int]


KINDS: Final = (
    Kind("runaway loop, 3x to 10x calls", (3, 10), (1, 1), (10, 60)),
    Kind("context blow-up, 2x to 5x a call", (1, 1), (2, 5), (20, 120)),
    Kind("dearer model, 1.7x to 5x a call, stays", (1, 1), (1.7, 5), (300, 300)),
    Kind("cache off, 1.5x to 3x a call", (1, 1), (1.5, 3), (60, 240)),
    Kind("outage, down to 0.1x to 0.3x calls", (0.1, 0.3), (1, 1), (10, 60)),
    Kind("total silence", (0, 0), (1, 1), (20, 60)),
)


@dataclass(frozen=True)
class Incident:
    """One incident of one group in minutes ``[start, end)`` of the series.

    ``factor``: on the spend. ``calls``: usual ones a minute. ``clarity``: by how many standard deviations of calm
    traffic the incident's first ``WITHIN`` minutes stand out, if all of what is usual were known exactly.
    """

    group: int
    kind: str
    factor: float
    start: int
    end: int
    calls: float
    clarity: float

    @property
    def detectable(self) -> bool:
        """Whether it can be told from chance at all, and is of a size that the rule's defaults ask for."""
        return self.clarity >= CLEAR and (self.factor >= LEAST_UP or self.factor <= LEAST_DOWN)


def play_incidents(groups: Services, rates: Rates, first: int, seed: int) -> tuple[Rates, list[Incident]]:
    """Return the rates with incidents after minute ``first``, at most one a slot and group, and their labels."""
    draw = np.random.default_rng(seed)
    calls, cost = rates.calls.copy(), rates.call_factor.copy()
    labels = []
    for group in range(len(groups)):
        for slot in range(first, calls.shape[1] - SLOT, SLOT):
            kind = KINDS[draw.integers(len(KINDS))]
            start = slot + int(draw.integers(0, 120))
            end = start + int(draw.integers(kind.minutes[0], kind.minutes[1] + 1))
            more, dearer = np.exp(draw.uniform(*np.log(np.maximum(kind.calls, 1e-9)))), draw.uniform(*kind.cost)
            factor = float(more * dearer)
            usual = float(calls[group, start:end].mean())
            usd = (calls[group, start:end] * cost[group, start:end]).mean() * groups.call_usd[group]
            if abs(factor - 1) * usd >= WORTH_USD:
                clarity = _clarity(factor, usual * min(end - start, WITHIN), groups.cv[group])
                calls[group, start:end] *= more
                cost[group, start:end] *= dearer
                labels.append(Incident(group, kind.name, factor, start, end, usual, clarity))
    return Rates(calls, cost), labels


def _clarity(factor: float, calls: float, cv: float) -> float:
    """Return how far apart the roots of the spend with and without the factor are, in standard deviations.

    ``calls``: usual number of them over the time that counts. A sum of N (Poisson) calls of cost c ± cv·c has the
    standard deviation √((1 + cv²) N) c; its root has half of √((1 + cv²) c), whatever N is.
    """
    return float(2 * abs(np.sqrt(factor) - 1) * np.sqrt(calls / (1 + cv * cv)))
