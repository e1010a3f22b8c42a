"""What the demo shows, read from ClickHouse: spend of the last minute and since the start, and the alerts.

At its end, the account: what was published against what was metered, and the ledger against the rollups.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spendstream.core.money import exact_dollars
from spendstream.demo.publisher import PublisherStatus
from spendstream.demo.scenario import AURORA, FEATURES, Incident
from spendstream.reconcile.positions import read_markers
from spendstream.schemas.progress import Counters
from spendstream.settings import Settings

AFTERMATH_S: Final = 180.0
"""How long after its incident ends an alert may fire: a minute is judged once it is closed, and some rules need two."""

_ALERTS: Final = """
SELECT
    toString(alert_id), argMax(toString(state), seq), argMax(toString(severity), seq),
    any(toString(watch)), any(toString(facet)), any(group['feature']), any(group['provider']),
    argMaxIf(title, seq, state = 'firing'), argMax(title, seq),
    argMaxIf(title, abs(observed - ifNull(expected, 0)), state = 'firing'),
    argMaxIf(reason, abs(observed - ifNull(expected, 0)), state = 'firing'),
    argMinIf(reason, seq, state = 'firing' AND reason != ''), argMaxIf(reason, seq, state = 'firing'),
    argMaxIf(if(empty(contributors), '', concat(contributors[1].1, ' ', contributors[1].2)), seq, state = 'firing'),
    toUnixTimestamp64Micro(minIf(at, state = 'firing')),
    toUnixTimestamp64Micro(maxIf(at, state = 'resolved'))
FROM alerts_v
WHERE at >= fromUnixTimestamp64Micro({since:Int64})
GROUP BY alert_id
HAVING countIf(state = 'firing') > 0
ORDER BY minIf(at, state = 'firing'), alert_id
"""


@dataclass(frozen=True)
class AlertLine:
    """An alert's current state.

    ``title`` and ``reason``: the latest while it fired; ``worst_…``: when it was farthest from what is expected;
    ``first_reason``: that of the first transition; ``last_title``: the current one, firing or resolved.
    """

    alert_id: str
    state: str
    severity: str
    watch: str
    facet: str
    feature: str
    provider: str
    title: str
    last_title: str
    worst_title: str
    worst_reason: str
    first_reason: str
    reason: str
    contributor: str
    fired_at: datetime
    resolved_at: datetime | None

    @property
    def is_firing(self) -> bool:
        """Whether it is not resolved."""
        return self.state != "resolved"

    def lasted_s(self, now: datetime) -> float:
        """Return for how many seconds it has been firing, or fired until it was resolved."""
        return ((self.resolved_at or now) - self.fired_at).total_seconds()


def read_alerts(client: Any, since: datetime) -> tuple[AlertLine, ...]:
    """Return the alerts that fired since a moment, in order. Raises the client's errors."""
    since_us = (since - _EPOCH) // timedelta(microseconds=1)
    rows = client.query(_ALERTS.replace("{since:Int64}", str(since_us))).result_rows
    return tuple(map(_line, rows))


def tells_of(alert: AlertLine, incident: Incident) -> bool:
    """Whether an alert is about an incident: of its feature or a provider of it, and begun by then."""
    if not incident.starts_at <= alert.fired_at <= incident.ends_at + timedelta(seconds=AFTERMATH_S):
        return False
    if alert.feature:
        return alert.feature == incident.feature
    return alert.provider in _PROVIDERS[incident.feature]


def caught(incident: Incident, alerts: Iterable[AlertLine]) -> list[AlertLine]:
    """Return the alerts about an incident, the first one first."""
    return [alert for alert in alerts if tells_of(alert, incident)]


def unexplained(alerts: Sequence[AlertLine], incidents: Sequence[Incident]) -> list[AlertLine]:
    """Return the alerts that neither an incident nor the usual traffic explains."""
    return [
        alert
        for alert in alerts
        if usual_cause(alert) is None and not any(tells_of(alert, incident) for incident in incidents)
    ]


def usual_cause(alert: AlertLine) -> str | None:
    """Return why the usual traffic, without any incident, raises an alert; None where it should not."""
    if alert.watch == "unpriced-model" and alert.provider == AURORA.provider:
        return "a model without a price"
    if alert.watch == "research-budget":
        return "the usual spend"
    return None


_TEXTS: Final = tuple(each.name for each in fields(AlertLine))[:-2]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PROVIDERS: Final = {feature.name: frozenset(model.provider for model, _ in feature.models) for feature in FEATURES}


def _line(row: Sequence[Any]) -> AlertLine:
    texts: dict[str, Any] = dict(zip(_TEXTS, map(str, row), strict=False))
    fired_us, resolved_us = row[len(_TEXTS) :]
    resolved_at = _at(resolved_us) if texts["state"] == "resolved" else None
    return AlertLine(**texts, fired_at=_at(fired_us), resolved_at=resolved_at)


def _at(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=int(us))


MINUTE_S: Final = 60.0
_RATE_WINDOW_S: Final = 5

_LAST_MINUTE: Final = """
SELECT team, feature, model, count(), sum(cost_usd), countIf(cost_usd IS NULL)
FROM calls_v WHERE occurred_at >= {until} - INTERVAL 60 SECOND GROUP BY team, feature, model
"""
_NOW: Final = "now64(6)"
_NEWEST: Final = "(SELECT max(occurred_at) FROM calls_v)"
_SINCE_START: Final = """
SELECT team, feature, model, sum(calls), sum(cost_usd), sum(unpriced_calls) FROM spend_1m GROUP BY team, feature, model
"""
_JUST_INSERTED: Final = """
SELECT count(), quantile(0.5)(waited), quantile(0.99)(waited) FROM (
    SELECT dateDiff('millisecond', recorded_at, inserted_at) / 1000 AS waited
    FROM calls_v
    WHERE inserted_at >= now64(3) - INTERVAL {window_s} SECOND AND occurred_at >= now64(6) - INTERVAL {since_s} SECOND
)
"""
_DEAD_LETTERS: Final = "SELECT reason, count() FROM dead_letters_v GROUP BY reason ORDER BY count() DESC, reason"


class Spend(NamedTuple):
    """Calls and what they cost. ``unpriced``: the calls without a known price."""

    calls: int = 0
    cost_usd: Decimal = Decimal(0)
    unpriced: int = 0

    def plus(self, other: "Spend") -> "Spend":
        return Spend(self.calls + other.calls, self.cost_usd + other.cost_usd, self.unpriced + other.unpriced)


class Line(NamedTuple):
    """Spend of one team, feature and model."""

    team: str
    feature: str
    model: str
    spend: Spend


@dataclass(frozen=True)
class Snapshot:
    """One look. ``lag_s``: from a record's time in Kafka to its row, (median, 99th percentile) of the last seconds.

    ``last_minute``: while the past is loaded, its newest minute that has arrived. ``alerts``: those that fired, in
    that order. ``history_s``: seconds of the past that are still to be published; ``loaded_s``: those that are.
    """

    last_minute: tuple[Line, ...] = ()
    since_start: tuple[Line, ...] = ()
    dead_letters: tuple[tuple[str, int], ...] = ()
    calls_per_s: float = 0.0
    lag_s: tuple[float, float] | None = None
    elapsed_s: float = 0.0
    published: int = 0
    alerts: tuple[AlertLine, ...] = ()
    at: datetime | None = None
    history_s: float = 0.0
    loaded_s: float = 0.0
    read_s: float = field(default=0.0, compare=False)

    @property
    def spend_per_minute(self) -> Decimal:
        """Spend of the last minute, or, within the first one, at its rate so far."""
        covered_s = self.loaded_s + (0 if self.history_s else self.elapsed_s)
        scale = Decimal(MINUTE_S / max(1.0, min(MINUTE_S, covered_s)))
        return total(self.last_minute).cost_usd * scale


def read_snapshot(client: Any, elapsed_s: float, status: PublisherStatus, began_at: datetime) -> Snapshot:
    """Ask ClickHouse. ``client``: one whose default database is the meter's. Raises the client's errors."""
    started = time.monotonic()
    history_s, loaded_s = status.history_s or 0.0, status.loaded_s
    minute = _LAST_MINUTE.format(until=_NEWEST if history_s else _NOW)
    last_minute, since_start = (_lines(client.query(sql).result_rows) for sql in (minute, _SINCE_START))
    inserting = _JUST_INSERTED.format(window_s=_RATE_WINDOW_S, since_s=round(MINUTE_S + history_s + loaded_s))
    inserted, median, p99 = client.query(inserting).result_rows[0]
    dead = client.query(_DEAD_LETTERS).result_rows
    return Snapshot(
        last_minute=last_minute,
        since_start=since_start,
        dead_letters=tuple((reason, int(count)) for reason, count in dead),
        calls_per_s=inserted / max(1.0, min(_RATE_WINDOW_S, elapsed_s)),
        lag_s=(float(median), float(p99)) if inserted else None,
        elapsed_s=elapsed_s,
        published=status.published,
        alerts=read_alerts(client, began_at),
        at=datetime.now(began_at.tzinfo),
        history_s=history_s,
        loaded_s=loaded_s,
        read_s=time.monotonic() - started,
    )


def total(lines: Iterable[Line]) -> Spend:
    """Return the sum of the lines."""
    whole = Spend()
    for line in lines:
        whole = whole.plus(line.spend)
    return whole


def by(dimension: str, lines: Iterable[Line]) -> dict[str, Spend]:
    """Return spend by ``team``, ``feature`` or ``model``, the dearest first."""
    grouped: dict[str, Spend] = {}
    for line in lines:
        name = getattr(line, dimension)
        grouped[name] = grouped.get(name, Spend()).plus(line.spend)
    return dict(sorted(grouped.items(), key=lambda item: (-item[1].cost_usd, -item[1].calls, item[0])))


def _lines(rows: Sequence[Sequence[Any]]) -> tuple[Line, ...]:
    return tuple(
        Line(team, feature, model, Spend(int(calls), cost_usd or Decimal(0), int(unpriced)))
        for team, feature, model, calls, cost_usd, unpriced in rows
    )


@dataclass(frozen=True)
class Totals:
    """What ClickHouse holds. Amounts are USD."""

    ledger_calls: int = 0
    ledger_usd: Decimal = Decimal(0)
    rollup_calls: int = 0
    rollup_usd: Decimal = Decimal(0)
    dead_letters: int = 0


@dataclass(frozen=True)
class Equation:
    """One line of the account: its text, and whether it holds."""

    text: str
    holds: bool


def read_totals(client: Any) -> Totals:
    """Ask ClickHouse. ``client``: one whose default database is the meter's. Raises the client's errors."""
    ledger_calls, ledger_usd = client.query("SELECT count(), sum(cost_usd) FROM calls_v").result_rows[0]
    rollup_calls, rollup_usd = client.query("SELECT sum(calls), sum(cost_usd) FROM spend_1m").result_rows[0]
    dead_letters = client.query("SELECT count() FROM dead_letters_v").result_rows[0][0]
    return Totals(
        int(ledger_calls), ledger_usd or Decimal(0), int(rollup_calls), rollup_usd or Decimal(0), int(dead_letters)
    )


async def read_counters(settings: Settings) -> Counters:
    """Return what became of every record, from the newest marker of each partition.

    Raises: TimeoutError, when the broker does not send what it has.
    """
    markers = (await read_markers(settings)).values()
    return Counters(**{name: sum(getattr(each.counters, name) for each in markers) for name in Counters.model_fields})


def account(published: PublisherStatus, counters: Counters, before: Totals, after: Totals) -> list[Equation]:
    """Return the equations that hold if nothing was lost and nothing was counted twice.

    ``before``: what ClickHouse held when the demo began: rows of earlier runs.
    """
    metered, duplicates, dead = counters.metered, counters.duplicates, counters.dead_letters
    rolled_up = after.rollup_calls - before.rollup_calls
    rows, letters = after.ledger_calls - before.ledger_calls, after.dead_letters - before.dead_letters
    return [
        Equation(
            f"published {published.published:,} = metered {metered:,} + duplicates {duplicates:,} "
            f"+ dead letters {dead:,}",
            published.published == metered + duplicates + dead,
        ),
        Equation(
            f"as the services sent them: {published.events:,} events, {published.duplicates:,} duplicates, "
            f"{published.malformed:,} malformed",
            (published.events, published.duplicates, published.malformed) == (metered, duplicates, dead),
        ),
        Equation(
            f"ledger {exact_dollars(after.ledger_usd)} = rollups {exact_dollars(after.rollup_usd)}",
            after.ledger_usd == after.rollup_usd,
        ),
        Equation(
            f"in ClickHouse: {rows:,} calls in the ledger, {rolled_up:,} in the rollups, {letters:,} dead letters",
            rows == metered == rolled_up and letters == dead,
        ),
    ]
