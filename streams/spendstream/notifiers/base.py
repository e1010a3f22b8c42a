"""What every notifier shares: its errors, its endpoint, one HTTP POST, and the rule that says which alerts it sends."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid5

import aiohttp

from spendstream.errors import SpendstreamError
from spendstream.schemas.alert import NAMESPACE, Alert
from spendstream.schemas.watch import Notifier, Severity

RANK: Final[dict[Severity, int]] = {"info": 0, "warning": 1, "critical": 2}
TEMPORARY_STATUSES: Final = (408, 425, 429)
"""HTTP statuses below 500 after which the same request may succeed later."""

_REDACTED: Final = "***"
_MIN_SECRET_CHARS: Final = 4
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MAX_ANSWER_CHARS: Final = 200
_MAX_RETRY_AFTER_S: Final = 600.0


class NotifierError(SpendstreamError):
    """A notification was not delivered. No message holds a secret: no URL path or query, no key, no header value.

    NotifierError
    ├── NotConfigured  a variable is missing or holds no URL; the message names the variable
    ├── Unreachable    no answer, or one that asks to try later: retried
    └── Refused        the receiver rejects the request for good: dropped
    """


class NotConfigured(NotifierError):
    """The environment lacks a value that a notifier needs."""


class Unreachable(NotifierError):
    """The same request may succeed later. ``retry_after_s``: as the receiver asked; None where it did not."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(NotifierError):
    """The receiver will never accept this request."""


class Messenger:
    """Sends notifications to one receiver.

    A receiver of events is sent each transition that is addressed to it. One that holds state, such as Alertmanager,
    overrides ``accepts``, ``forget`` and ``refresh``, and sets ``refresh_s``.
    """

    refresh_s: float | None = None
    """Seconds between two calls of ``refresh``; None: never. Such a receiver groups by itself, so nothing is batched,
    and it is given the alerts of the last ``recall_s`` seconds when a partition is taken over."""

    recall_s: float = 0.0

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Send these transitions, all of one watch, in one notification, and return once the receiver has accepted it.

        Sending the same transitions again is the same notification. ``now``: the wall clock of this attempt.
        Raises: Unreachable, Refused.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connections."""

    def accepts(self, partition: int, alert: Alert) -> bool:
        """Whether to send a transition that was read from a partition of the alert topic."""
        return is_addressed(alert, self.notifier)

    def forget(self, partition: int) -> None:
        """Drop what is known of a partition that another process reads now."""

    async def refresh(self, now: datetime) -> None:
        """Send the present state again. Raises: Unreachable, Refused."""


def is_addressed(alert: Alert, notifier: Notifier) -> bool:
    """Whether a notifier sends a transition. Pending alerts are never sent."""
    if not alert.notify or alert.transition == "pending" or notifier.name not in alert.notifiers:
        return False
    if alert.transition == "resolved" and not notifier.resolved:
        return False
    return RANK[alert.severity] >= RANK[notifier.min_severity]


def idempotency_key(alerts: Iterable[Alert]) -> UUID:
    """Return the identity of a notification: the same transitions in the same order have the same key."""
    return uuid5(NAMESPACE, "\n".join(str(alert.transition_id) for alert in alerts))


@dataclass(frozen=True)
class Endpoint:
    """A receiver's address. Its ``repr`` shows none of it: even a path may be the whole secret, as Slack's is."""

    name: str
    timeout_s: float
    url: str = field(repr=False)
    key: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def host(self) -> str:
        """Host and port: the part of the URL that may be logged."""
        parts = urlsplit(self.url)
        return parts.netloc.rpartition("@")[2] if parts.scheme in ("http", "https") else parts.scheme

    def redact(self, text: str) -> str:
        """Return the receiver's answer without the endpoint's secrets, should it echo them."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, _REDACTED)
        return text

    def _secrets(self) -> Iterator[str]:
        parts = urlsplit(self.url)
        pieces = [self.url, parts.path, parts.query, parts.fragment, parts.username or "", parts.password or ""]
        pieces += parts.path.split("/")
        pieces += re.split("[&=]", parts.query)
        pieces += [value for header in self.headers.values() for value in (header, *header.split())]
        if self.key is not None:
            pieces.append(self.key.decode("utf-8", "replace"))
        for piece in pieces:
            for form in (piece, unquote(piece)):
                if len(form) >= _MIN_SECRET_CHARS:
                    yield form


def endpoint_of(notifier: Notifier, environ: Mapping[str, str]) -> Endpoint:
    """Return where a notifier sends to: URL, key and headers, from the variables that the watches file names.

    Raises: NotConfigured, when a variable is missing, empty, or not a URL of the kind; it names the variable.
    """
    if notifier.url_env is not None:
        url, origin = _variable(notifier.url_env, notifier, environ), f"the variable {notifier.url_env}"
    else:
        url, origin = (notifier.url or "").strip(), "url"
    if notifier.kind != "apprise" and not _is_http(url):
        raise NotConfigured(f"notifier {notifier.name}: {origin} is not an http or https URL")
    key = _variable(notifier.secret_env, notifier, environ).encode() if notifier.secret_env else None
    headers = {name: _variable(variable, notifier, environ) for name, variable in notifier.headers_env.items()}
    return Endpoint(notifier.name, float(notifier.timeout), url, key, headers)


def _variable(name: str, notifier: Notifier, environ: Mapping[str, str]) -> str:
    value = environ.get(name, "").strip()  # the final newline of a file is not part of a secret
    if not value:
        raise NotConfigured(f"notifier {notifier.name}: the environment variable {name} is not set")
    if _CONTROL.search(value):
        raise NotConfigured(
            f"notifier {notifier.name}: the environment variable {name} has a line break or a control character"
        )
    return value


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class HttpClient:
    """Posts to one endpoint over connections that it keeps open. Proxies come from the environment, as with curl."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a JSON body and return once it is accepted (2xx). Redirects are not followed: they would lose the body.

        Raises: Unreachable, for no answer, 408, 425, 429 and 5xx; Refused, for any other answer.
        """
        endpoint = self._endpoint
        try:
            if self._session is None:
                self._session = aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s),
                    headers={"User-Agent": "spendstream"},
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=True,
                )
            async with self._session.post(
                endpoint.url,
                data=body,
                headers={**endpoint.headers, "Content-Type": "application/json", **headers},
                allow_redirects=False,
            ) as response:
                if 200 <= response.status < 300:
                    return
                # The beginning, which is where Slack says what is wrong: ``: invalid_blocks``. Redacted before it is
                # cut: half a secret would no longer be found.
                raw = (await response.content.read(4 * _MAX_ANSWER_CHARS)).decode("utf-8", "replace")
                shown = endpoint.redact(" ".join(raw.split()))[:_MAX_ANSWER_CHARS]
                answer = f": {shown}" if shown else ""
                status, retry_after = response.status, response.headers.get("Retry-After")
        # The client's own message may hold the whole URL, and so may the exception's cause: neither is passed on.
        except TimeoutError:
            raise Unreachable(f"{endpoint.host} did not answer within {endpoint.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            number = getattr(error, "errno", None)
            reason = f", {os.strerror(number)}" if isinstance(number, int) and number > 0 else ""
            raise Unreachable(f"{endpoint.host}: {type(error).__name__}{reason}") from None
        except ValueError as error:
            raise Refused(f"{endpoint.host}: the request is invalid: {type(error).__name__}") from None
        if status in TEMPORARY_STATUSES or status >= 500:
            raise Unreachable(f"{endpoint.host} answered {status}{answer}", _seconds(retry_after))
        raise Refused(f"{endpoint.host} answered {status}{answer}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _seconds(retry_after: str | None) -> float | None:
    """Return a Retry-After in seconds, at most ten minutes; None where there is none, or it is a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None
