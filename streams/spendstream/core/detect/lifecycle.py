"""The life of alerts: findings to transitions, and what silences them. An alert is what was last published of it.

    (nothing) ──suspect──► pending ──firing──► firing ──┬─ lasting ──► updated, once a minute
        └──────────────────firing──────────────►        └─ normal ───► resolved
                           pending ──normal──► resolved, and nobody was notified

So the alert topic is the changelog: whoever reads it knows every alert's state, and the successor of a detector that
died continues from there. What was published is not decided again; what was decided and not published never happened.
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
"""How often a firing alert is published again, with the present figures."""

BUDGET_UPDATE_EVERY_S: Final = 3600
"""The same for a budget's alert, which may last a month."""

NOTIFY_AGAIN_FACTOR: Final = 2.0
"""A firing alert that has grown by this factor since the last notification notifies again, before ``renotify``."""

RESOLVED_KEPT_S: Final = 35 * 86_400
"""How long a resolved alert is remembered: a budget's may come back within its month, under the same id."""

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
    """What is known about an alert besides the rule's own figures."""

    attribution: Attribution | None = None
    projection: Projection | None = None


Explain = Callable[[Case], Why]
Quiet = Callable[[Watch, dict[str, str], datetime], str | None]


class Lifecycle:
    """Every open alert, and those that closed lately.

    ``notifiers``: the names of all notifiers, for watches that name none.
    """

    def __init__(self) -> None:
        self.notifiers: tuple[str, ...] = ()
        self._last: dict[Key, Alert] = {}
        self._notified: dict[Key, float] = {}

    def open_alerts(self) -> list[Alert]:
        """Return the alerts that are pending or firing."""
        return [alert for alert in self._last.values() if alert.state != "resolved"]

    def is_firing(self, watch: str, facet: str, group: Sequence[str]) -> bool:
        """Whether a group has a firing alert."""
        alert = self._last.get((watch, facet, tuple(group)))
        return alert is not None and alert.state == "firing"

    def decide(self, case: Case, now_us: int, *, explain: Explain, quiet: Quiet, is_live: bool) -> Alert | None:
        """Return the transition that a finding causes, if any. It counts once it is passed to ``published``.

        ``is_live``: the detection clock is near the wall clock. What is decided in a backlog is recorded, but notifies
        nobody.
        """
        last, finding = self._last.get(case.key), case.finding
        is_open = last is not None and last.state != "resolved"
        now = from_epoch_us(now_us)
        if finding.level is Level.NORMAL:
            if last is None or not is_open:
                return None
            text = title(case.watch, case.group, finding)
            notify = last.notified_at is not None and quiet(case.watch, case.group, now) is None and is_live
            return self._over(last, now_us, text, notify=notify, finding=finding)
        if last is None or not is_open:
            transition: Transition = "firing" if finding.level is Level.FIRING else "pending"
        elif last.state == "pending":
            if finding.level is not Level.FIRING:
                return None
            transition = "firing"
        else:
            every_s = BUDGET_UPDATE_EVERY_S if last.rule == "budget" else UPDATE_EVERY_S
            is_due = now - last.at >= timedelta(seconds=every_s)
            if not is_due and not (is_live and self._is_unnotified(case, last, now_us, quiet)):
                return None
            transition = "updated"
        is_reached_threshold = finding.budget is not None and finding.facet.endswith("%")
        if transition == "updated" and last is not None and is_reached_threshold:
            why = Why(last.attribution, last.projection)  # what brought the spend there is in the past
        else:
            why = explain(case)
        return self._make(case, last if is_open else None, transition, now_us, why, quiet, is_live)

    def withdraw(self, alert: Alert, now_us: int, reason: str) -> Alert:
        """Return the transition that ends an alert whose watch no longer exists or no longer reports it."""
        return self._over(alert, now_us, f"{alert.title} ({reason})", notify=alert.notified_at is not None)

    def published(self, alert: Alert) -> None:
        """Record a transition that the alert topic holds. One older than the last known changes nothing."""
        key = alert.watch, alert.facet, tuple(alert.group.values())
        last = self._last.get(key)
        if last is not None and _order(alert) <= _order(last):
            return
        self._last[key] = alert
        if alert.notify:
            self._notified[key] = alert.observed

    def forget_resolved(self, now_us: int) -> None:
        """Forget what closed long ago."""
        before = from_epoch_us(now_us) - timedelta(seconds=RESOLVED_KEPT_S)
        old = [key for key, alert in self._last.items() if alert.state == "resolved" and alert.at < before]
        for key in old:
            del self._last[key]
            self._notified.pop(key, None)

    def snapshot(self) -> list[Alert]:
        """Return the last transition of every alert that is remembered."""
        return list(self._last.values())

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Restore what was remembered, or what the alert topic holds, in any order."""
        for alert in alerts:
            self.published(alert)

    def _is_unnotified(self, case: Case, last: Alert, now_us: int, quiet: Quiet) -> bool:
        """Return whether nobody was notified of a firing alert that nothing silences any more."""
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
            notifiers=self.notifiers if watch.notify is None else watch.notify,
            silenced_by=silenced,
            runbook=watch.runbook,
        )

    def _is_news(self, case: Case, last: Alert | None, now: datetime) -> bool:
        """Return whether a firing alert should notify: at first, when it has grown, and at each renotify interval."""
        if last is None or last.notified_at is None:
            return True
        notified = self._notified.get(case.key, last.observed)
        if case.finding.facet != "down" and notified > 0 and case.finding.observed >= NOTIFY_AGAIN_FACTOR * notified:
            return True
        return case.watch.renotify > 0 and now - last.notified_at >= timedelta(seconds=case.watch.renotify)

    def _over(self, last: Alert, now_us: int, text: str, *, notify: bool, finding: Finding | None = None) -> Alert:
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
                "title": text,
                "budget": known.budget or last.budget,
                "projection": None,
                "notify": notify,
                "notified_at": now if notify else last.notified_at,
            }
        )


def _order(alert: Alert) -> tuple[datetime, datetime, int]:
    return alert.at, alert.started_at, alert.seq


_Known = Mapping[str, Collection[str]]


class Silences:
    """What silences an alert: silences that somebody wrote, and planned maintenance."""

    def __init__(self, maintenance: Iterable[Maintenance] = ()) -> None:
        self._silences: dict[str, Silence] = {}
        self._maintenance = tuple(maintenance)

    def __iter__(self) -> Iterator[Silence]:
        return iter(self._silences.values())

    def put(self, silence: Silence) -> None:
        """Add a silence; it replaces the one with the same id."""
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
        """Return what silences a group's alerts at a moment, as ``silence 3f2a9c01`` or ``maintenance db-upgrade``.

        ``watch``: its name. ``group``: the values of its ``group_by``. ``scope``: the watch's, which may fix a
        dimension that the group doesn't have: a watch grouped by feature within ``team: search`` is silenced with team
        search. Of several, returns the one that ends last; None where there is none. Start inclusive, end exclusive.
        """
        known = {**(scope or {}), **{name: (value,) for name, value in group.items()}}
        silences = [
            (each.ends_at, f"silence {each.silence_id}")
            for each in self._silences.values()
            if each.starts_at <= at < each.ends_at
            and each.watch in (None, watch)
            and _covers({name: (value,) for name, value in each.group.items()}, known)
        ]
        maintenance = [
            (each.ends_at, f"maintenance {each.name}")
            for each in self._maintenance
            if each.starts_at <= at < each.ends_at
            and (not each.watches or watch in each.watches)
            and _covers({str(name): values for name, values in each.scope.items()}, known)
        ]
        held = silences + maintenance
        return max(held)[1] if held else None


def _covers(allowed: _Known, known: _Known) -> bool:
    """Return whether all that a group can hold is within the allowed values. An unknown dimension never is."""
    return all(known.get(name) and set(known[name]) <= set(values) for name, values in allowed.items())
