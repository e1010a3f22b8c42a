"""Why an alert's spend changed, and what it adds up to if it goes on: from the newest minutes and the profiles."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.attribution import Cube, Profiles, attribute
from spendstream.core.detect.finding import CLOSE_AFTER_US, Arrays
from spendstream.core.detect.lifecycle import Case, Why
from spendstream.core.detect.measures import by_measure_of_today
from spendstream.core.detect.rollups import Changes, RollupBook
from spendstream.core.timestamps import MINUTE_US, from_epoch_us
from spendstream.schemas.alert import Projection, usd
from spendstream.schemas.measures import SUMS
from spendstream.schemas.watch import AnomalyRule

KEPT_MINUTES: Final = 8


class _Minute:
    """The sums of one minute, a row a combination."""

    def __init__(self) -> None:
        self.members = np.zeros(0, dtype=np.int64)
        self.sums = np.zeros((0, len(SUMS)), dtype=np.int64)

    def add(self, members: NDArray[np.int64], sums: NDArray[np.int64]) -> None:
        unique, where = np.unique(members, return_inverse=True)
        merged = np.union1d(self.members, unique)
        if len(merged) > len(self.members):
            grown = np.zeros((len(merged), len(SUMS)), dtype=np.int64)
            grown[np.searchsorted(merged, self.members)] = self.sums
            self.members, self.sums = merged, grown
        np.add.at(self.sums, np.searchsorted(self.members, unique)[where], sums)


class RecentMinutes:
    """Sums of the newest ``KEPT_MINUTES`` minutes before the detection clock, and of those ahead of it.

    Memory: about 350 bytes a combination and minute.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, _Minute] = {}
        self._closed_through = 0
        self._late: dict[int, _Minute] = {}
        """What was added to minutes after they had closed; yielded with the next."""

    def add(self, changes: Changes, now_us: int) -> None:
        """Add changes. Those older than the kept minutes are dropped."""
        oldest = now_us - KEPT_MINUTES * MINUTE_US
        for minute_us in np.unique(changes.minutes_us).tolist():
            if minute_us >= oldest:
                mine = changes.minutes_us == minute_us
                self._minutes.setdefault(minute_us, _Minute()).add(changes.combinations[mine], changes.sums[mine])
                if minute_us <= self._closed_through:
                    self._late.setdefault(minute_us, _Minute()).add(changes.combinations[mine], changes.sums[mine])

    def close(self, now_us: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each minute that has closed since the last call: its open, the combinations in it, their sums.

        Before these, what arrived late for minutes that had closed already.
        """
        last = (now_us - CLOSE_AFTER_US) // MINUTE_US * MINUTE_US - MINUTE_US
        late, self._late = self._late, {}
        for minute_us, minute in sorted(late.items()):
            yield minute_us, minute.members, minute.sums
        if not self._closed_through:  # the time before the first call is unknown, not empty
            if not self._minutes:
                return
            self._closed_through = min(self._minutes) - MINUTE_US
        first = max(self._closed_through + MINUTE_US, last - (KEPT_MINUTES - 1) * MINUTE_US)
        for minute_us in range(first, last + 1, MINUTE_US):
            minute = self._minutes.get(minute_us, _Minute())
            yield minute_us, minute.members, minute.sums
        self._closed_through = max(self._closed_through, last)
        for minute_us in [m for m in self._minutes if m < now_us - (KEPT_MINUTES + 1) * MINUTE_US]:
            del self._minutes[minute_us]

    def evidence(self, since_us: int, now_us: int, most: int = 3) -> list[int]:
        """Return the minutes that show what is happening: the last closed ones since then, else the running one."""
        closed_before = now_us - CLOSE_AFTER_US - MINUTE_US
        known = sorted(minute for minute in self._minutes if minute >= since_us)
        closed = [minute for minute in known if minute <= closed_before]
        return closed[-most:] or known[:1]

    def of(self, minutes: list[int], wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the combinations among ``wanted`` (a flag for each number) and their sums over some minutes."""
        whole = _Minute()
        for minute_us in minutes:
            minute = self._minutes.get(minute_us)
            if minute is not None:
                mine = wanted[minute.members]
                whole.add(minute.members[mine], minute.sums[mine])
        return whole.members, whole.sums

    def members(self) -> NDArray[np.int64]:
        """Return every combination of the kept minutes."""
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(m.members for m in self._minutes.values())]))

    def snapshot(self) -> Arrays:
        """Return all of the state."""
        return {
            "closed_through": np.array([self._closed_through], dtype=np.int64),
            "measures": np.array(SUMS, dtype=np.str_),
            **_columns("", self._minutes),
            **_columns("late_", self._late),
        }

    def restore(self, arrays: Arrays, numbers: NDArray[np.int64]) -> None:
        """Restore a snapshot's state. ``numbers``: the combinations' present numbers by those of the snapshot."""
        self._closed_through = int(arrays["closed_through"][0])
        for prefix, minutes in (("", self._minutes), ("late_", self._late)):
            opens = arrays[f"{prefix}minutes"].astype(np.int64)
            sums = by_measure_of_today(arrays[f"{prefix}sums"], arrays["measures"].tolist())
            for minute_us in np.unique(opens).tolist():
                mine = opens == minute_us
                members = numbers[arrays[f"{prefix}members"][mine].astype(np.int64)]
                minutes.setdefault(minute_us, _Minute()).add(members, sums[mine])


def _columns(prefix: str, minutes: Mapping[int, _Minute]) -> Arrays:
    opens = sorted(minutes)
    members = [minutes[minute].members for minute in opens]
    sums = [minutes[minute].sums for minute in opens]
    return {
        f"{prefix}minutes": np.repeat(np.array(opens, dtype=np.int64), [len(m) for m in members]),
        f"{prefix}members": np.concatenate([np.zeros(0, dtype=np.int64), *members]),
        f"{prefix}sums": np.concatenate([np.zeros((0, len(SUMS)), dtype=np.int64), *sums]),
    }


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
        members, sums = self._recent.of(minutes, wanted)
        running = min(max((now_us - minutes[-1]) / MINUTE_US, MIN_RUNNING), 1.0)  # the part of it that has passed
        observed = Cube([self._book.combinations[m] for m in members.tolist()], sums, len(minutes) - 1 + running)
        rule = case.watch.rule
        is_spend = isinstance(rule, AnomalyRule) and rule.measure == "cost"
        rows = [self._profiles.combination(self._book.combinations[m]) for m in np.flatnonzero(wanted).tolist()]
        attribution = attribute(
            observed,
            self._profiles.expected(np.array(rows, dtype=np.int64)),
            self._book.dimensions,
            case.watch.group_by,
            expected_usd_per_minute=finding.expected if is_spend else None,
        )
        return Why(attribution, self._projection(case, now_us))

    def _projection(self, case: Case, now_us: int) -> Projection | None:
        """Return what the excess adds up to if every minute until then costs as much as this one."""
        finding = case.finding
        if finding.unit != "USD/min" or finding.expected is None or finding.observed <= finding.expected:
            return None
        excess, now = finding.observed - finding.expected, from_epoch_us(now_us)
        hour = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        midnight = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        month = (midnight + timedelta(days=32)).replace(day=1)
        return Projection(
            excess_by_end_of_hour_usd=usd(excess * _minutes(now, hour)),
            excess_by_end_of_month_usd=usd(excess * _minutes(now, month)),
        )


def _minutes(start: datetime, end: datetime) -> float:
    return (end - start) / timedelta(minutes=1)
