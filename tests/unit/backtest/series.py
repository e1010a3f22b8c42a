"""Small series with a known truth, as a CSV has them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from spendstream.backtest.series import Columns, Quantity, Rows, read_rows
from spendstream.intake import RowError

BEGAN = datetime(2026, 3, 2, tzinfo=UTC)
SPEND = """
version: 1
watches:
  - name: spend
    group_by: [feature]
    rule: {kind: anomaly, measure: cost}
"""


def calm(minutes: int, seed: int = 1, usd: float = 2.0) -> list[float]:
    """Spend of even noise, 5% around ``usd`` a minute."""
    return [float(value) for value in usd * np.random.default_rng(seed).normal(1, 0.05, minutes).clip(0.7, 1.3)]


def with_incident(values: list[float], start: int, end: int, times: float = 4.0) -> list[float]:
    return [value * times if start <= at < end else value for at, value in enumerate(values)]


def write(path: Path, values: list[float], *, step: int = 1, feature: str = "chat", append: bool = False) -> Path:
    """Write values as rows ``at,feature,usd``, ``step`` minutes apart."""
    with path.open("a" if append else "w") as out:
        if not append:
            out.write("at,feature,usd\n")
        for number, value in enumerate(values):
            out.write(f"{(BEGAN + timedelta(minutes=number * step)).isoformat()},{feature},{value:.6f}\n")
    return path


def read(
    path: Path,
    *,
    on_error: Callable[[RowError], None] = lambda error: None,
    calls: str | None = None,
    quantity: Quantity = "cost",
) -> Rows:
    return read_rows(path, Columns("at", "usd", {"feature": "feature"}, calls, quantity), on_error)
