"""How telling can fail. No message holds a secret: no URL's path or query, no key, no header's value.

NotifierError
├── NotConfigured  a variable is missing or is no URL; the message names the variable
├── Unreachable    not now: no answer, or one that asks for patience. Tried again
└── Refused        never, as it stands: the receiver says the request is wrong. Dropped
"""

from __future__ import annotations

from spendstream.errors import SpendstreamError


class NotifierError(SpendstreamError):
    """Somebody could not be told."""


class NotConfigured(NotifierError):
    """A notifier lacks what the environment must give it."""


class Unreachable(NotifierError):
    """The same request may do later. ``retry_after_s``: as the receiver asked, None where it did not."""

    def __init__(self, words: str, retry_after_s: float | None = None) -> None:
        super().__init__(words)
        self.retry_after_s = retry_after_s


class Refused(NotifierError):
    """The receiver will never take this request."""
