"""Prometheus' Alertmanager, API v2. It is told of a state, not of events: what fires is sent again and again.

Rule: an alert first comes here with its first transition that is to be told (so a silence or maintenance of ours keeps
a new alert away). From then on every transition of it does, told or not, until it is resolved: renotification, grouping
and silences are Alertmanager's business. What fires is sent again every `REFRESH_S` seconds with `endsAt` `HOLD_S`
ahead, so it lasts while this process lives and ends by itself soon after, should nobody take over.

Labels identify an alert there: alertname (the watch), severity, rule, facet and the group's dimensions; nothing that
changes while it fires. Source: prometheus.io/docs/alerting/latest/alerts_api
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from spendstream.notifiers import words
from spendstream.notifiers.base import RANK, is_addressed
from spendstream.notifiers.endpoint import Endpoint
from spendstream.notifiers.http import Http
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier

PATH: Final = "/api/v2/alerts"
REFRESH_S: Final = 60.0
HOLD_S: Final = 300.0
_BATCH: Final = 200


class Standing:
    """The alerts that stand at Alertmanager, by the partition they are read from."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._alerts: dict[int, dict[UUID, Alert]] = {}

    def takes(self, partition: int, alert: Alert) -> bool:
        """Take in a transition; whether Alertmanager is to hear of it."""
        here = self._alerts.setdefault(partition, {})
        if alert.transition == "pending":
            return False
        if alert.alert_id not in here and not is_addressed(alert, self._notifier):
            return False
        if alert.state == "resolved":
            here.pop(alert.alert_id, None)
            return self._notifier.resolved
        here[alert.alert_id] = alert
        return RANK[alert.severity] >= RANK[self._notifier.min_severity]

    def forget(self, partition: int) -> None:
        """Leave a partition's alerts to the process that has taken it over."""
        self._alerts.pop(partition, None)

    def firing(self) -> list[Alert]:
        """Return the last transition of each alert that stands."""
        return [alert for here in self._alerts.values() for alert in here.values()]


class Alertmanager:
    """Posts alerts to one Alertmanager, and keeps those standing alive."""

    def __init__(self, endpoint: Endpoint, notifier: Notifier) -> None:
        self.standing = Standing(notifier)
        self._http = Http(_with_path(endpoint))
        # A refresh that overtook a resolved alert would raise it from the dead.
        self._one_at_a_time = asyncio.Lock()

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Post alerts; of several transitions of one alert, the last. Raises: Unreachable, Refused."""
        async with self._one_at_a_time:
            await self._post(alerts, now)

    async def refresh(self, now: datetime) -> int:
        """Post all that stands again, and return how many. Raises: Unreachable, Refused."""
        async with self._one_at_a_time:
            firing = self.standing.firing()
            for first in range(0, len(firing), _BATCH):
                await self._post(firing[first : first + _BATCH], now)
            return len(firing)

    async def close(self) -> None:
        await self._http.close()

    async def _post(self, alerts: Sequence[Alert], now: datetime) -> None:
        latest = {alert.alert_id: alert for alert in alerts}
        await self._http.post(json.dumps([postable(alert, now) for alert in latest.values()]).encode(), {})


def postable(alert: Alert, now: datetime) -> dict[str, Any]:
    """Return an alert as Alertmanager's ``postableAlert``. An empty label means a missing one there: left out."""
    labels = {
        "alertname": alert.watch,
        "severity": alert.severity,
        "rule": alert.rule,
        "facet": alert.facet,
        **{name: value for name, value in alert.group.items() if value},
    }
    annotations = {
        "summary": words.title(alert),
        "description": "\n".join(words.lines(alert)),
        "runbook_url": alert.runbook or "",
        "alert_id": str(alert.alert_id),
    }
    ends_at = now + timedelta(seconds=HOLD_S)
    if alert.state == "resolved":
        # An end in the future would let it fire on; one before its start is refused.
        ends_at = max(min(alert.ends_at or now, now), alert.started_at)
    return {
        "labels": labels,
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": _rfc3339(alert.started_at),
        "endsAt": _rfc3339(ends_at),
    }


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_path(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint of the API: the path is added where the URL is Alertmanager's address."""
    parts = urlsplit(endpoint.url)
    if parts.path.endswith(PATH):
        return endpoint
    url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + PATH))
    return Endpoint(endpoint.name, endpoint.timeout_s, url, endpoint.key, endpoint.headers)
