"""E-mail and every other service of the apprise library: https://pypi.org/project/apprise

One URL a notifier, such as ``mailtos://user:password@example.com``. The library is synchronous and reports little about
a failure. Its log lines hold addresses and tokens, so they are suppressed; only the status of the answer is read from
them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import apprise

from spendstream.notifiers import render
from spendstream.notifiers.base import TEMPORARY_STATUSES, Endpoint, Messenger, NotConfigured, Refused, Unreachable
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier
from spendstream.waiting import in_thread

_STATUS: Final = re.compile(r"\berror=(\d{3})\b")

_LIBRARY: Final = logging.getLogger("apprise")
_LIBRARY.propagate = False
_LIBRARY.setLevel(logging.WARNING)
# At debug level these log the path of each request, which may hold a token.
for _name in ("urllib3.connectionpool", "requests_oauthlib", "oauthlib"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class _StatusReader(logging.Handler):
    """Reads the answer's status from what the library logs in one thread."""

    def __init__(self, thread: int) -> None:
        super().__init__(logging.WARNING)
        self.thread = thread
        self.status: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread and (found := _STATUS.search(record.getMessage())):
            self.status = int(found[1])


class ViaApprise(Messenger):
    """Sends through apprise. Raises: NotConfigured, when the library does not know the URL."""

    def __init__(self, notifier: Notifier, endpoint: Endpoint) -> None:
        super().__init__(notifier)
        self._endpoint = endpoint
        asset = apprise.AppriseAsset(
            app_id="spendstream",
            app_desc="spend alerts",
            async_mode=False,
            storage_mode=apprise.PersistentStoreMode.MEMORY,
        )
        self._library = apprise.Apprise(asset=asset)
        added = self._library.add(endpoint.url)
        if not added or len(self._library) != 1:
            raise NotConfigured(f"notifier {endpoint.name}: apprise {apprise.__version__} does not support this URL")

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Send these transitions in one message. Raises: Unreachable, Refused."""
        endpoint = self._endpoint
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                is_sent, status = await in_thread(lambda: self._notify(alerts), f"notify-{endpoint.name}")
        except TimeoutError:
            raise Unreachable(f"{endpoint.host} did not answer within {endpoint.timeout_s:g} s") from None
        except Exception as error:  # a plugin may raise anything, with the URL in its message
            raise Unreachable(f"{endpoint.host}: {type(error).__name__}") from None
        if is_sent:
            return
        message = f"{endpoint.host}: apprise could not deliver{f', status {status}' if status else ''}"
        if status is not None and 400 <= status < 500 and status not in TEMPORARY_STATUSES:
            raise Refused(message)
        raise Unreachable(message)

    def _notify(self, alerts: Sequence[Alert]) -> tuple[bool, int | None]:
        reader = _StatusReader(threading.get_ident())
        _LIBRARY.addHandler(reader)
        try:
            is_sent = self._library.notify(
                title=render.subject(alerts),
                body="\n\n".join(render.text(alert) for alert in alerts),
                notify_type=_kind(alerts),
                body_format=apprise.NotifyFormat.TEXT,
            )
        finally:
            _LIBRARY.removeHandler(reader)
        return bool(is_sent), reader.status


def _kind(alerts: Sequence[Alert]) -> Any:
    if all(alert.state == "resolved" for alert in alerts):
        return apprise.NotifyType.SUCCESS
    severities = {alert.severity for alert in alerts if alert.state != "resolved"}
    if "critical" in severities:
        return apprise.NotifyType.FAILURE
    return apprise.NotifyType.WARNING if "warning" in severities else apprise.NotifyType.INFO
