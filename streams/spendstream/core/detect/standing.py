"""Which findings stand, so that each end is told once: the form that evaluators owe their callers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.finding import Finding, Level


class Standing:
    """The findings that are not normal, by group, and those that ended at the present moment.

    ``facets``: every facet that the rule can find, in a fixed order.
    """

    def __init__(self, facets: Iterable[str]) -> None:
        self._facets = tuple(facets)
        self._findings: dict[int, dict[str, Finding]] = {}
        self._ended: dict[tuple[int, str], Finding] = {}
        self._ended_at = -1
        self._unsettled: set[int] = set()
        self._listed: list[Finding] | None = None

    def __contains__(self, group: int) -> bool:
        """Whether a group has a finding."""
        return group in self._findings

    def begin(self, now_us: int) -> set[int]:
        """Begin a judgement; what ended at an earlier moment has been told.

        Returns the groups to judge again now: one alert had to end before the next of its facet may begin.
        """
        if now_us == self._ended_at:
            return set()
        again, self._unsettled = self._unsettled, set()
        if self._ended:
            self._listed = None
        self._ended, self._ended_at = {}, now_us
        return again

    def settle(self, group: int, found: Iterable[Finding], calm: Callable[[Finding], Finding]) -> None:
        """Take over what was found for a group. ``calm`` returns an ended finding with the figures of now."""
        self._listed = None
        before = self._findings.pop(group, {})
        after = {finding.facet: finding for finding in found}
        for facet, last in before.items():
            new = after.get(facet)
            if new is None or new.since_us != last.since_us:
                self._ended[group, facet] = replace(calm(last), level=Level.NORMAL)
        for facet in [facet for facet in after if (group, facet) in self._ended]:
            del after[facet]
            self._unsettled.add(group)
        if after:
            self._findings[group] = after

    def all(self) -> Sequence[Finding]:
        """Return what ended at this moment, then what stands."""
        if self._listed is None:
            standing = (finding for findings in self._findings.values() for finding in findings.values())
            self._listed = [*self._ended.values(), *standing]
        return self._listed

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return what stands as arrays: group, facet, open of the evidence."""
        positions = {facet: position for position, facet in enumerate(self._facets)}
        numbers = (
            number
            for group, findings in self._findings.items()
            for facet, finding in findings.items()
            for number in (group, positions[facet], finding.since_us)
        )
        return {"standing": np.fromiter(numbers, dtype=np.int64).reshape(-1, 3)}

    def restore(self, arrays: Any) -> None:
        """Take over what stood. Every group is to be judged anew: the figures are not part of a snapshot."""
        self._findings, self._ended, self._ended_at, self._listed = {}, {}, -1, None
        for group, facet, since_us in arrays["standing"].tolist():
            finding = Finding(group, self._facets[facet], Level.FIRING, since_us, 0.0)
            self._findings.setdefault(group, {})[finding.facet] = finding
        self._unsettled = set(self._findings)
