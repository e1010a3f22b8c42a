"""What can be wrong with rate cards. All of it is found before the first call is priced.

RateCardError
├── RateCardUnreadable   a file that can't be opened, or isn't YAML
└── RateCardInvalid      a file whose cards break a rule, or contradict each other
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Issue:
    """One thing to mend: where it is (line and column count from 1), and what to do."""

    file: Path
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class RateCardError(ValueError):
    """Rate cards can't be used. ``issues`` holds every finding in order; the text has one line for each."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = tuple(sorted(issues))
        super().__init__("\n".join(map(str, self.issues)))


class RateCardUnreadable(RateCardError):
    """A file can't be opened, or isn't YAML."""


class RateCardInvalid(RateCardError):
    """A card breaks a rule, or contradicts another."""
