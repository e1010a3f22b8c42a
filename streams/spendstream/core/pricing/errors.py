"""What can be wrong with rate cards. All of it is found before the first call is priced.

RateCardError
├── RateCardUnreadable   a file that can't be opened, or isn't YAML
└── RateCardInvalid      a file whose cards break a rule, or contradict each other
"""

from spendstream.core.documents import DocumentError


class RateCardError(DocumentError):
    """Rate cards can't be used. ``issues`` holds every finding in order; the text has one line for each."""


class RateCardUnreadable(RateCardError):
    """A file can't be opened, or isn't YAML."""


class RateCardInvalid(RateCardError):
    """A card breaks a rule, or contradicts another."""
