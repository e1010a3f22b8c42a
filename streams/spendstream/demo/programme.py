"""What goes wrong in the demo, and when: one incident after the other, each on a feature where it shows clearly."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import cycle
from typing import Final

from spendstream.demo.incidents import Incident, Kind

HISTORY_S: Final = 17 * 60
"""Traffic of so long is published at once, before the live one: a baseline needs 15 minutes with calls."""

STAGES: Final[dict[Kind, str]] = {
    "provider_outage": "campaign_copy",  # Mistral is called by this feature alone
    "runaway_loop": "deep_research",  # few and dear calls: a loop is most of the feature, and little of the traffic
    "context_blowup": "ticket_summary",  # single turns: nothing else lengthens its prompts
    "dearer_model": "code_completion",
    "cache_off": "code_agent",  # most of its input is read from the cache
}
"""The feature that each kind of incident befalls. The first is found by a threshold: it needs no history."""


@dataclass(frozen=True)
class Programme:
    """Incidents without end, in the order of ``STAGES``. All times in seconds; ``first_after_s`` from the start.

    An outage lasts half as long as the others: its alert comes within seconds, and its end is to be seen soon, too.
    """

    first_after_s: float = 20.0
    lasts_s: float = 120.0
    calm_s: float = 30.0
    only: Kind | None = None

    def from_(self, start: datetime) -> Iterator[Incident]:
        """Yield the incidents in the order of their times; of one kind alone, it comes once."""
        begins = start + timedelta(seconds=self.first_after_s)
        for kind in cycle(STAGES) if self.only is None else (self.only,):
            lasts_s = self.lasts_s / 2 if kind == "provider_outage" else self.lasts_s
            incident = Incident(kind, STAGES[kind], begins, lasts_s)
            yield incident
            begins = incident.ends_at + timedelta(seconds=self.calm_s)


class Playing:
    """The incidents of a programme as time goes by."""

    def __init__(self, programme: Programme | None, start: datetime) -> None:
        self._coming = iter(()) if programme is None else programme.from_(start)
        self._next = next(self._coming, None)
        self.begun: list[Incident] = []
        """Those that have begun, the last one last."""

    def begin(self, now: datetime) -> list[Incident]:
        """Return what begins by ``now`` and has not begun before."""
        fresh: list[Incident] = []
        while self._next is not None and self._next.starts_at <= now:
            fresh.append(self._next)
            self._next = next(self._coming, None)
        self.begun += fresh
        return fresh
