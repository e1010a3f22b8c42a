"""Where a notifier sends to: URL, key and headers, from the environment variables that the watches file names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from spendstream.notifiers.errors import NotConfigured
from spendstream.schemas.watch import Notifier

HIDDEN: Final = "***"
_SHORTEST_SECRET: Final = 4
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


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
        """The receiver's host and port: what may be logged of the URL."""
        parts = urlsplit(self.url)
        return parts.netloc.rpartition("@")[2] if parts.scheme in ("http", "https") else parts.scheme

    def scrub(self, words: str) -> str:
        """Return words of the receiver without the endpoint's secrets, should it echo them."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            words = words.replace(secret, HIDDEN)
        return words

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
                if len(form) >= _SHORTEST_SECRET:
                    yield form


def endpoint(notifier: Notifier, environ: Mapping[str, str]) -> Endpoint:
    """Return where a notifier sends to.

    Raises: NotConfigured, when a variable is missing, empty, or no URL of the kind; it names the variable.
    """
    if notifier.url_env is not None:
        url, origin = _variable(notifier.url_env, notifier, environ), f"the variable {notifier.url_env}"
    else:
        url, origin = (notifier.url or "").strip(), "url"
    if notifier.kind != "apprise" and not _is_http(url):
        raise NotConfigured(f"notifier {notifier.name}: {origin} is no http or https URL")
    key = _variable(notifier.secret_env, notifier, environ).encode() if notifier.secret_env else None
    headers = {name: _variable(variable, notifier, environ) for name, variable in notifier.headers_env.items()}
    return Endpoint(notifier.name, float(notifier.timeout), url, key, headers)


def _variable(name: str, notifier: Notifier, environ: Mapping[str, str]) -> str:
    value = environ.get(name, "").strip()  # a file's last newline is no part of a secret
    if not value:
        raise NotConfigured(f"notifier {notifier.name}: the variable {name} is not set")
    if _CONTROL.search(value):
        raise NotConfigured(f"notifier {notifier.name}: the variable {name} has a line break or control character")
    return value


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
