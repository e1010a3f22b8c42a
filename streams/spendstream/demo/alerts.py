"""The demo's alerts: what ClickHouse holds of them, and which incident each of them tells of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from spendstream.demo.incidents import Incident
from spendstream.demo.scenario import AURORA, FEATURES

AFTERMATH_S: Final = 180.0
"""An alert may begin so long after its incident's end: a minute is closed before it is judged, some need two."""

_ALERTS: Final = """
SELECT
    toString(alert_id), argMax(toString(state), seq), argMax(toString(severity), seq),
    any(toString(watch)), any(toString(facet)), any(group['feature']), any(group['provider']),
    argMaxIf(title, seq, state = 'firing'), argMax(title, seq),
    argMaxIf(title, abs(observed - ifNull(expected, 0)), state = 'firing'),
    argMaxIf(reason, abs(observed - ifNull(expected, 0)), state = 'firing'),
    argMinIf(reason, seq, state = 'firing' AND reason != ''), argMaxIf(reason, seq, state = 'firing'),
    argMaxIf(if(empty(contributors), '', concat(contributors[1].1, ' ', contributors[1].2)), seq, state = 'firing'),
    toUnixTimestamp64Micro(minIf(at, state = 'firing')),
    toUnixTimestamp64Micro(maxIf(at, state = 'resolved'))
FROM alerts_v
WHERE at >= fromUnixTimestamp64Micro({since:Int64})
GROUP BY alert_id
HAVING countIf(state = 'firing') > 0
ORDER BY minIf(at, state = 'firing'), alert_id
"""


@dataclass(frozen=True)
class AlertLine:
    """An alert as it stands.

    ``title`` and ``reason``: the latest while it fired; ``worst_…``: when it was farthest from what is expected;
    ``first_reason``: as it was first told; ``last_title``: how it stands now, over or not.
    """

    alert_id: str
    state: str
    severity: str
    watch: str
    facet: str
    feature: str
    provider: str
    title: str
    last_title: str
    worst_title: str
    worst_reason: str
    first_reason: str
    reason: str
    contributor: str
    fired_at: datetime
    resolved_at: datetime | None

    @property
    def is_firing(self) -> bool:
        """Whether it isn't over."""
        return self.state != "resolved"

    def lasted_s(self, now: datetime) -> float:
        """Return for how long it has fired, or fired."""
        return ((self.resolved_at or now) - self.fired_at).total_seconds()


def read_alerts(client: Any, since: datetime) -> tuple[AlertLine, ...]:
    """Return the alerts that fired since a moment, the first one first. Raises the client's errors."""
    since_us = (since - _EPOCH) // timedelta(microseconds=1)
    rows = client.query(_ALERTS.replace("{since:Int64}", str(since_us))).result_rows
    return tuple(map(_line, rows))


def tells_of(alert: AlertLine, incident: Incident) -> bool:
    """Whether an alert is about an incident: of its feature or a provider of it, and begun by then."""
    if not incident.starts_at <= alert.fired_at <= incident.ends_at + timedelta(seconds=AFTERMATH_S):
        return False
    if alert.feature:
        return alert.feature == incident.feature
    return alert.provider in _PROVIDERS[incident.feature]


def caught(incident: Incident, alerts: Iterable[AlertLine]) -> list[AlertLine]:
    """Return the alerts about an incident, the first one first."""
    return [alert for alert in alerts if tells_of(alert, incident)]


def unexplained(alerts: Sequence[AlertLine], incidents: Sequence[Incident]) -> list[AlertLine]:
    """Return the alerts that no incident explains, nor the model that nobody wrote a price for."""
    return [
        alert
        for alert in alerts
        if not is_of_preview(alert) and not any(tells_of(alert, incident) for incident in incidents)
    ]


def is_of_preview(alert: AlertLine) -> bool:
    """Whether an alert is about the preview's calls without a price, which are so by design."""
    return alert.watch == "unpriced-model" and alert.provider == AURORA.provider


_TEXTS: Final = tuple(each.name for each in fields(AlertLine))[:-2]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PROVIDERS: Final = {feature.name: frozenset(model.provider for model, _ in feature.models) for feature in FEATURES}


def _line(row: Sequence[Any]) -> AlertLine:
    texts: dict[str, Any] = dict(zip(_TEXTS, map(str, row), strict=False))
    fired_us, resolved_us = row[len(_TEXTS) :]
    resolved_at = _at(resolved_us) if texts["state"] == "resolved" else None
    return AlertLine(**texts, fired_at=_at(fired_us), resolved_at=resolved_at)


def _at(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=int(us))
