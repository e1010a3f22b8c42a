"""The usual first idea, on the same series: a z-score against the moving mean of the last hour, minute by minute."""

import numpy as np
from numpy.typing import NDArray

from streams.core.clock import MINUTE_US
from tests.bench.alerts.drive import Raised

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


def alerts(z: NDArray[np.float64], bound: float, start_us: int) -> list[Raised]:
    """Return alerts where |z| is above the bound; hits up to three minutes apart are one. Told as the minute ends."""
    raised = []
    for group, minute in zip(*np.nonzero(np.abs(z) > bound), strict=True):
        open_us, end_us = start_us + minute * MINUTE_US, start_us + (minute + 1) * MINUTE_US
        facet = "up" if z[group, minute] > 0 else "down"
        last = raised[-1] if raised else None
        if last and (last.group, last.facet) == (group, facet) and open_us - last.ended_us <= _MERGE * MINUTE_US:
            last.ended_us = end_us
        else:
            raised.append(Raised(int(group), facet, int(open_us), int(end_us), int(end_us)))
    return raised


def tuned(z: NDArray[np.float64], most: int, start_us: int) -> float:
    """Return the least bound, in steps of 5%, with at most so many alerts on a calm series."""
    bound = 3.0
    while len(alerts(z, bound, start_us)) > most and bound < 1000:
        bound *= 1.05
    return bound
