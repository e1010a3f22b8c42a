"""What can go wrong with a bill, told to the traffic so that an alert can be seen to notice it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from spendstream.demo.scenario import FEATURES

Kind = Literal["runaway_loop", "context_blowup", "dearer_model", "cache_off", "provider_outage"]

RUNAWAY_FACTOR: Final = 8
"""Calls of the feature, all from one task that never ends, against its usual ones."""

BLOWUP_FACTOR: Final = 5
"""Tokens of pasted log lines, against the usual prompt."""

OUTAGE_FAILURES: Final = 0.85
"""Share of the feature's calls that fail; most are tried again."""


@dataclass(frozen=True)
class Incident:
    """Something that alters one feature's traffic in ``[starts_at, starts_at + lasts_s)``.

    runaway_loop: an agent calls on and on, its context growing. context_blowup: debug logs land in the prompt.
    dearer_model: another model answers than was requested. cache_off: nothing is read from or written to cache.
    provider_outage: calls fail and are retried.

    Raises: ValueError, for an unknown feature, a time without a zone, or a length that is not positive.
    """

    kind: Kind
    feature: str
    starts_at: datetime
    lasts_s: float

    def __post_init__(self) -> None:
        if self.feature not in {feature.name for feature in FEATURES}:
            raise ValueError(f"No feature {self.feature!r} in the demo")
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
