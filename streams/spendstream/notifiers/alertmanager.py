"""Prometheus Alertmanager, API v2. Alertmanager keeps a state rather than events, so active alerts are sent repeatedly.

An alert is first sent once somebody has been notified of it, so a silence or maintenance window here keeps a new alert
away. After that, every transition is sent, whether it notifies or not, until the alert is resolved: renotification,
grouping and silences are Alertmanager's job. Active alerts are sent again every ``REFRESH_S`` seconds with ``endsAt``
``EXPIRES_AFTER_S`` seconds ahead: they return within a minute of a restart of Alertmanager, which stores no alerts, and
they end by themselves when no worker is left to resolve them.

Labels identify an alert there: alertname (the watch), severity, rule, facet and the group's dimensions; none of them
changes while the alert fires. Source: prometheus.io/docs/alerting/latest/alerts_api
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from spendstream.notifiers import render
from spendstream.notifiers.base import RANK, Endpoint, HttpClient, Messenger
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier

PATH: Final = "/api/v2/alerts"
REFRESH_S: Final = 60.0
EXPIRES_AFTER_S: Final = 300.0
RECALL_S: Final = 4500.0
"""Whatever fires has been published within this time: of a budget, hourly; of other rules, every minute."""

_MAX_BATCH: Final = 200


class Alertmanager(Messenger):
    """Posts alerts to one Alertmanager, and keeps the active ones alive there."""

    refresh_s = REFRESH_S
    recall_s = RECALL_S

    def __init__(self, notifier: Notifier, endpoint: Endpoint) -> None:
        super().__init__(notifier)
        self._http = HttpClient(_with_path(endpoint))
        self._active: dict[int, dict[UUID, Alert]] = {}
        # A refresh that overtook a resolved alert would raise it again.
        self._one_at_a_time = asyncio.Lock()

    def accepts(self, partition: int, alert: Alert) -> bool:
        """Take note of a transition, and return whether Alertmanager is to receive it."""
        active = self._active.setdefault(partition, {})
        if alert.alert_id not in active and not self._concerns(alert):
            return False
        if alert.state == "resolved":
            active.pop(alert.alert_id, None)
            return self.notifier.resolved
        active[alert.alert_id] = alert
        return True

    def forget(self, partition: int) -> None:
        """Leave a partition's alerts to the process that reads it now."""
        self._active.pop(partition, None)

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Post alerts; of several transitions of one alert, the last. Raises: Unreachable, Refused."""
        async with self._one_at_a_time:
            await self._post(alerts, now)

    async def refresh(self, now: datetime) -> None:
        """Post all active alerts again. Raises: Unreachable, Refused."""
        async with self._one_at_a_time:
            firing = [alert for active in self._active.values() for alert in active.values()]
            for first in range(0, len(firing), _MAX_BATCH):
                await self._post(firing[first : first + _MAX_BATCH], now)

    async def close(self) -> None:
        await self._http.close()

    def _concerns(self, alert: Alert) -> bool:
        return (
            alert.transition != "pending"
            and (alert.notify or alert.notified_at is not None)
            and self.notifier.name in alert.notifiers
            and RANK[alert.severity] >= RANK[self.notifier.min_severity]
        )

    async def _post(self, alerts: Sequence[Alert], now: datetime) -> None:
        latest = {alert.alert_id: alert for alert in alerts}
        await self._http.post(json.dumps([postable(alert, now) for alert in latest.values()]).encode(), {})


def postable(alert: Alert, now: datetime) -> dict[str, Any]:
    """Return an alert as Alertmanager's ``postableAlert``. Empty labels are left out: there they mean missing ones."""
    labels = {
        "alertname": alert.watch,
        "severity": alert.severity,
        "rule": alert.rule,
        "facet": alert.facet,
        **{name: value for name, value in alert.group.items() if value},
    }
    annotations = {
        "summary": render.title(alert),
        "description": "\n".join(render.lines(alert)),
        "runbook_url": alert.runbook or "",
        "alert_id": str(alert.alert_id),
    }
    ends_at = now + timedelta(seconds=EXPIRES_AFTER_S)
    if alert.state == "resolved":
        # With an end in the future it would go on firing; an end before its start is rejected.
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
