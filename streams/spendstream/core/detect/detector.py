"""All watches together: rollup records in, alert transitions out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from spendstream.core.detect.attribution import Profiles
from spendstream.core.detect.finding import Arrays, Evaluator, Finding, Groups, Level
from spendstream.core.detect.lifecycle import Case, Lifecycle, Silences, Why
from spendstream.core.detect.reasons import Reasons, RecentMinutes
from spendstream.core.detect.rollups import Changes, RollupBook, RollupRecord
from spendstream.core.detect.seeding import Seeding
from spendstream.core.detect.watch_runner import WatchRunner, definition, evaluator_of
from spendstream.core.timestamps import US
from spendstream.schemas.alert import Alert, Silence
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Watch, Watches

TRUST_ABSENCE_AFTER_US: Final = 240 * US
"""How long after a restart an alert that no rule reports stays open: its evidence may be read again."""

Sections = Mapping[str, Arrays]
"""A snapshot: named arrays, by section."""

_ALERTS: Final = TypeAdapter(list[Alert])
_SILENCES: Final = TypeAdapter(list[Silence])


class Detector:
    """What is watched, what was learned, what has been alerted. One writer; time comes from its caller.

    ``dimensions``: of the rollups. ``keep_s``: the meter's allowed lateness. ``explains``: whether alerts carry
    their reasons.
    """

    def __init__(self, dimensions: Sequence[str], keep_s: int, *, explains: bool = True) -> None:
        self.book = RollupBook(dimensions, keep_s)
        self.lifecycle = Lifecycle()
        self.silences = Silences()
        self._explains = explains
        self._recent = RecentMinutes()
        self._profiles = Profiles(tuple(dimensions))
        self._runners: dict[str, WatchRunner] = {}
        self._restored: dict[str, Arrays] = {}
        self._trust_absence_from_us = 0

    def configure(self, watches: Watches) -> None:
        """Switch to a watches file. A watch whose rule, scope and grouping are the same keeps its state."""
        self.lifecycle.notifiers = tuple(notifier.name for notifier in watches.notifiers)
        self.silences.plan(watches.maintenance)
        former, self._runners = self._runners, {}
        for watch in watches.watches:
            same = former.get(watch.name)
            if same is not None and definition(same.watch) == definition(watch):
                same.watch = watch
                self._runners[watch.name] = same
            else:
                self._runners[watch.name] = self._take_up(watch)

    def absorb(self, records: Sequence[RollupRecord], now_us: int) -> int:
        """Absorb rollup records in the order of their partitions. Returns how many aggregates changed."""
        changes = self.book.absorb(records)
        self.take(changes, now_us)
        return len(changes)

    def take(self, changes: Changes, now_us: int) -> None:
        """Absorb what was added to minutes, by the numbers of ``book.combination``."""
        if len(changes):
            self._recent.add(changes, now_us)
            for runner in self._runners.values():
                runner.map(self.book.combinations)
                runner.apply(changes, now_us)

    def decide(self, now_us: int, *, is_live: bool) -> list[Alert]:
        """Evaluate every watch. Returns the transitions to publish; they count once they are passed to ``published``.

        ``is_live``: the detection clock is near the wall clock, so that alerts notify.
        """
        # the profiles learn from the minutes that closed, except from groups whose spend has a firing alert
        for minute_us, members, sums in self._recent.close(now_us):
            self._profiles.learn(minute_us, self._rows(members), sums, self._rows(self._held()))
        decided = [alert for runner in self._runners.values() for alert in self._evaluate(runner, now_us, is_live)]
        return decided + [
            self.lifecycle.withdraw(alert, now_us, "no longer watched")
            for alert in self.lifecycle.open_alerts()
            if alert.watch not in self._runners
        ]

    def published(self, alerts: Sequence[Alert]) -> None:
        """Record transitions that the alert topic holds."""
        for alert in alerts:
            self.lifecycle.published(alert)

    def unseeded(self) -> list[str]:
        """Return the watches that may lack some of their period: budgets that began within it."""
        return [name for name, runner in list(self._runners.items()) if not runner.is_seeded]

    def doubt_budgets(self) -> None:
        """Records were lost: every budget may lack something, and is seeded again."""
        for runner in self._runners.values():
            runner.is_seeded = not isinstance(runner.watch.rule, BudgetRule)

    def begin_seeding(self, now_us: int) -> Seeding | None:
        """Begin a round of seeding for the watches that are not seeded; None where all are."""
        wanting = [runner for runner in self._runners.values() if not runner.is_seeded]
        return Seeding(self.book, wanting, now_us) if wanting else None

    def tidy(self, now_us: int) -> None:
        """Forget what is final or long over. Call it every minute or so."""
        self.book.forget_final()
        self.lifecycle.forget_resolved(now_us)
        self._profiles.forget(self._rows(self._recent.members()))

    def evaluator(self, watch: str) -> tuple[Groups, Evaluator]:
        """Return the groups and the evaluator of a watch, to be read. Raises: KeyError."""
        runner = self._runners[watch]
        return runner.groups, runner.evaluator

    def group_count(self) -> dict[str, int]:
        """Return the number of groups by watch."""
        return {name: len(runner.groups) for name, runner in self._runners.items()}

    def snapshot(self) -> Sections:
        """Return all of the state, as it is now."""
        sections: dict[str, Arrays] = {
            "book": self.book.snapshot(),
            "recent": self._recent.snapshot(),
            "profiles": self._profiles.snapshot(),
            "alerts": {"json": np.frombuffer(_ALERTS.dump_json(self.lifecycle.snapshot()), dtype=np.uint8)},
        }
        for name, runner in self._runners.items():
            sections[f"watch/{name}"] = {
                "definition": np.array([definition(runner.watch)]),
                "seeded": np.array([runner.is_seeded]),
                "groups": np.array(runner.groups.values, dtype=np.str_).reshape(
                    len(runner.groups), len(runner.watch.group_by)
                ),
                **{f"state/{key}": array for key, array in runner.evaluator.snapshot().items()},
            }
        return sections

    def restore(self, sections: Sections, now_us: int) -> None:
        """Restore a snapshot, before ``configure``. A watch that was changed since starts over."""
        numbers = self.book.restore(sections["book"])
        self._recent.restore(sections["recent"], numbers)
        self._profiles.restore(sections["profiles"])
        self.lifecycle.restore(_ALERTS.validate_json(sections["alerts"]["json"].tobytes()))
        self._restored = {
            name.removeprefix("watch/"): arrays for name, arrays in sections.items() if name.startswith("watch/")
        }
        self._trust_absence_from_us = now_us + TRUST_ABSENCE_AFTER_US

    def _take_up(self, watch: Watch) -> WatchRunner:
        groups = Groups(watch, self.book.dimensions)
        runner = WatchRunner(watch, groups, evaluator_of(watch, groups), not isinstance(watch.rule, BudgetRule))
        arrays = self._restored.pop(watch.name, None)
        if arrays is not None and str(arrays["definition"][0]) == definition(watch):
            for values in arrays["groups"].tolist():
                groups.number(tuple(values))
            runner.is_seeded |= bool(arrays["seeded"][0])
            runner.map(self.book.combinations)
            runner.evaluator.restore(
                {key.removeprefix("state/"): array for key, array in arrays.items() if key.startswith("state/")}
            )
        else:
            runner.map(self.book.combinations)
            known = self.book.known_since(0)
            if len(known):
                runner.apply(known, int(known.minutes_us.max()))
        return runner

    def _evaluate(self, runner: WatchRunner, now_us: int, is_live: bool) -> list[Alert]:
        decided, reported, firing = [], set(), set()
        for finding in runner.evaluator.findings(now_us):
            case = Case(runner.watch, runner.groups.named(finding.group), finding)
            reported.add(case.key)
            if finding.level is Level.FIRING:
                firing.add(finding.group)
            decided.append(self._decide(runner, case, now_us, is_live))
        runner.evaluator.hold(firing)
        # a budget that lacks some of its period can't tell that anything is over
        if is_live and runner.is_seeded and now_us >= self._trust_absence_from_us:
            decided += [
                self._decide(runner, _over(runner.watch, alert), now_us, is_live)
                for alert in self.lifecycle.open_alerts()
                if alert.watch == runner.watch.name
                and (alert.watch, alert.facet, tuple(alert.group.values())) not in reported
            ]
        return [alert for alert in decided if alert is not None]

    def _decide(self, runner: WatchRunner, case: Case, now_us: int, is_live: bool) -> Alert | None:
        def explain(case: Case) -> Why:
            if not self._explains:
                return Why()
            wanted = runner.group_of == case.finding.group
            return Reasons(self.book, self._recent, self._profiles).of(case, wanted, now_us)

        def quiet(watch: Watch, group: Mapping[str, str], at: datetime) -> str | None:
            return self.silences.quiet(watch.name, group, at, {str(n): values for n, values in watch.scope.items()})

        return self.lifecycle.decide(case, now_us, explain=explain, quiet=quiet, is_live=is_live)

    def _rows(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the profiles' numbers of combinations."""
        known = [self._profiles.combination(self.book.combinations[member]) for member in members.tolist()]
        return np.array(known, dtype=np.int64)

    def _held(self) -> NDArray[np.int64]:
        """Return the combinations of every group whose spend has a firing alert."""
        held = np.zeros(len(self.book.combinations), dtype=np.bool_)
        for runner in self._runners.values():
            if not isinstance(runner.watch.rule, AnomalyRule) or runner.watch.rule.measure != "cost":
                continue
            firing = {
                runner.groups.number(tuple(alert.group.values()))
                for alert in self.lifecycle.open_alerts()
                if alert.watch == runner.watch.name and alert.state == "firing"
            }
            if firing:
                runner.map(self.book.combinations)
                held |= np.isin(runner.group_of, list(firing))
        return np.flatnonzero(held)


def _over(watch: Watch, alert: Alert) -> Case:
    """Return the finding that an open alert is over because its rule no longer reports it."""
    finding = Finding(
        group=-1,
        facet=alert.facet,
        level=Level.NORMAL,
        since_us=0,
        observed=alert.observed if alert.expected is None else alert.expected,
        expected=alert.expected,
        limit=alert.limit,
        unit=alert.unit,
        budget=alert.budget,
    )
    return Case(watch, alert.group, finding)
