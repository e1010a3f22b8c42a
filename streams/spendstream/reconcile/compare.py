"""Compares ledger and rollups, in ClickHouse, and the meter's counters with what is stored there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from spendstream.reconcile.plan import CELL, MINUTE, SUMS
from spendstream.reconcile.positions import Positions
from spendstream.schemas.measures import TOKENS
from spendstream.schemas.progress import Counters


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
    """A minute of one partition where rollups and ledger differ. ``rollups_minus_ledger``: measures that are not 0."""

    source_log: str
    source_partition: int
    minute: datetime
    rollups_minus_ledger: dict[str, int | Decimal]

    @property
    def would_be_lowered(self) -> bool:
        """Whether the ledger holds less than the rollups of any measure."""
        return any(difference > 0 for difference in self.rollups_minus_ledger.values())


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
    """Return what the ledger holds, by hour of ``occurred_at``."""
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


def missing_cards(client: Any, database: str, within: Range) -> list[str]:
    """Return the ids of rate cards that the ledger names and ``rate_cards`` lacks."""
    return [
        row["id"]
        for row in rows(
            client,
            f"SELECT DISTINCT c.rate_card_id AS id FROM {database}.calls AS c WHERE {within.where('c.occurred_at')} "
            f"AND id != '' AND id NOT IN (SELECT rate_card_id FROM {database}.rate_cards) ORDER BY id",
        )
    ]


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


_TTL: Final = re.compile(r"\bTTL .*?toIntervalDay\((\d+)\)", re.DOTALL)
_ANY_TTL: Final = re.compile(r"\bTTL ")


@dataclass(frozen=True)
class StoredCounts:
    """What ClickHouse holds of one partition. ``repaired``: rollup rows that a repair wrote."""

    ledger_calls: int = 0
    rollup_calls: int = 0
    dead_letters: int = 0
    repaired: int = 0


def stored_counts(client: Any, database: str, topic: str, state: Positions) -> dict[int, StoredCounts]:
    """Return what ClickHouse holds of each metered partition, in the topic's current life."""
    counts: dict[int, dict[str, int]] = {number: {} for number in state.markers}
    live = {(marker.source_log, number) for number, marker in state.markers.items()}
    logs = ", ".join(quoted(log) for log in sorted({log for log, _ in live}))
    if not logs:
        return {}
    queries = (
        ("calls", "source_partition", "toInt64(count()) AS ledger_calls", "1"),
        (
            "rollups_1m",
            "source_partition",
            "sum(t.calls) AS rollup_calls, toInt64(countIf(t.ver > t.through_offset)) AS repaired",
            "1",
        ),
        ("dead_letters", "partition", "toInt64(count()) AS dead_letters", f"t.topic = {quoted(topic)}"),
    )
    for table, partition, sums, where in queries:
        for row in rows(
            client,
            f"SELECT t.source_log AS source_log, t.{partition} AS number, {sums} FROM {database}.{table} AS t FINAL "
            f"WHERE t.source_log IN ({logs}) AND {where} GROUP BY source_log, number",
        ):
            log, number = row.pop("source_log"), row.pop("number")
            if (log, number) in live:
                counts[number].update(row)
    return {number: StoredCounts(**found) for number, found in counts.items()}


def ledger_shortage(client: Any, database: str, state: Positions) -> dict[tuple[str, int], int]:
    """Return how many calls the ledger lacks of those that the meter's marker counts, by source log and partition.

    Only calls at or below the marker are counted: what came later must not make up for what is missing.
    """
    short: dict[tuple[str, int], int] = {}
    for number, marker in state.markers.items():
        (row,) = rows(
            client,
            f"SELECT toInt64(count()) AS calls FROM {database}.calls AS c FINAL WHERE c.source_partition = {number} "
            f"AND c.source_log = {quoted(marker.source_log)} AND c.source_offset <= {marker.through_offset}",
        )
        short[marker.source_log, number] = max(0, marker.counters.metered - row["calls"])
    return short


def retention_days(client: Any, database: str) -> dict[str, int]:
    """Return after how many days each table deletes its rows; a table that keeps them is absent."""
    found = rows(client, f"SELECT name, engine_full FROM system.tables WHERE database = {quoted(database)}")
    days: dict[str, int] = {}
    for row in found:
        if known := _TTL.search(row["engine_full"]):
            days[row["name"]] = int(known.group(1))
        elif _ANY_TTL.search(row["engine_full"]):
            days[row["name"]] = 0  # another form of retention: nothing can be compared with it
    return days


def problems(
    state: Positions, found: Mapping[int, StoredCounts], retention: Mapping[str, int], missing: Sequence[str]
) -> Iterator[str]:
    """Yield what does not add up. Stored rows are compared only once all is drained, and where they are kept.

    ``missing``: rate cards that the ledger names.
    """
    if missing and state.is_drained:
        yield (
            f"rate_cards lacks {len(missing)} cards that the ledger names, {missing[0]} among them: `spendstream why` "
            "can't explain their calls. A worker that restarts publishes each card again when it prices with it"
        )
    for each in state.partitions:
        if each.marker is None:
            continue
        counters = each.marker.counters
        parts = counters.metered + counters.duplicates + counters.dead_letters + counters.rerouted
        if parts != counters.records:
            yield (
                f"partition {each.partition}: {counters.records} records, but {counters.metered} metered "
                f"+ {counters.duplicates} duplicates + {counters.dead_letters} dead letters "
                f"+ {counters.rerouted} rerouted = {parts}"
            )
        if state.is_drained and each.partition in found:
            yield from _stored_problems(each.partition, counters, found[each.partition], retention)


def _stored_problems(
    number: int, counters: Counters, found: StoredCounts, retention: Mapping[str, int]
) -> Iterator[str]:
    if "calls" not in retention and not found.repaired and found.ledger_calls != counters.metered:
        yield (
            f"partition {number}: the meter counted {counters.metered} calls, the ledger holds {found.ledger_calls}. "
            "Fewer calls: an event_id was repeated beyond the dedupe horizon, or rows are lost"
        )
    if "rollups_1m" not in retention and not found.repaired and found.rollup_calls != counters.metered:
        yield (f"partition {number}: the meter counted {counters.metered} calls, the rollups hold {found.rollup_calls}")
    if "dead_letters" not in retention and found.dead_letters != counters.dead_letters:
        yield (
            f"partition {number}: the meter counted {counters.dead_letters} dead letters, "
            f"the table holds {found.dead_letters}"
        )


def notes(state: Positions, found: Mapping[int, StoredCounts], retention: Mapping[str, int]) -> Iterator[str]:
    """Yield what is worth knowing but not a problem."""
    for each in state.partitions:
        if each.marker is not None and each.marker.through_offset >= each.end:
            yield f"partition {each.partition}: the usage topic was recreated since it was metered"
    for table, days in sorted(retention.items()):
        yield f"{table} keeps rows for {days or 'some'} days: older hours can't be compared with it"
    for number, holds in sorted(found.items()):
        metered = state.markers[number].counters.metered
        if holds.repaired and state.is_drained and holds.ledger_calls != metered:
            yield (
                f"partition {number}: the meter counted {metered} calls, the ledger holds {holds.ledger_calls}; "
                "its rollups were repaired to match"
            )
