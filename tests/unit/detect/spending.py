"""Groups and their spend, for tests of the rules."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from spendstream.core.detect.finding import Evaluator, Finding, Groups, Updates
from spendstream.core.money import PUSD
from spendstream.core.timestamps import epoch_us
from spendstream.schemas.measures import COLUMN, COST, SUMS
from spendstream.schemas.watch import Watch

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def at(text: str, zone: str = "UTC") -> int:
    """``at("2026-03-01 12:00")`` as µs since 1970."""
    return epoch_us(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


def groups(*features: str, rule: dict[str, Any] | None = None) -> Groups:
    """Groups by feature, numbered in the order given."""
    watch = Watch(name="w", group_by=("feature",), rule=rule or {"kind": "budget", "amount_usd": 1})
    known = Groups(watch, ("feature", "model"))
    for feature in features or ("chat",):
        known.number((feature,))
    return known


def updates(rows: Iterable[tuple[int, int, dict[str, int]]]) -> Updates:
    """From (group, time, measures): each is added to the minute of its time."""
    listed = list(rows)
    sums = np.zeros((len(listed), len(SUMS)), dtype=np.int64)
    for row, (_, _, measures) in enumerate(listed):
        for name, value in measures.items():
            sums[row, COLUMN[name]] = value
    return Updates(
        np.array([group for group, _, _ in listed], dtype=np.int64),
        np.array([time // MINUTE * MINUTE for _, time, _ in listed], dtype=np.int64),
        sums,
    )


def usd(amount: float) -> dict[str, int]:
    """One call that costs this many dollars."""
    return {"calls": 1, COST: round(amount * PUSD)}


def spend(evaluator: Evaluator, time: int, amount: float, *, group: int = 0, now: int | None = None) -> None:
    """A group spends; the clock is at that time, or at ``now``."""
    evaluator.apply(updates([(group, time, usd(amount))]), time if now is None else now)


def found(evaluator: Evaluator, now: int) -> dict[str, Finding]:
    """The findings by facet; a test with several groups reads them itself."""
    return {finding.facet: finding for finding in evaluator.findings(now)}
