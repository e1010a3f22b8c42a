"""What can go wrong with a bill, and when it does in the demo."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import cycle
from typing import Final, Literal

from spendstream.demo.scenario import FEATURES

Kind = Literal["runaway_loop", "context_blowup", "dearer_model", "cache_off", "provider_outage"]

RUNAWAY_FACTOR: Final = 8
"""Calls of the feature, relative to its usual ones; the extra ones come from one task that never ends."""

BLOWUP_FACTOR: Final = 5
"""Tokens of pasted log lines, relative to the usual prompt."""

OUTAGE_FAILURES: Final = 0.85
"""Share of the feature's calls that fail; most are tried again."""


@dataclass(frozen=True)
class Incident:
    """Something that alters one feature's traffic in ``[starts_at, starts_at + lasts_s)``.

    runaway_loop: an agent calls on and on, its context growing. context_blowup: debug logs land in the prompt.
    dearer_model: a dearer model answers than was requested. cache_off: nothing is read from or written to cache.
    provider_outage: calls fail and are retried.

    Raises: ValueError, for an unknown feature, a time without a zone, or a length that is not positive.
    """

    kind: Kind
    feature: str
    starts_at: datetime
    lasts_s: float

    def __post_init__(self) -> None:
        if self.feature not in {feature.name for feature in FEATURES}:
            raise ValueError(f"No feature {self.feature!r} in the demo; expected one of FEATURES in scenario.py")
        if self.starts_at.tzinfo is None:
            raise ValueError("starts_at needs a time zone")
        if self.lasts_s <= 0:
            raise ValueError(f"lasts_s must be positive, not {self.lasts_s}")

    @property
    def ends_at(self) -> datetime:
        """The first moment after the incident."""
        return self.starts_at + timedelta(seconds=self.lasts_s)

    def is_active(self, at: datetime) -> bool:
        """Whether the incident is on at a moment."""
        return self.starts_at <= at < self.ends_at


def active_kinds(incidents: Iterable[Incident], at: datetime) -> dict[str, frozenset[Kind]]:
    """Return which kinds of incident are on at a moment, by feature."""
    on: dict[str, frozenset[Kind]] = {}
    for incident in incidents:
        if incident.is_active(at):
            on[incident.feature] = on.get(incident.feature, frozenset()) | {incident.kind}
    return on


HISTORY_S: Final = 17 * 60
"""Seconds of the past that are loaded before live traffic: a baseline needs 15 minutes with calls."""

STAGES: Final[dict[Kind, str]] = {
    "provider_outage": "campaign_copy",  # Mistral is called by this feature alone
    "runaway_loop": "deep_research",  # few and dear calls: a loop is most of the feature, and little of the traffic
    "context_blowup": "ticket_summary",  # single turns: nothing else lengthens its prompts
    "dearer_model": "code_completion",
    "cache_off": "code_agent",  # most of its input is read from the cache
}
"""The feature that each kind of incident affects. A threshold finds the first: it needs no history."""


@dataclass(frozen=True)
class Timeline:
    """Incidents without end, in the order of ``STAGES``. Times in seconds; ``first_after_s`` counts from the start.

    An outage lasts half as long as the others: its alert fires within seconds, and should resolve soon.
    """

    first_after_s: float = 20.0
    lasts_s: float = 120.0
    calm_s: float = 30.0
    only: Kind | None = None

    def from_(self, start: datetime) -> Iterator[Incident]:
        """Yield the incidents in order of time; with ``only``, that one once."""
        begins = start + timedelta(seconds=self.first_after_s)
        for kind in cycle(STAGES) if self.only is None else (self.only,):
            lasts_s = self.lasts_s / 2 if kind == "provider_outage" else self.lasts_s
            incident = Incident(kind, STAGES[kind], begins, lasts_s)
            yield incident
            begins = incident.ends_at + timedelta(seconds=self.calm_s)


class Player:
    """Starts the incidents of a timeline as time passes. Without a timeline there are none."""

    def __init__(self, timeline: Timeline | None, start: datetime) -> None:
        self._coming = iter(()) if timeline is None else timeline.from_(start)
        self._next = next(self._coming, None)
        self.begun: list[Incident] = []
        """Those that have begun, in order."""

    def begin(self, now: datetime) -> list[Incident]:
        """Return the incidents that begin by ``now`` and were not returned before."""
        fresh: list[Incident] = []
        while self._next is not None and self._next.starts_at <= now:
            fresh.append(self._next)
            self._next = next(self._coming, None)
        self.begun += fresh
        return fresh
