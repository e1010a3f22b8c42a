"""Notifiers: each sends alert transitions to one kind of receiver.

base.py          errors, endpoint, HTTP, and which transitions a notifier sends
render.py        an alert as text, the same for all receivers
delivery.py      which transitions go into one notification, when, how often it is tried, and what may be committed
webhook.py       signed JSON
slack.py         Slack's incoming webhooks
alertmanager.py  Prometheus Alertmanager, API v2
via_apprise.py   e-mail and many other services, through the apprise library
"""

from __future__ import annotations

from collections.abc import Mapping

from spendstream.notifiers.alertmanager import Alertmanager
from spendstream.notifiers.base import Messenger, endpoint_of
from spendstream.notifiers.slack import Slack
from spendstream.notifiers.webhook import Webhook
from spendstream.schemas.watch import Notifier


def messenger_of(notifier: Notifier, environ: Mapping[str, str]) -> Messenger:
    """Return the messenger of a notifier. Raises: NotConfigured, which names the variable that is missing."""
    endpoint = endpoint_of(notifier, environ)
    match notifier.kind:
        case "webhook":
            return Webhook(notifier, endpoint)
        case "slack":
            return Slack(notifier, endpoint)
        case "alertmanager":
            return Alertmanager(notifier, endpoint)
        case "apprise":
            from spendstream.notifiers.via_apprise import ViaApprise  # slow to import, and rarely used

            return ViaApprise(notifier, endpoint)
