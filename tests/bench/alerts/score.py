"""Alerts against labels: precision, recall, delay by kind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spendstream.core.timestamps import MINUTE_US
from tests.bench.alerts.drive import Raised
from tests.bench.alerts.incidents import KINDS, Incident

AFTER = 10
"""Minutes after an incident's end in which an alert is still its own, though it finds nothing new."""
FAST_FACTOR, FAST_CALLS = 5.0, 20.0
"""Runaways that must be told within the running or the next minute."""


@dataclass(frozen=True)
class Quality:
    """How well alerts match labels. ``delays_s``: from an incident's start to its first alert, by kind.

    ``again``: alerts of an incident beyond its first, facet by facet. ``detectable``: labels and those caught of them.
    ``fast_s``: delays of runaways of 5x and more where 20 calls a minute are usual; infinite where not caught.
    """

    alerts: int
    right: int
    again: int
    caught: dict[str, int]
    played: dict[str, int]
    delays_s: dict[str, list[float]]
    detectable: dict[str, tuple[int, int]]
    fast_s: list[float]

    @property
    def precision(self) -> float:
        """Alerts that belong to an incident."""
        return self.right / self.alerts if self.alerts else float("nan")

    @property
    def recall(self) -> float:
        """Incidents with an alert."""
        return sum(self.caught.values()) / max(sum(self.played.values()), 1)

    @property
    def recall_detectable(self) -> float:
        """Detectable incidents with an alert."""
        return sum(one[1] for one in self.detectable.values()) / max(sum(one[0] for one in self.detectable.values()), 1)

    def delay(self, kind: str, percent: float) -> str:
        """Return a percentile of the delay in words."""
        delays = self.delays_s[kind]
        if not delays:
            return "-"
        seconds = float(np.percentile(delays, percent))
        return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def score(alerts: Sequence[Raised], labels: Sequence[Incident], start_us: int) -> Quality:
    """Match alerts to incidents of their group. An alert before the series' first incident counts as any other."""
    found = Quality(len(alerts), 0, 0, {}, {}, {}, {}, [])
    own: dict[int, list[Raised]] = {}
    for alert in alerts:
        own.setdefault(alert.group, []).append(alert)
    right = again = 0
    for name in (kind.name for kind in KINDS):
        found.caught[name], found.played[name], found.delays_s[name], found.detectable[name] = 0, 0, [], (0, 0)
    for label in labels:
        first_us, last_us = start_us + label.start * MINUTE_US, start_us + label.end * MINUTE_US
        mine = [alert for alert in own.get(label.group, []) if first_us <= alert.fired_us]
        mine = [alert for alert in mine if alert.fired_us <= last_us + AFTER * MINUTE_US]
        right += len(mine)
        again += len(mine) - len({alert.facet for alert in mine})
        hits = [alert.fired_us for alert in mine if alert.fired_us <= last_us + MINUTE_US]
        _note(found, label, (min(hits) - first_us) / 1e6 if hits else None)
    return replace(found, right=right, again=again)


def _note(found: Quality, label: Incident, delay_s: float | None) -> None:
    found.played[label.kind] += 1
    if delay_s is not None:
        found.caught[label.kind] += 1
        found.delays_s[label.kind].append(delay_s)
    if label.detectable:
        labels, caught = found.detectable[label.kind]
        found.detectable[label.kind] = labels + 1, caught + (delay_s is not None)
    if label.kind == KINDS[0].name and label.factor >= FAST_FACTOR and label.calls >= FAST_CALLS:
        found.fast_s.append(np.inf if delay_s is None else delay_s)
