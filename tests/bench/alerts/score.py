"""Alerts against labels: precision, recall, delay by kind."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streams.core.clock import MINUTE_US
from tests.bench.alerts.drive import Raised
from tests.bench.alerts.incidents import KINDS, Incident

AFTER = 10
"""Minutes after an incident's end in which an alert is still its own, though it finds nothing new."""


@dataclass(frozen=True)
class Quality:
    """How well alerts match labels. ``delays_s``: from an incident's start to its first alert, by kind."""

    alerts: int
    right: int
    caught: dict[str, int]
    played: dict[str, int]
    delays_s: dict[str, list[float]]

    @property
    def precision(self) -> float:
        """Alerts that belong to an incident."""
        return self.right / self.alerts if self.alerts else float("nan")

    @property
    def recall(self) -> float:
        """Incidents with an alert."""
        return sum(self.caught.values()) / max(sum(self.played.values()), 1)

    def delay(self, kind: str, percent: float) -> str:
        """Return a percentile of the delay in words."""
        delays = self.delays_s[kind]
        if not delays:
            return "-"
        seconds = float(np.percentile(delays, percent))
        return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def score(alerts: Sequence[Raised], labels: Sequence[Incident], start_us: int) -> Quality:
    """Match alerts to incidents of their group. An alert before the series' first incident counts as any other."""
    names = [kind.name for kind in KINDS]
    caught, played = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    delays: dict[str, list[float]] = {name: [] for name in names}
    own: dict[int, list[Raised]] = {}
    for alert in alerts:
        own.setdefault(alert.group, []).append(alert)
    right = 0
    for label in labels:
        first_us, last_us = start_us + label.start * MINUTE_US, start_us + label.end * MINUTE_US
        mine = [alert for alert in own.get(label.group, []) if first_us <= alert.fired_us]
        mine = [alert for alert in mine if alert.fired_us <= last_us + AFTER * MINUTE_US]
        right += len(mine)
        played[label.kind] += 1
        hits = [alert.fired_us for alert in mine if alert.fired_us <= last_us + MINUTE_US]
        if hits:
            caught[label.kind] += 1
            delays[label.kind].append((min(hits) - first_us) / 1e6)
    return Quality(len(alerts), right, caught, played, delays)
