"""What can be wrong with watches. All of it is found before the first of them is judged.

WatchesError
├── WatchesUnreadable    the file can't be opened, or isn't YAML
├── WatchesInvalid       a watch, a notifier or a maintenance breaks a rule
└── EnvironmentMissing   a variable that a notifier takes its address or its secret from is unset
"""

from spendstream.core.documents import DocumentError
from spendstream.errors import SpendstreamError


class WatchesError(DocumentError, SpendstreamError):
    """The watches can't be used. ``issues`` holds every finding in order; the text has one line for each."""


class WatchesUnreadable(WatchesError):
    """The file can't be opened, or isn't YAML."""


class WatchesInvalid(WatchesError):
    """The file says what can't be."""


class EnvironmentMissing(WatchesError):
    """A notifier would have nowhere to send to, or nothing to sign with. ``issues`` is empty: it isn't the file."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(())
        self.args = ("\n".join(words),)
