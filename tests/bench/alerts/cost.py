"""Memory and CPU at 100,000 groups, beside the z-score's."""

import time
from typing import NamedTuple

import numpy as np

from spendstream.core.detect.finding import Updates
from spendstream.core.detect.measures import CALLS, SPEND
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import SUMS
from spendstream.schemas.watch import AnomalyRule
from tests.bench.alerts.drive import Drive
from tests.bench.alerts.rival import WINDOW
from tests.bench.alerts.traffic import MONDAY_US

GROUPS = 100_000
_HOURS = 7  # long enough for every group to have its table of the week
_BATCH = 5_000


class Cost(NamedTuple):
    """Bytes per group; CPU µs per update (a row) with and without a look after each batch; per minute and group."""

    bytes_per_group: float
    us_per_update: float
    us_per_look_row: float
    us_per_minute: float
    us_idle_look: float


def measure() -> Cost:
    """Measure the evaluator with every group busy every minute, in CPU time."""
    draw = np.random.default_rng(5)
    evaluator = Drive.of(AnomalyRule(kind="anomaly"), GROUPS).evaluator
    spent = {"apply": 0.0, "look": 0.0, "close": 0.0}
    sums = np.zeros((GROUPS, len(SUMS)), dtype=np.int64)
    order = np.arange(GROUPS)
    minutes = _HOURS * 60
    for minute in range(minutes):
        if minute % 60 in (0, 30):
            sums[:, CALLS] = draw.poisson(5, GROUPS)
            sums[:, SPEND] = sums[:, CALLS] * 10_000_000_000
        open_us = MONDAY_US + minute * MINUTE_US
        for at in range(0, GROUPS, _BATCH if minute >= minutes - 5 else GROUPS):
            part = slice(at, at + (_BATCH if minute >= minutes - 5 else GROUPS))
            updates = Updates(order[part], np.full(len(order[part]), open_us), sums[part])
            spent["apply"] += _timed(lambda u=updates, t=open_us: evaluator.apply(u, t))
            if minute >= minutes - 5:
                spent["look"] += _timed(lambda t=open_us: evaluator.findings(t))
        spent["close"] += _timed(lambda t=open_us: evaluator.findings(t + MINUTE_US + 16_000_000))
    idle = min(_timed(lambda: evaluator.findings(0)) for _ in range(20))
    rows = minutes * GROUPS
    return Cost(
        evaluator.nbytes / GROUPS,
        spent["apply"] / rows * 1e6,
        spent["look"] / (5 * GROUPS) * 1e6,
        spent["close"] / rows * 1e6,
        idle * 1e6,
    )


def _timed(work) -> float:  # type: ignore[no-untyped-def]
    begun = time.process_time()
    work()
    return time.process_time() - begun


def rival() -> tuple[float, float]:
    """Return bytes per group and CPU µs per minute and group of the moving window, vectorised over groups."""
    window = np.random.default_rng(5).random((WINDOW, GROUPS))
    total, squares = window.sum(axis=0), np.square(window).sum(axis=0)
    hits = np.zeros(GROUPS, dtype=np.int64)
    begun = time.process_time()
    for minute in range(60):
        usd = window[(minute + 7) % WINDOW].copy()
        mean = total / WINDOW
        hits += np.abs(usd - mean) > 3 * np.sqrt(np.maximum(squares / WINDOW - mean * mean, 0))
        old = window[minute % WINDOW]
        total += usd - old
        squares += usd * usd - old * old
        window[minute % WINDOW] = usd
    return (window.nbytes + total.nbytes + squares.nbytes) / GROUPS, (time.process_time() - begun) / 60 / GROUPS * 1e6
