"""The usual first idea, on the same series: a z-score against the moving mean of the last hour, minute by minute."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.watch import AnomalyRule
from tests.bench.alerts.drive import Raised
from tests.bench.alerts.traffic import Series

WINDOW = 60
_MERGE = 3  # minutes without a hit that end an alert: the same as the evaluator's


def scores(usd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return z of every minute against the 60 before it; 0 in the first hour and where nothing varies."""
    padded = np.concatenate([np.zeros((len(usd), 1)), usd], axis=1)
    total, squares = np.cumsum(padded, axis=1), np.cumsum(padded * padded, axis=1)
    mean = (total[:, WINDOW:-1] - total[:, : -WINDOW - 1]) / WINDOW
    spread = np.sqrt(np.maximum((squares[:, WINDOW:-1] - squares[:, : -WINDOW - 1]) / WINDOW - mean * mean, 0))
    z = np.zeros_like(usd)
    z[:, WINDOW:] = np.where(spread > 1e-9, (usd[:, WINDOW:] - mean) / np.maximum(spread, 1e-9), 0)
    return z


def matters(usd: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where a minute is off the mean of the 60 before by what the rule's defaults ask for at least."""
    total = np.cumsum(np.concatenate([np.zeros((len(usd), 1)), usd], axis=1), axis=1)
    mean = (total[:, WINDOW:-1] - total[:, : -WINDOW - 1]) / WINDOW
    rule = AnomalyRule(kind="anomaly")
    least = np.maximum(rule.min_change * mean, float(rule.min_spend_usd))
    enough = np.zeros(usd.shape, dtype=np.bool_)
    enough[:, WINDOW:] = np.abs(usd[:, WINDOW:] - mean) >= least
    return enough


@dataclass(frozen=True)
class Rival:
    """The z-scores of a series. ``fair``: with the rule's least change and spend, and two minutes running."""

    z: NDArray[np.float64]
    enough: NDArray[np.bool_]
    start_us: int

    @classmethod
    def of(cls, series: Series) -> "Rival":
        """Return the z-scores of a series."""
        usd = series.usd_per_minute()
        return cls(scores(usd), matters(usd), series.start_us)

    def alerts(self, bound: float, *, fair: bool) -> list[Raised]:
        """Return alerts where |z| is above the bound; hits up to three minutes apart are one. Told as a minute ends."""
        raised = []
        for sign, facet in ((1, "up"), (-1, "down")):
            hot = sign * self.z > bound
            if fair:
                hot &= self.enough
                hot[:, 1:] &= hot[:, :-1].copy()
            raised += self._merged(hot, facet)
        return raised

    def _merged(self, hot: NDArray[np.bool_], facet: str) -> list[Raised]:
        raised: list[Raised] = []
        for group, minute in zip(*np.nonzero(hot), strict=True):
            open_us, end_us = (int(self.start_us + (minute + part) * MINUTE_US) for part in (0, 1))
            last = raised[-1] if raised else None
            if last and last.group == group and open_us - last.ended_us <= _MERGE * MINUTE_US:
                last.ended_us = end_us
            else:
                raised.append(Raised(int(group), facet, open_us, end_us, end_us))
        return raised


def tuned(calm: Sequence[Rival], most: int, *, fair: bool) -> float:
    """Return the least bound, in steps of 10%, with at most so many alerts on calm series altogether."""
    bound = 3.0
    while sum(len(one.alerts(bound, fair=fair)) for one in calm) > most and bound < 1000:
        bound *= 1.1
    return bound
