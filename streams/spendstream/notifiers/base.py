"""What every notifier can do, and which transitions are addressed to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID, uuid5

from spendstream.schemas.alert import NAMESPACE, Alert
from spendstream.schemas.watch import Notifier, Severity

RANK: Final[dict[Severity, int]] = {"info": 0, "warning": 1, "critical": 2}


class Messenger(Protocol):
    """Tells one receiver."""

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Tell of these transitions, all of one watch, in one notification, and return once the receiver took it.

        Trying again with the same transitions is the same notification. ``now``: the wall clock of this attempt.
        Raises: Unreachable, Refused.
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


def is_addressed(alert: Alert, notifier: Notifier) -> bool:
    """Whether a notifier is to be told of a transition. Nobody is told of pending alerts."""
    if not alert.notify or alert.transition == "pending" or notifier.name not in alert.notifiers:
        return False
    if alert.transition == "resolved" and not notifier.resolved:
        return False
    return RANK[alert.severity] >= RANK[notifier.min_severity]


def idempotency_key(alerts: Sequence[Alert]) -> UUID:
    """Return the identity of a notification: the same transitions in the same order have the same."""
    return uuid5(NAMESPACE, "\n".join(str(alert.transition_id) for alert in alerts))
