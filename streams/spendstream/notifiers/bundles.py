"""Which transitions go into one notification, and when: the first at once, what follows it soon, together.

A bundle is all of one watch that waits. After a notification the watch is quiet for the group interval; what comes
meanwhile goes out together at its end. So the first news has no added latency, and a hundred groups that fire one after
the other make two messages, not a hundred.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from spendstream.schemas.alert import Alert

LARGEST: Final = 100
"""Transitions in one notification."""


@dataclass(frozen=True)
class Waiting:
    """A transition that somebody is to be told of, and where it stands. ``written_s``: Unix seconds of its record."""

    alert: Alert
    partition: int
    offset: int
    written_s: float


class Bundles:
    """What waits, by watch, in the order it was read. Times are seconds of one clock, given by the caller."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._waiting: dict[str, list[Waiting]] = {}
        self._quiet_until: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, one: Waiting) -> None:
        """Let a transition wait for its notification."""
        self._waiting.setdefault(one.alert.watch, []).append(one)

    def take(self, now_s: float, busy: Collection[str] = ()) -> list[list[Waiting]]:
        """Return the bundles that are due, and hold them no more. ``busy``: watches that are being told already."""
        due = [watch for watch in self._waiting if watch not in busy and self._quiet_until.get(watch, now_s) <= now_s]
        return [self._cut(watch) for watch in due]

    def told(self, watch: str, now_s: float) -> None:
        """A notification of a watch went out: it is quiet for the interval."""
        self._quiet_until = {name: until for name, until in self._quiet_until.items() if until > now_s}
        self._quiet_until[watch] = now_s + self._interval_s

    def next_due_s(self, now_s: float, busy: Collection[str] = ()) -> float | None:
        """Return when the next bundle is due; None where nothing waits."""
        return min((self._quiet_until.get(name, now_s) for name in self._waiting if name not in busy), default=None)

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop what was read from partitions that others have now."""
        gone = set(partitions)
        kept = {name: [one for one in some if one.partition not in gone] for name, some in self._waiting.items()}
        self._waiting = {name: some for name, some in kept.items() if some}

    def _cut(self, watch: str) -> list[Waiting]:
        waiting = self._waiting.pop(watch)
        if rest := waiting[LARGEST:]:
            self._waiting[watch] = rest
        return waiting[:LARGEST]
