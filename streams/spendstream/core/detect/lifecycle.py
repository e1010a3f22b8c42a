"""The life of alerts: findings to transitions. An alert is what was last published of it, and nothing else.

    (nothing) ──suspect──► pending ──firing──► firing ──┬─ lasting ──► updated, once a minute
        └──────────────────firing──────────────►        └─ normal ───► resolved
                           pending ──normal──► resolved, and nobody was told

So the alert topic is the changelog: whoever reads it knows every alert's state, and a detector that died in the middle
goes on from there. Nothing that was published is decided again; what was decided and not published never happened.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from spendstream.core.detect.describe import title
from spendstream.core.detect.finding import Finding, Level
from spendstream.core.timestamps import from_epoch_us
from spendstream.schemas.alert import (
    Alert,
    Attribution,
    Projection,
    Silence,
    State,
    Transition,
    alert_id,
    transition_id,
)
from spendstream.schemas.watch import Maintenance, Watch

UPDATE_EVERY_S: Final = 60
"""A firing alert is published anew so often, with what is true by then."""

BUDGET_UPDATE_EVERY_S: Final = 3600
"""One of a budget, which may last a month, so often."""

TOLD_AGAIN_FROM: Final = 2.0
"""A firing alert that has grown by so much since it was told is told again, before its renotify interval is over."""

RESOLVED_KEPT_S: Final = 35 * 86_400
"""An alert that is over is remembered so long: a budget's may come back within its month, under the same id."""

Key = tuple[str, str, tuple[str, ...]]
"""Watch, facet, values of the watch's group_by: at most one alert is open for each."""


@dataclass(frozen=True)
class Case:
    """A finding with its watch and its group by name."""

    watch: Watch
    group: dict[str, str]
    finding: Finding

    @property
    def key(self) -> Key:
        return self.watch.name, self.finding.facet, tuple(self.group.values())


@dataclass(frozen=True)
class Why:
    """What is found out about an alert beside the rule's own figures."""

    attribution: Attribution | None = None
    projection: Projection | None = None


Explain = Callable[[Case], Why]
Quiet = Callable[[Watch, dict[str, str], datetime], str | None]


class Lifecycle:
    """Every alert that is open, and those that closed lately.

    ``notifiers``: the names of all notifiers, for watches that name none.
    """

    def __init__(self) -> None:
        self.notifiers: tuple[str, ...] = ()
        self._last: dict[Key, Alert] = {}
        self._told: dict[Key, float] = {}

    def open_alerts(self) -> list[Alert]:
        """Return the alerts that are pending or firing."""
        return [alert for alert in self._last.values() if alert.state != "resolved"]

    def is_firing(self, watch: str, facet: str, group: Sequence[str]) -> bool:
        """Whether a group has a firing alert."""
        alert = self._last.get((watch, facet, tuple(group)))
        return alert is not None and alert.state == "firing"

    def decide(self, case: Case, now_us: int, *, explain: Explain, quiet: Quiet, is_live: bool) -> Alert | None:
        """Return the transition that a finding makes, if any. It counts once ``published`` is told of it.

        ``is_live``: the detection clock is near the wall clock; what is decided in arrears is recorded, not told.
        """
        last, finding = self._last.get(case.key), case.finding
        is_open = last is not None and last.state != "resolved"
        if finding.level is Level.NORMAL:
            return self._ended(case, last, now_us, quiet, is_live) if last is not None and is_open else None
        if last is None or not is_open:
            transition: Transition = "firing" if finding.level is Level.FIRING else "pending"
        elif last.state == "pending":
            if finding.level is not Level.FIRING:
                return None
            transition = "firing"
        elif self._is_due(last, now_us) or (is_live and self._is_untold(case, last, now_us, quiet)):
            transition = "updated"
        else:
            return None
        if transition == "updated" and last is not None and _is_reached_budget(finding):
            why = Why(last.attribution, last.projection)  # what brought the spend there is past
        else:
            why = explain(case)
        return self._make(case, last if is_open else None, transition, now_us, why, quiet, is_live)

    def withdraw(self, alert: Alert, now_us: int, words: str) -> Alert:
        """Return the transition that ends an alert whose watch no longer exists or no longer reports it."""
        return self._over(alert, now_us, f"{alert.title} ({words})", notify=alert.notified_at is not None)

    def published(self, alert: Alert) -> None:
        """Take note of a transition that the alert topic holds. Older ones than the last known change nothing."""
        key = alert.watch, alert.facet, tuple(alert.group.values())
        last = self._last.get(key)
        if last is not None and _order(alert) <= _order(last):
            return
        self._last[key] = alert
        if alert.notify:
            self._told[key] = alert.observed

    def forget_resolved(self, now_us: int) -> None:
        """Forget what closed long ago."""
        before = from_epoch_us(now_us) - timedelta(seconds=RESOLVED_KEPT_S)
        old = [key for key, alert in self._last.items() if alert.state == "resolved" and alert.at < before]
        for key in old:
            del self._last[key]
            self._told.pop(key, None)

    def snapshot(self) -> list[Alert]:
        """Return the last transition of every alert that is remembered."""
        return list(self._last.values())

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take over what was remembered, or what the alert topic holds, in any order."""
        for alert in alerts:
            self.published(alert)

    def _is_due(self, last: Alert, now_us: int) -> bool:
        every_s = BUDGET_UPDATE_EVERY_S if last.rule == "budget" else UPDATE_EVERY_S
        return from_epoch_us(now_us) - last.at >= timedelta(seconds=every_s)

    def _is_untold(self, case: Case, last: Alert, now_us: int, quiet: Quiet) -> bool:
        """Whether nobody knows of a firing alert, though nothing keeps it quiet any more."""
        return (
            last.notified_at is None
            and from_epoch_us(now_us) - last.at >= timedelta(seconds=1)
            and quiet(case.watch, case.group, from_epoch_us(now_us)) is None
        )

    def _make(
        self, case: Case, last: Alert | None, transition: Transition, now_us: int, why: Why, quiet: Quiet, is_live: bool
    ) -> Alert:
        watch, finding, now = case.watch, case.finding, from_epoch_us(now_us)
        started = last.started_at if last is not None else from_epoch_us(finding.since_us)
        identity = last.alert_id if last is not None else alert_id(watch.name, finding.facet, case.group, started)
        former = self._last.get(case.key)
        seq = former.seq + 1 if former is not None and former.alert_id == identity else 1
        state: State = "pending" if transition == "pending" else "firing"
        silenced = quiet(watch, case.group, now)
        notify = state == "firing" and is_live and silenced is None and self._is_news(case, last, now)
        return Alert(
            alert_id=identity,
            transition_id=transition_id(identity, seq, transition),
            seq=seq,
            transition=transition,
            state=state,
            watch=watch.name,
            rule=watch.rule.kind,
            facet=finding.facet,
            severity=watch.severity,
            group=case.group,
            measure=getattr(watch.rule, "measure", "cost"),
            unit=finding.unit,
            started_at=started,
            at=now,
            observed=finding.observed,
            expected=finding.expected,
            limit=finding.limit,
            score=finding.score,
            title=title(watch, case.group, finding),
            attribution=why.attribution,
            projection=why.projection,
            budget=finding.budget,
            notify=notify,
            notified_at=now if notify else last.notified_at if last is not None else None,
            notifiers=self._addressees(watch),
            silenced_by=silenced,
            runbook=watch.runbook,
        )

    def _is_news(self, case: Case, last: Alert | None, now: datetime) -> bool:
        """Whether a firing alert is worth telling: at first, when it has grown, and at each renotify interval."""
        if last is None or last.notified_at is None:
            return True
        told = self._told.get(case.key, last.observed)
        if case.finding.facet != "down" and told > 0 and case.finding.observed >= TOLD_AGAIN_FROM * told:
            return True
        return case.watch.renotify > 0 and now - last.notified_at >= timedelta(seconds=case.watch.renotify)

    def _ended(self, case: Case, last: Alert, now_us: int, quiet: Quiet, is_live: bool) -> Alert:
        now = from_epoch_us(now_us)
        words = title(case.watch, case.group, case.finding)
        tell = last.notified_at is not None and quiet(case.watch, case.group, now) is None and is_live
        return self._over(last, now_us, words, notify=tell, finding=case.finding)

    def _over(self, last: Alert, now_us: int, words: str, *, notify: bool, finding: Finding | None = None) -> Alert:
        now, seq = from_epoch_us(now_us), last.seq + 1
        known = finding or Finding(0, last.facet, Level.NORMAL, 0, last.observed, last.expected, last.limit)
        return last.model_copy(
            update={
                "transition_id": transition_id(last.alert_id, seq, "resolved"),
                "seq": seq,
                "transition": "resolved",
                "state": "resolved",
                "at": now,
                "ends_at": now,
                "observed": known.observed,
                "expected": known.expected,
                "limit": known.limit,
                "score": known.score,
                "title": words,
                "budget": known.budget or last.budget,
                "projection": None,
                "notify": notify,
                "notified_at": now if notify else last.notified_at,
            }
        )

    def _addressees(self, watch: Watch) -> tuple[str, ...]:
        return self.notifiers if watch.notify is None else watch.notify


def _is_reached_budget(finding: Finding) -> bool:
    """Whether a finding is of a share of a budget, such as 80%, which once reached is reached."""
    return finding.budget is not None and finding.facet.endswith("%")


def _order(alert: Alert) -> tuple[datetime, datetime, int]:
    return alert.at, alert.started_at, alert.seq


_Known = Mapping[str, Collection[str]]


class Silences:
    """All silences by id, and the maintenance of the watches in force."""

    def __init__(self, maintenance: Iterable[Maintenance] = ()) -> None:
        self._silences: dict[str, Silence] = {}
        self._maintenance = tuple(maintenance)

    def __iter__(self) -> Iterator[Silence]:
        return iter(self._silences.values())

    def put(self, silence: Silence) -> None:
        """Take in a silence; it replaces the one of its id."""
        self._silences[silence.silence_id] = silence

    def plan(self, maintenance: Iterable[Maintenance]) -> None:
        """Replace the maintenance: the watches were edited."""
        self._maintenance = tuple(maintenance)

    def quiet(
        self,
        watch: str,
        group: Mapping[str, str],
        at: datetime,
        scope: Mapping[Any, Collection[str]] | None = None,
    ) -> str | None:
        """Return what keeps a group's alerts quiet at a moment, as ``silence 3f2a9c01`` or ``maintenance db-upgrade``.

        ``watch``: its name. ``group``: the values of its ``group_by``. ``scope``: the watch's, where a dimension that
        the group doesn't have may be fixed: what is grouped by feature within ``team: search`` is quiet when team
        search is. Where several hold, the one that ends last is told. Start inclusive, end exclusive.

        Returns: None, where nothing does.
        """
        known = {**(scope or {}), **{name: (value,) for name, value in group.items()}}
        held = [*self._silenced(watch, known, at), *self._maintained(watch, known, at)]
        return max(held)[1] if held else None

    def _silenced(self, watch: str, known: _Known, at: datetime) -> Iterator[tuple[datetime, str]]:
        for each in self._silences.values():
            if not each.starts_at <= at < each.ends_at or each.watch not in (None, watch):
                continue
            if _covers({name: (value,) for name, value in each.group.items()}, known):
                yield each.ends_at, f"silence {each.silence_id}"

    def _maintained(self, watch: str, known: _Known, at: datetime) -> Iterator[tuple[datetime, str]]:
        for each in self._maintenance:
            if not each.starts_at <= at < each.ends_at or (each.watches and watch not in each.watches):
                continue
            if _covers({str(name): values for name, values in each.scope.items()}, known):
                yield each.ends_at, f"maintenance {each.name}"


def _covers(allowed: _Known, known: _Known) -> bool:
    """Whether all that a group can hold lies within the values allowed. A dimension that isn't known does not."""
    return all(known.get(name) and set(known[name]) <= set(values) for name, values in allowed.items())
