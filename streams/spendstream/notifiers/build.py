"""The notifier of a kind."""

from __future__ import annotations

from collections.abc import Mapping

from spendstream.notifiers.alertmanager import Alertmanager
from spendstream.notifiers.base import Messenger
from spendstream.notifiers.endpoint import endpoint
from spendstream.notifiers.slack import Slack
from spendstream.notifiers.webhook import Webhook
from spendstream.schemas.watch import Notifier


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
            from spendstream.notifiers.via_apprise import ViaApprise  # its import takes a while; most need it not

            return ViaApprise(target)
