"""The notifier of a kind."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.watch import Notifier
from streams.notifiers.alertmanager import Alertmanager
from streams.notifiers.base import Messenger
from streams.notifiers.endpoint import endpoint
from streams.notifiers.slack import Slack
from streams.notifiers.webhook import Webhook


def messenger(notifier: Notifier, environ: Mapping[str, str]) -> Messenger:
    """Return what tells a notifier's receiver. Raises: NotConfigured, which names the variable that is missing."""
    target = endpoint(notifier, environ)
    match notifier.kind:
        case "webhook":
            return Webhook(target)
        case "slack":
            return Slack(target)
        case "alertmanager":
            return Alertmanager(target, notifier)
        case "apprise":
            from streams.notifiers.via_apprise import ViaApprise  # its import takes a while; most need it not

            return ViaApprise(target)
