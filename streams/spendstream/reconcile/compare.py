"""Ledger against rollups, in ClickHouse: only what differs leaves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from spendstream.reconcile.measures import CELL, MINUTE, SUMS
from spendstream.schemas.measures import TOKENS


@dataclass(frozen=True)
class Range:
    """``[start, end)`` in event time; None is open. Whole hours, since a cell must not be cut."""

    start: datetime | None = None
    end: datetime | None = None

    @classmethod
    def of(cls, start: datetime | None, end: datetime | None) -> Range:
        """Widen to whole hours, in UTC: 12:10 to 13:20 is 12:00 to 14:00."""
        last = None if end is None else _hour(end)
        if end is not None and last is not None and last < end:
            last += timedelta(hours=1)
        return cls(None if start is None else _hour(start), last)

    def where(self, column: str) -> str:
        """Return the condition on a column of time."""
        bounds = [(">=", self.start), ("<", self.end)]
        return " AND ".join(f"{column} {sign} {literal(at)}" for sign, at in bounds if at is not None) or "1"


@dataclass(frozen=True)
class Cell:
    """A minute of one partition where rollups and ledger differ. ``rollups_minus_ledger``: what is not 0."""

    source_log: str
    source_partition: int
    minute: datetime
    rollups_minus_ledger: dict[str, int | Decimal]


@dataclass(frozen=True)
class HourTotals:
    """What one of the two holds for an hour. ``cost_usd`` is of the priced calls."""

    calls: int = 0
    unpriced_calls: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    inserted_at: datetime | None = None


def differing_cells(client: Any, database: str, within: Range) -> list[Cell]:
    """Return where any measure that adds up differs, in order of time. One scan of each table.

    The rollups are added, the ledger is subtracted: what is left over is the difference.
    """
    both = (
        f"SELECT c.source_log AS source_log, c.source_partition AS source_partition, {MINUTE} AS minute, "
        f"{_columns(f'-({expression}) AS {name}' for name, expression in SUMS.items())} "
        f"FROM {database}.calls AS c FINAL WHERE {within.where('c.occurred_at')} GROUP BY {', '.join(CELL)} "
        f"UNION ALL SELECT r.source_log AS source_log, r.source_partition AS source_partition, r.minute AS minute, "
        f"{_columns(f'sum(r.{name}) AS {name}' for name in SUMS)} "
        f"FROM {database}.rollups_1m AS r FINAL WHERE {within.where('r.minute')} GROUP BY {', '.join(CELL)}"
    )
    left_over = (
        f"SELECT {', '.join(CELL)}, {_columns(f'sum(b.{name}) AS d_{name}' for name in SUMS)} FROM ({both}) AS b "
        f"GROUP BY {', '.join(CELL)} HAVING {' OR '.join(f'd_{name} != 0' for name in SUMS)} ORDER BY minute, {CELL[0]}"
    )
    return [
        Cell(
            row["source_log"],
            row["source_partition"],
            row["minute"],
            {name: row[f"d_{name}"] for name in SUMS if row[f"d_{name}"]},
        )
        for row in rows(client, left_over)
    ]


def ledger_hours(client: Any, database: str, within: Range) -> dict[datetime, HourTotals]:
    """Return what the ledger stored, by hour of ``occurred_at``."""
    named = {name: SUMS[name] for name in ("calls", "unpriced_calls", *TOKENS, "cost_usd")}
    return _hours(
        client,
        f"SELECT toStartOfHour({MINUTE}) AS hour, {_columns(f'{text} AS t_{name}' for name, text in named.items())}, "
        f"min(c.inserted_at) AS inserted FROM {database}.calls AS c FINAL WHERE {within.where('c.occurred_at')} "
        "GROUP BY hour",
    )


def rollup_hours(client: Any, database: str, within: Range) -> dict[datetime, HourTotals]:
    """Return what the rollups hold, by hour."""
    names = ("calls", "unpriced_calls", *TOKENS, "cost_usd")
    return _hours(
        client,
        f"SELECT toStartOfHour(r.minute) AS hour, {_columns(f'sum(r.{name}) AS t_{name}' for name in names)}, "
        f"min(r.inserted_at) AS inserted FROM {database}.rollups_1m AS r FINAL WHERE {within.where('r.minute')} "
        "GROUP BY hour",
    )


def dead_letter_hours(client: Any, database: str, topic: str, within: Range) -> dict[datetime, int]:
    """Return the dead letters of a topic by the hour in which they were recorded."""
    found = rows(
        client,
        "SELECT toDateTime(toStartOfHour(d.recorded_at), 'UTC') AS hour, toInt64(count()) AS letters "
        f"FROM {database}.dead_letters AS d FINAL WHERE d.topic = {quoted(topic)} "
        f"AND {within.where('d.recorded_at')} GROUP BY hour",
    )
    return {row["hour"]: row["letters"] for row in found}


def rows(client: Any, sql: str) -> list[dict[str, Any]]:
    """Return a query's rows by column name. Raises: clickhouse-connect's errors."""
    found = client.query(sql, settings={"do_not_merge_across_partitions_select_final": 1}).named_results()
    return [
        {name: aware(value) if isinstance(value, datetime) else value for name, value in row.items()} for row in found
    ]


def aware(at: datetime) -> datetime:
    """Return ClickHouse's time, which is UTC, with its zone."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def literal(at: datetime) -> str:
    """Return an aware time as SQL."""
    return f"toDateTime64('{at.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S.%f')}', 6, 'UTC')"


def quoted(text: str) -> str:
    """Return text as a SQL string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _hours(client: Any, sql: str) -> dict[datetime, HourTotals]:
    return {
        row["hour"]: HourTotals(
            row["t_calls"],
            row["t_unpriced_calls"],
            sum(row[f"t_{name}"] for name in TOKENS),
            row["t_cost_usd"],
            row["inserted"],
        )
        for row in rows(client, sql)
    }


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _columns(expressions: Iterable[str]) -> str:
    return ", ".join(expressions)
