"""A series through the evaluator, slice by slice, as the detector would; alerts out."""

from dataclasses import dataclass, field

import numpy as np

from spendstream.core.detect.anomaly import AnomalyEvaluator
from spendstream.core.detect.finding import Groups, Level, Updates
from spendstream.core.detect.measures import CALLS, SPEND
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.measures import SUMS
from spendstream.schemas.watch import AnomalyRule, Watch
from tests.bench.alerts.traffic import Series


@dataclass
class Raised:
    """One alert: firing from ``fired_us`` (the clock when it was decided) to ``ended_us``."""

    group: int
    facet: str
    since_us: int
    fired_us: int
    ended_us: int = 2**62


@dataclass
class Drive:
    """An evaluator under a series; keeps the alerts and holds what fires."""

    evaluator: AnomalyEvaluator
    alerts: list[Raised] = field(default_factory=list)
    _open: dict[tuple[int, str], Raised] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: AnomalyRule, groups: int) -> "Drive":
        """Return a fresh one for so many groups."""
        watch = Watch(name="bench", group_by=("service",), rule=rule)
        known = Groups(watch, ("service",))
        for group in range(groups):
            known.number((f"service-{group}",))
        return cls(AnomalyEvaluator(rule, known))

    def run(self, series: Series) -> list[Raised]:
        """Play a series and a last look a minute later; return the alerts so far."""
        sums = np.zeros((len(series.calls), len(SUMS)), dtype=np.int64)
        for at in range(series.calls.shape[1]):
            opened_us = series.start_us + at * series.slice_us
            now_us = opened_us + series.slice_us
            some = np.flatnonzero(series.calls[:, at])
            sums[:, CALLS], sums[:, SPEND] = series.calls[:, at], series.cost[:, at]
            minutes = np.full(len(some), opened_us - opened_us % MINUTE_US)
            self.evaluator.apply(Updates(some, minutes, sums[some]), now_us)
            self._look(now_us)
        return self.alerts

    def settle(self, until_us: int) -> list[Raised]:
        """Look on without any more calls."""
        self._look(until_us + 20 * US)
        return self.alerts

    def _look(self, now_us: int) -> None:
        for finding in self.evaluator.findings(now_us):
            key = (finding.group, finding.facet)
            if finding.level is Level.FIRING and key not in self._open:
                alert = Raised(finding.group, finding.facet, finding.since_us, now_us)
                self._open[key] = alert
                self.alerts.append(alert)
            elif finding.level is not Level.FIRING and key in self._open:
                self._open.pop(key).ended_us = now_us
        self.evaluator.hold({group for group, _ in self._open})
