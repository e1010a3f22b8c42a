"""Why an alert's spend changed, and what it adds up to if it goes on: from the newest minutes and the profiles."""

from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.attribution import Cube, Profiles, attribute
from spendstream.core.detect.lifecycle import Case, Why
from spendstream.core.detect.recent import RecentMinutes
from spendstream.core.detect.rollups import RollupBook
from spendstream.core.timestamps import MINUTE_US, from_epoch_us
from spendstream.schemas.alert import Projection, usd
from spendstream.schemas.watch import AnomalyRule

MIN_RUNNING: Final = 1 / 6
"""Of a minute: a running minute counts as at least this much, so that its first calls don't look like a flood."""


class Reasons:
    """Finds an alert's reasons. ``book`` names the combinations that ``recent`` and ``profiles`` number."""

    def __init__(self, book: RollupBook, recent: RecentMinutes, profiles: Profiles) -> None:
        self._book = book
        self._recent = recent
        self._profiles = profiles

    def of(self, case: Case, wanted: NDArray[np.bool_], now_us: int) -> Why:
        """Return the reasons of a case. ``wanted``: for each combination, whether it belongs to the group."""
        finding = case.finding
        if finding.facet == "no_data" or not wanted.any():
            return Why()
        since_us = finding.since_us if finding.budget is None else 0
        minutes = self._recent.evidence(since_us, now_us)
        if not minutes:
            return Why()
        observed = self._observed(minutes, wanted, now_us)
        attribution = attribute(
            observed,
            self._expected(wanted),
            self._book.dimensions,
            case.watch.group_by,
            expected_usd_per_minute=self._expectation(case),
        )
        return Why(attribution, self._projection(case, now_us))

    def _observed(self, minutes: list[int], wanted: NDArray[np.bool_], now_us: int) -> Cube:
        """Return the calls of the minutes. The running minute counts by the part that has passed, at least a sixth."""
        members, sums = self._recent.of(minutes, wanted)
        running = min(max((now_us - minutes[-1]) / MINUTE_US, MIN_RUNNING), 1.0)
        spanned = len(minutes) - 1 + running
        return Cube([self._book.combinations[m] for m in members.tolist()], sums, spanned)

    def _expected(self, wanted: NDArray[np.bool_]) -> Cube:
        rows = [self._profiles.combination(self._book.combinations[m]) for m in np.flatnonzero(wanted).tolist()]
        return self._profiles.expected(np.array(rows, dtype=np.int64))

    def _expectation(self, case: Case) -> float | None:
        is_spend = isinstance(case.watch.rule, AnomalyRule) and case.watch.rule.measure == "cost"
        return case.finding.expected if is_spend else None

    def _projection(self, case: Case, now_us: int) -> Projection | None:
        """Return what the excess adds up to if every minute until then costs as much as this one."""
        finding = case.finding
        if finding.unit != "USD/min" or finding.expected is None or finding.observed <= finding.expected:
            return None
        excess, now = finding.observed - finding.expected, from_epoch_us(now_us)
        hour = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return Projection(
            excess_by_end_of_hour_usd=usd(excess * _minutes(now, hour)),
            excess_by_end_of_month_usd=usd(excess * _minutes(now, _next_month(now))),
        )


def _minutes(start: datetime, end: datetime) -> float:
    return (end - start) / timedelta(minutes=1)


def _next_month(now: datetime) -> datetime:
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1)
