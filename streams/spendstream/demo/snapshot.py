"""What the demo shows, read from ClickHouse: spend of the last minute and since the start."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spendstream.demo.alerts import AlertLine, read_alerts

MINUTE_S: Final = 60.0
_RATE_WINDOW_S: Final = 5

_LAST_MINUTE: Final = """
SELECT team, feature, model, count(), sum(cost_usd), countIf(cost_usd IS NULL)
FROM calls_v WHERE occurred_at >= now64(6) - INTERVAL 60 SECOND GROUP BY team, feature, model
"""
_SINCE_START: Final = """
SELECT team, feature, model, sum(calls), sum(cost_usd), sum(unpriced_calls) FROM spend_1m GROUP BY team, feature, model
"""
_JUST_INSERTED: Final = f"""
SELECT count(), quantile(0.5)(waited), quantile(0.99)(waited) FROM (
    SELECT dateDiff('millisecond', recorded_at, inserted_at) / 1000 AS waited
    FROM calls_v
    WHERE inserted_at >= now64(3) - INTERVAL {_RATE_WINDOW_S} SECOND AND occurred_at >= now64(6) - INTERVAL 60 SECOND
)
"""
_DEAD_LETTERS: Final = "SELECT reason, count() FROM dead_letters_v GROUP BY reason ORDER BY count() DESC, reason"


class Spend(NamedTuple):
    """Calls and what they cost. ``unpriced``: of the calls, those that nobody knows a price for."""

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

    ``alerts``: those that fired, the first one first. ``history_s``: of the past, what is still to be published.
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
    read_s: float = field(default=0.0, compare=False)

    @property
    def spend_per_minute(self) -> Decimal:
        """Spend of the last minute, or, within the first one, at its rate so far."""
        scale = Decimal(MINUTE_S / max(1.0, min(MINUTE_S, self.elapsed_s)))
        return total(self.last_minute).cost_usd * scale


def read_snapshot(
    client: Any, elapsed_s: float, published: int, *, began_at: datetime, history_s: float = 0.0
) -> Snapshot:
    """Ask ClickHouse. ``client``: one whose default database is the meter's. Raises the client's errors."""
    started = time.monotonic()
    last_minute, since_start = (_lines(client.query(sql).result_rows) for sql in (_LAST_MINUTE, _SINCE_START))
    inserted, median, p99 = client.query(_JUST_INSERTED).result_rows[0]
    dead = client.query(_DEAD_LETTERS).result_rows
    return Snapshot(
        last_minute=last_minute,
        since_start=since_start,
        dead_letters=tuple((reason, int(count)) for reason, count in dead),
        calls_per_s=inserted / max(1.0, min(_RATE_WINDOW_S, elapsed_s)),
        lag_s=(float(median), float(p99)) if inserted else None,
        elapsed_s=elapsed_s,
        published=published,
        alerts=read_alerts(client, began_at),
        at=datetime.now(began_at.tzinfo),
        history_s=history_s,
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
