"""Watches over a series: every transition that they would have made, on a simulated clock.

One detector judges a series of whole minutes. In a coarser series, the baseline of an anomaly rule would learn from
minutes that nobody measured, so anomaly rules get a detector of their own: a step passes as a minute there, with the
step's mean rate as its value. Budgets and thresholds stay in real time: the step's total is spread evenly over its
minutes, to the last pico-dollar.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

import numpy as np

from spendstream.backtest.series import MINUTE_S, BacktestError, Increment, Series, Step
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.finding import CLOSE_AFTER_US
from spendstream.core.detect.rollups import Changes
from spendstream.core.timestamps import MINUTE_US, US, epoch_us, from_epoch_us
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Measure, Watch, Watches

MAX_MINUTES: Final = 1_100_000
"""Two years of minutes: a longer span is more likely a mistyped time."""

OnProgress = Callable[[int], None]
"""Receives the time that has been reached, in µs since 1970."""

CLOSES_S: Final = CLOSE_AFTER_US // US + 1
"""Seconds after a minute's end at which it counts as closed."""

_TIDY_EVERY_MINUTES: Final = 60


class Observer(Protocol):
    """Watches a simulated detector go through its minutes."""

    def minute(self, simulated: "SimulatedDetector", minute_us: int, increments: Sequence[Increment]) -> None:
        """See a minute once all its totals are known, and before it closes. ``minute_us``: simulated time."""
        ...


@dataclass(frozen=True)
class SimulatedClock:
    """A clock on which ``step_us`` of real time pass as one minute, from ``start_us`` on.

    With steps of one minute, simulated time is real time.
    """

    start_us: int
    step_us: int

    def simulated(self, open_us: int) -> int:
        """Return the simulated minute of a step that opens at a real time."""
        return self.start_us + (open_us - self.start_us) // self.step_us * MINUTE_US

    def real(self, at_us: int) -> int:
        """Return the real time of a simulated one; seconds after a step's end stay seconds."""
        steps, rest = divmod(at_us - self.start_us, MINUTE_US)
        return self.start_us + steps * self.step_us + rest


class SimulatedDetector:
    """One detector on a simulated clock. ``has_reasons``: whether the series has what explains a change."""

    def __init__(
        self, watches: Watches, dimensions: tuple[str, ...], clock: SimulatedClock, *, has_reasons: bool = True
    ) -> None:
        self.watches = watches
        self.clock = clock
        self.detector = Detector(dimensions, keep_s=0, explains=has_reasons)
        self.detector.configure(watches)
        self._minutes = 0

    def minute(
        self, minute_us: int, increments: Sequence[Increment], observers: Iterable[Observer] = ()
    ) -> list[Alert]:
        """Go through one simulated minute and close the one before. Returns the transitions, in real time."""
        at_s = sorted({CLOSES_S, MINUTE_S, *(increment.known_s for increment in increments)})
        found = []
        for second in at_s:
            now_us = minute_us + second * US
            for increment in increments:
                if increment.known_s == second:
                    self.detector.take(self._changes(minute_us, increment), now_us)
            if second == MINUTE_S:
                for observer in observers:
                    observer.minute(self, minute_us, increments)
            found += self._decide(now_us)
        self._minutes += 1
        if self._minutes % _TIDY_EVERY_MINUTES == 0:
            self.detector.tidy(minute_us + MINUTE_US)
        return found

    def finish(self, end_us: int) -> list[Alert]:
        """Close the last minute, which ended at the simulated time ``end_us``."""
        return self._decide(end_us + CLOSES_S * US)

    def _decide(self, now_us: int) -> list[Alert]:
        decided = self.detector.decide(now_us, is_live=True)
        self.detector.published(decided)
        if self.clock.step_us == MINUTE_US:
            return decided
        names = ("started_at", "at", "ends_at", "notified_at")
        return [
            alert.model_copy(update={name: self._real(getattr(alert, name)) for name in names}) for alert in decided
        ]

    def _changes(self, minute_us: int, increment: Increment) -> Changes:
        combinations = [self.detector.book.combination(values) for values in increment.members]
        minutes = np.full(len(combinations), minute_us, dtype=np.int64)
        return Changes(np.array(combinations, dtype=np.int64), minutes, increment.sums)

    def _real(self, at: datetime | None) -> datetime | None:
        return None if at is None else from_epoch_us(self.clock.real(epoch_us(at)))


class SimulatedDetectors:
    """All detectors of a run, step by step."""

    def __init__(
        self, watches: Watches, dimensions: tuple[str, ...], start_us: int, step_us: int, *, has_reasons: bool
    ) -> None:
        self._step_us = step_us
        self._minutes = step_us // MINUTE_US
        self._real: SimulatedDetector | None = None
        self._stepped: SimulatedDetector | None = None
        real_time = SimulatedClock(start_us, MINUTE_US)
        if step_us == MINUTE_US:
            self._real = SimulatedDetector(watches, dimensions, real_time, has_reasons=has_reasons)
            return
        anomalies = [watch for watch in watches.watches if isinstance(watch.rule, AnomalyRule)]
        others = [watch for watch in watches.watches if not isinstance(watch.rule, AnomalyRule)]
        if anomalies:
            chosen = watches.model_copy(update={"watches": tuple(anomalies)})
            self._stepped = SimulatedDetector(
                chosen, dimensions, SimulatedClock(start_us, step_us), has_reasons=has_reasons
            )
        if others:
            chosen = watches.model_copy(update={"watches": tuple(others)})
            self._real = SimulatedDetector(chosen, dimensions, real_time, has_reasons=has_reasons)

    @property
    def all(self) -> list[SimulatedDetector]:
        """Every detector."""
        return [simulated for simulated in (self._stepped, self._real) if simulated is not None]

    def step(self, step: Step, observers: Iterable[Observer] = ()) -> list[Alert]:
        """Go through a step. Returns the transitions of all detectors, by time."""
        found: list[Alert] = []
        if self._stepped is not None:
            rates = [
                # The mean of the step's sums per minute, rounded.
                Increment(MINUTE_S, increment.members, (increment.sums + self._minutes // 2) // self._minutes)
                for increment in step.increments
            ]
            found += self._stepped.minute(self._stepped.clock.simulated(step.open_us), rates, observers)
        if self._real is not None:
            for at in range(self._minutes):
                increments = (
                    step.increments
                    if self._minutes == 1
                    else [_share(increment, at, self._minutes) for increment in step.increments]
                )
                found += self._real.minute(step.open_us + at * MINUTE_US, increments, observers)
        return sorted(found, key=_order)

    def finish(self, end_us: int) -> list[Alert]:
        """Close the last step, which ended at ``end_us``."""
        found = [alert for simulated in self.all for alert in simulated.finish(simulated.clock.simulated(end_us))]
        return sorted(found, key=_order)


def _share(increment: Increment, at: int, minutes: int) -> Increment:
    """Return the share of minute number ``at`` of a step. All shares sum to the whole."""
    shares = increment.sums // minutes + (at < increment.sums % minutes)
    return Increment(MINUTE_S, increment.members, shares)


def _order(alert: Alert) -> tuple[datetime, str]:
    return alert.at, alert.watch


@dataclass
class Summary:
    """The result of a run. ``alerts``: fired, by watch. ``suspected``: became pending."""

    minutes: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    alerts: Counter[str] = field(default_factory=Counter)
    suspected: int = 0
    still_firing: int = 0


class Backtest:
    """Runs watches over a series.

    ``skipped``: watches whose measure the series does not have. Raises: BacktestError, where none is left, or the span
    is too long.
    """

    def __init__(self, series: Series, watches: Watches) -> None:
        self.series = series
        judged = [watch for watch in watches.watches if _measures(watch) <= series.measures]
        self.skipped = [watch for watch in watches.watches if watch not in judged]
        if not judged:
            wanted = ", ".join(sorted({measure for watch in self.skipped for measure in _measures(watch)}))
            has = ", ".join(sorted(series.measures))
            raise BacktestError(f"no watch fits the series: the watches need {wanted}; the series has {has}")
        self.watches = watches.model_copy(update={"watches": tuple(judged)})
        self.summary = Summary()
        stays_real = any(not isinstance(watch.rule, AnomalyRule) for watch in judged)
        minutes = (series.end_us - series.start_us) // (MINUTE_US if stays_real else series.step_us)
        if minutes > MAX_MINUTES:
            first, last = from_epoch_us(series.start_us), from_epoch_us(series.end_us)
            raise BacktestError(
                f"the span from {first:%Y-%m-%d} to {last:%Y-%m-%d} has {minutes:,} minutes, "
                f"more than {MAX_MINUTES:,}: check for a mistyped time, and the unit in --time-format"
            )

    def run(
        self, observers: Sequence[Observer] = (), on_progress: OnProgress | None = None, *, explains: bool = True
    ) -> Iterator[Alert]:
        """Yield every transition, by time. ``summary`` is complete after the last.

        ``explains``: give reasons, if the series has any; finding them takes most of the time of a firing alert.
        """
        series, self.summary = self.series, Summary()
        reasons = explains and series.has_reasons
        detectors = SimulatedDetectors(
            self.watches, series.dimensions, series.start_us, series.step_us, has_reasons=reasons
        )
        for step in _without_gaps(series):
            yield from self._counted(detectors.step(step, observers))
            self.summary.minutes += series.step_us // MINUTE_US
            if on_progress is not None:
                on_progress(step.open_us + series.step_us)
        yield from self._counted(detectors.finish(series.end_us))
        for simulated in detectors.all:
            self.summary.groups |= simulated.detector.group_count()
            opened = simulated.detector.lifecycle.open_alerts()
            self.summary.still_firing += sum(alert.state == "firing" for alert in opened)

    def _counted(self, alerts: list[Alert]) -> list[Alert]:
        for alert in alerts:
            if alert.transition == "firing":
                self.summary.alerts[alert.watch] += 1
            self.summary.suspected += alert.transition == "pending"
        return alerts


def _measures(watch: Watch) -> frozenset[Measure]:
    return frozenset({"cost"}) if isinstance(watch.rule, BudgetRule) else frozenset({watch.rule.measure})


def _without_gaps(series: Series) -> Iterator[Step]:
    """Yield every step of the span, an empty one where the series has none."""
    due = series.start_us
    for step in series.steps():
        for open_us in range(due, step.open_us, series.step_us):
            yield Step(open_us, ())
        yield step
        due = step.open_us + series.step_us
    for open_us in range(due, series.end_us, series.step_us):
        yield Step(open_us, ())
