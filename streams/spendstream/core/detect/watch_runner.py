"""One watch at work: its groups, its evaluator, and whether the evaluator knows its whole period."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.anomaly import AnomalyEvaluator
from spendstream.core.detect.budget import BudgetEvaluator
from spendstream.core.detect.finding import Evaluator, Groups, Updates
from spendstream.core.detect.rollups import Changes
from spendstream.core.detect.threshold import ThresholdEvaluator
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Watch


@dataclass
class WatchRunner:
    """One watch at work. ``group_of``: the group of each combination; -1 out of scope.

    ``is_seeded``: nothing of its period is missing; only a budget may lack some.
    """

    watch: Watch
    groups: Groups
    evaluator: Evaluator
    is_seeded: bool
    group_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def map(self, combinations: Sequence[tuple[str, ...]]) -> None:
        """Map new combinations to their groups."""
        fresh = [self.groups.find(values) for values in combinations[len(self.group_of) :]]
        if fresh:
            self.group_of = np.append(self.group_of, [-1 if number is None else number for number in fresh])

    def apply(self, changes: Changes, now_us: int) -> None:
        """Add changes of combinations that are mapped."""
        updates = self.updates(changes)
        if len(updates.groups):
            self.evaluator.apply(updates, now_us)

    def updates(self, changes: Changes) -> Updates:
        """Return what was added to the watch's groups, of combinations that are mapped."""
        groups = self.group_of[changes.combinations]
        mine = groups >= 0
        return Updates(groups[mine], changes.minutes_us[mine], changes.sums[mine])


def evaluator_of(watch: Watch, groups: Groups) -> Evaluator:
    """Return a fresh evaluator for a watch's rule."""
    rule = watch.rule
    if isinstance(rule, AnomalyRule):
        return AnomalyEvaluator(rule, groups)
    if isinstance(rule, BudgetRule):
        return BudgetEvaluator(rule, groups)
    return ThresholdEvaluator(rule, groups)


def definition(watch: Watch) -> str:
    """Return a digest of what a watch's state depends on: rule, scope and grouping, not its notifiers."""
    parts = watch.model_dump_json(include={"rule", "scope", "group_by"})
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
