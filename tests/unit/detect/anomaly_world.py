"""One evaluator and its clock, for the tests of the anomaly rule. Time is counted in minutes from START_US."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from spendstream.core.detect.anomaly import AnomalyEvaluator
from spendstream.core.detect.finding import Arrays, Finding, Groups, Level, Updates
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.measures import COLUMN, SUMS
from spendstream.schemas.watch import AnomalyRule, Watch

START_US = 1_772_409_600 * US
CENT = 10_000_000_000


def minute(at: float) -> int:
    return START_US + int(at * MINUTE_US)


class World:
    """One evaluator and its clock. Calls cost a cent each unless stated otherwise."""

    def __init__(self, groups: int = 1, **rule: Any) -> None:
        self.rule = AnomalyRule(kind="anomaly", **rule)
        self.groups = Groups(Watch(name="w", group_by=("service",), rule=self.rule), ("service",))
        for group in range(groups):
            self.groups.number((f"s{group}",))
        self.evaluator = AnomalyEvaluator(self.rule, self.groups)
        self.draw = np.random.default_rng(7)

    def add(self, at: float, calls: int, cents: float = 1.0, group: int = 0, **sums: int) -> None:
        """Add calls to the minute that is running at ``at``, read at that moment."""
        row = np.zeros((1, len(SUMS)), dtype=np.int64)
        row[0, COLUMN["calls"]] = calls
        row[0, COLUMN["cost_pusd"]] = int(calls * cents * CENT)
        for name, value in sums.items():
            row[0, COLUMN[name]] = value
        now_us = minute(at)
        updates = Updates(np.array([group]), np.array([now_us - now_us % MINUTE_US]), row)
        self.evaluator.apply(updates, now_us)

    def look(self, at: float) -> dict[tuple[int, str], Finding]:
        return by_facet(self.evaluator.findings(minute(at)))

    def steady(self, first: int, last: int, calls: int = 100, cents: float = 1.0, hold: bool = True) -> None:
        """Play minutes ``[first, last)``, 5% noise, held while firing, and read the findings at the end of each."""
        for at in range(first, last):
            noisy = int(self.draw.normal(calls, 0.05 * calls)) if calls else 0
            if noisy:
                self.add(at + 0.5, noisy, cents)
            found = self.look(at + 1)
            if hold:
                self.evaluator.hold({key[0] for key, one in found.items() if one.level is Level.FIRING})


def by_facet(findings: Iterable[Finding]) -> dict[tuple[int, str], Finding]:
    found = {(finding.group, finding.facet): finding for finding in findings}
    return found


@cache
def history(minutes: int, **rule: Any) -> Arrays:
    world = World(**rule)
    world.steady(0, minutes)
    return world.evaluator.snapshot()


def settled(minutes: int = 120, **rule: Any) -> World:
    """Return a world after this many steady minutes, played once for each rule."""
    world = World(**rule)
    world.evaluator.restore(history(minutes, **rule))
    return world


def level(found: dict[tuple[int, str], Finding], facet: str, group: int = 0) -> Level | None:
    return found[group, facet].level if (group, facet) in found else None
