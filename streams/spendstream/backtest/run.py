"""A feed through its lanes: every transition that the watches would have made."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from spendstream.backtest.errors import BacktestError
from spendstream.backtest.feed import Feed, Step
from spendstream.backtest.lanes import Lanes, Observer
from spendstream.core.timestamps import MINUTE_US, from_epoch_us
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Measure, Watch, Watches

MOST_MINUTES: Final = 1_100_000
"""Two years of minutes: a longer span is a mistyped time more often than a wish."""

OnProgress = Callable[[int], None]
"""Is told the µs since 1970 that have been gone through."""


@dataclass
class Summary:
    """What came of a run. ``alerts``: fired, by watch; ``pending``: began and came to nothing, or haven't yet."""

    minutes: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    alerts: Counter[str] = field(default_factory=Counter)
    suspected: int = 0
    still_firing: int = 0


class Backtest:
    """Runs watches over a feed.

    ``skipped``: watches whose measure the feed doesn't tell. Raises: BacktestError, where none is left to judge, or
    the span is too long.
    """

    def __init__(self, feed: Feed, watches: Watches) -> None:
        self.feed = feed
        judged = [watch for watch in watches.watches if _measures(watch) <= feed.measures]
        self.skipped = [watch for watch in watches.watches if watch not in judged]
        if not judged:
            wanted = ", ".join(sorted({measure for watch in self.skipped for measure in _measures(watch)}))
            has = ", ".join(sorted(feed.measures))
            raise BacktestError(f"no watch can be judged: they look at {wanted}; the series has {has}")
        self.watches = watches.model_copy(update={"watches": tuple(judged)})
        self.summary = Summary()
        self._refuse_span()

    def run(
        self, observers: Sequence[Observer] = (), on_progress: OnProgress | None = None, *, explains: bool = True
    ) -> Iterator[Alert]:
        """Yield every transition, by time. ``summary`` is whole once all are taken.

        ``explains``: give reasons, where the feed has any; it takes most of the time of a firing alert.
        """
        feed, self.summary = self.feed, Summary()
        reasons = explains and feed.has_reasons
        lanes = Lanes(self.watches, feed.dimensions, feed.start_us, feed.step_us, has_reasons=reasons)
        for step in _without_gaps(feed):
            yield from self._counted(lanes.step(step, observers))
            self.summary.minutes += feed.step_us // MINUTE_US
            if on_progress is not None:
                on_progress(step.open_us + feed.step_us)
        yield from self._counted(lanes.finish(feed.end_us))
        for lane in lanes.all:
            self.summary.groups |= lane.detector.group_count()
            opened = lane.detector.lifecycle.open_alerts()
            self.summary.still_firing += sum(alert.state == "firing" for alert in opened)

    def _counted(self, alerts: list[Alert]) -> list[Alert]:
        for alert in alerts:
            if alert.transition == "firing":
                self.summary.alerts[alert.watch] += 1
            self.summary.suspected += alert.transition == "pending"
        return alerts

    def _refuse_span(self) -> None:
        feed = self.feed
        stays_real = any(not isinstance(watch.rule, AnomalyRule) for watch in self.watches.watches)
        judged = (feed.end_us - feed.start_us) // (MINUTE_US if stays_real else feed.step_us)
        if judged > MOST_MINUTES:
            first, last = from_epoch_us(feed.start_us), from_epoch_us(feed.end_us)
            raise BacktestError(
                f"from {first:%Y-%m-%d} to {last:%Y-%m-%d} there are {judged:,} minutes to judge, the most is "
                f"{MOST_MINUTES:,}: is a time mistyped, or its unit (--time-format)?"
            )


def _measures(watch: Watch) -> frozenset[Measure]:
    return frozenset({"cost"}) if isinstance(watch.rule, BudgetRule) else frozenset({watch.rule.measure})


def _without_gaps(feed: Feed) -> Iterator[Step]:
    """Yield every step of the span; where the feed has none, an empty one."""
    due = feed.start_us
    for step in feed.steps():
        for open_us in range(due, step.open_us, feed.step_us):
            yield Step(open_us, ())
        yield step
        due = step.open_us + feed.step_us
    for open_us in range(due, feed.end_us, feed.step_us):
        yield Step(open_us, ())
