"""E-mail and whatever else the apprise library speaks: https://pypi.org/project/apprise

One URL a notifier, such as ``mailtos://user:password@example.com``. The library is synchronous and says little of what
failed; its own log lines hold addresses and tokens, so they are kept off our logs, but for the number of the answer.
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

from spendstream.notifiers import words
from spendstream.notifiers.endpoint import Endpoint
from spendstream.notifiers.errors import NotConfigured, Refused, Unreachable
from spendstream.schemas.alert import Alert
from spendstream.sinks.threads import in_thread

_STATUS: Final = re.compile(r"\berror=(\d{3})\b")
_PATIENCE: Final = (408, 425, 429)

_LIBRARY: Final = logging.getLogger("apprise")
_LIBRARY.propagate = False
_LIBRARY.setLevel(logging.WARNING)
# At debug level these write the path of each request, and with it tokens.
for _name in ("urllib3.connectionpool", "requests_oauthlib", "oauthlib"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class _Answers(logging.Handler):
    """Listens for the answer's number in what the library logs in one thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = 0
        self.status: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread and (found := _STATUS.search(record.getMessage())):
            self.status = int(found[1])


class ViaApprise:
    """Tells one receiver through apprise. Raises: NotConfigured, when the library can't read the URL."""

    def __init__(self, endpoint: Endpoint) -> None:
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
            raise NotConfigured(
                f"notifier {endpoint.name}: the URL is not one that apprise {apprise.__version__} knows"
            )

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Tell of these transitions in one message. Raises: Unreachable, Refused."""
        endpoint = self._endpoint
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                is_told, status = await in_thread(lambda: self._tell(alerts), f"notify-{endpoint.name}")
        except TimeoutError:
            raise Unreachable(f"{endpoint.host} did not answer within {endpoint.timeout_s:g} s") from None
        except Exception as error:  # a plugin may raise anything, with the URL in its words
            raise Unreachable(f"{endpoint.host}: {type(error).__name__}") from None
        if is_told:
            return
        said = f"{endpoint.host}: apprise could not deliver{f', answer {status}' if status else ''}"
        if status is not None and 400 <= status < 500 and status not in _PATIENCE:
            raise Refused(said)
        raise Unreachable(said)

    async def close(self) -> None:
        """Nothing stays open between messages."""

    def _tell(self, alerts: Sequence[Alert]) -> tuple[bool, int | None]:
        answers = _Answers()
        answers.thread = threading.get_ident()
        _LIBRARY.addHandler(answers)
        try:
            told = self._library.notify(
                title=subject(alerts),
                body="\n\n".join(words.text(alert) for alert in alerts),
                notify_type=_kind(alerts),
                body_format=apprise.NotifyFormat.TEXT,
            )
        finally:
            _LIBRARY.removeHandler(answers)
        return bool(told), answers.status


def subject(alerts: Sequence[Alert]) -> str:
    """Return the subject line."""
    return words.title(alerts[0]) if len(alerts) == 1 else f"{len(alerts)} alerts of {alerts[0].watch}"


def _kind(alerts: Sequence[Alert]) -> Any:
    if all(alert.state == "resolved" for alert in alerts):
        return apprise.NotifyType.SUCCESS
    severities = {alert.severity for alert in alerts if alert.state != "resolved"}
    if "critical" in severities:
        return apprise.NotifyType.FAILURE
    return apprise.NotifyType.WARNING if "warning" in severities else apprise.NotifyType.INFO
