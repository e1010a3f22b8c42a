"""Detectors on a simulated clock.

A series of whole minutes has one lane. Of a coarser one, the baseline of an anomaly rule would learn from minutes that
nobody measured; so anomaly rules go in a lane of their own, where a step passes as a minute and the value is the step's
mean rate. Budgets and thresholds stay in real time, the step's total spread evenly, to the last pico-dollar.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from spendstream.backtest.feed import MINUTE_S, Part, Step
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.finding import CLOSE_AFTER_US
from spendstream.core.detect.rollups import Changes
from spendstream.core.timestamps import MINUTE_US, US, epoch_us, from_epoch_us
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import AnomalyRule, Watches

CLOSES_S: Final = CLOSE_AFTER_US // US + 1
"""Seconds after a minute's end at which it is judged as closed."""

_TIDY_EVERY: Final = 60
"""Minutes."""


class Observer(Protocol):
    """Looks on while a lane goes through its minutes."""

    def minute(self, lane: "Lane", minute_us: int, parts: Sequence[Part]) -> None:
        """See a minute whose totals are all taken in, before it closes. Both in the lane's time."""
        ...


@dataclass(frozen=True)
class Pace:
    """How a lane's time goes: ``step_us`` of the world pass as one of its minutes, from ``start_us`` on.

    With steps of one minute its time is the world's.
    """

    start_us: int
    step_us: int

    def inside(self, open_us: int) -> int:
        """Return the lane's minute for a step of the world."""
        return self.start_us + (open_us - self.start_us) // self.step_us * MINUTE_US

    def outside(self, at_us: int) -> int:
        """Return when that is in the world; seconds after a step's end stay seconds."""
        steps, rest = divmod(at_us - self.start_us, MINUTE_US)
        return self.start_us + steps * self.step_us + rest


class Lane:
    """One detector and its clock. ``has_reasons``: whether changes are explained; else reasons would be made up."""

    def __init__(self, watches: Watches, dimensions: tuple[str, ...], pace: Pace, *, has_reasons: bool = True) -> None:
        self.watches = watches
        self.pace = pace
        self.detector = Detector(dimensions, keep_s=0, explains=has_reasons)
        self.detector.configure(watches)
        self._minutes = 0

    def minute(self, minute_us: int, parts: Sequence[Part], observers: Iterable[Observer] = ()) -> list[Alert]:
        """Go through a minute of the lane: what comes in it, and the close of the one before. Returns transitions."""
        at_s = sorted({CLOSES_S, MINUTE_S, *(part.known_s for part in parts)})
        found = []
        for second in at_s:
            now_us = minute_us + second * US
            for part in parts:
                if part.known_s == second:
                    self.detector.take(self._changes(minute_us, part), now_us)
            if second == MINUTE_S:
                for observer in observers:
                    observer.minute(self, minute_us, parts)
            found += self._decide(now_us)
        self._minutes += 1
        if self._minutes % _TIDY_EVERY == 0:
            self.detector.tidy(minute_us + MINUTE_US)
        return found

    def finish(self, end_us: int) -> list[Alert]:
        """Close the last minute, which ended at ``end_us`` of the lane."""
        return self._decide(end_us + CLOSES_S * US)

    def _decide(self, now_us: int) -> list[Alert]:
        decided = self.detector.decide(now_us, is_live=True)
        self.detector.published(decided)
        return [self._told(alert) for alert in decided]

    def _changes(self, minute_us: int, part: Part) -> Changes:
        combinations = [self.detector.book.combination(values) for values in part.members]
        minutes = np.full(len(combinations), minute_us, dtype=np.int64)
        return Changes(np.array(combinations, dtype=np.int64), minutes, part.sums)

    def _told(self, alert: Alert) -> Alert:
        """Return an alert in the world's time."""
        if self.pace.step_us == MINUTE_US:
            return alert
        times = {name: self._world(getattr(alert, name)) for name in ("started_at", "at", "ends_at", "notified_at")}
        return alert.model_copy(update=times)

    def _world(self, at: datetime | None) -> datetime | None:
        return None if at is None else from_epoch_us(self.pace.outside(epoch_us(at)))


class Lanes:
    """All lanes of a run, step by step."""

    def __init__(
        self, watches: Watches, dimensions: tuple[str, ...], start_us: int, step_us: int, *, has_reasons: bool
    ) -> None:
        self._step_us = step_us
        self._minutes = step_us // MINUTE_US
        self._real: Lane | None = None
        self._stepped: Lane | None = None
        world = Pace(start_us, MINUTE_US)
        if step_us == MINUTE_US:
            self._real = Lane(watches, dimensions, world, has_reasons=has_reasons)
            return
        anomalies = [watch for watch in watches.watches if isinstance(watch.rule, AnomalyRule)]
        others = [watch for watch in watches.watches if not isinstance(watch.rule, AnomalyRule)]
        if anomalies:
            chosen = watches.model_copy(update={"watches": tuple(anomalies)})
            self._stepped = Lane(chosen, dimensions, Pace(start_us, step_us), has_reasons=has_reasons)
        if others:
            chosen = watches.model_copy(update={"watches": tuple(others)})
            self._real = Lane(chosen, dimensions, world, has_reasons=has_reasons)

    @property
    def all(self) -> list[Lane]:
        """Every lane."""
        return [lane for lane in (self._stepped, self._real) if lane is not None]

    def step(self, step: Step, observers: Iterable[Observer] = ()) -> list[Alert]:
        """Go through a step. Returns the transitions of all lanes, by time."""
        found: list[Alert] = []
        if self._stepped is not None:
            rates = [Part(MINUTE_S, part.members, _rate(part.sums, self._minutes)) for part in step.parts]
            found += self._stepped.minute(self._stepped.pace.inside(step.open_us), rates, observers)
        if self._real is not None:
            for at in range(self._minutes):
                parts = step.parts if self._minutes == 1 else [_share(part, at, self._minutes) for part in step.parts]
                found += self._real.minute(step.open_us + at * MINUTE_US, parts, observers)
        return sorted(found, key=_order)

    def finish(self, end_us: int) -> list[Alert]:
        """Close the last step, which ended at ``end_us``."""
        found = [alert for lane in self.all for alert in lane.finish(lane.pace.inside(end_us))]
        return sorted(found, key=_order)


def _rate(sums: NDArray[np.int64], minutes: int) -> NDArray[np.int64]:
    """Return a step's sums as a mean per minute."""
    means: NDArray[np.int64] = (sums + minutes // 2) // minutes
    return means


def _share(part: Part, at: int, minutes: int) -> Part:
    """Return the share of a step's minute number ``at``; all of them sum to the whole."""
    shares = part.sums // minutes + (at < part.sums % minutes)
    return Part(MINUTE_S, part.members, shares)


def _order(alert: Alert) -> tuple[datetime, str]:
    return alert.at, alert.watch
