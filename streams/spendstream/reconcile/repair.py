"""Repairs rollups from the ledger, hour by hour."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final

import pyarrow as pa

from spendstream.clickhouse.client import clickhouse_settings
from spendstream.reconcile.compare import Cell, Range, rows
from spendstream.reconcile.plan import (
    BLOCK,
    CELL,
    COSTS,
    MAXIMA,
    MINIMA,
    MINUTE,
    SUMS,
    Row,
    Window,
    corrections,
    dimensions_in_use,
    is_window_final,
    version,
    window_of,
)
from spendstream.schemas.priced import USD
from spendstream.schemas.progress import Progress
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.settings import Settings
from spendstream.sinks.encoders import REPAIRS, ROLLUPS, table_insert
from spendstream.sinks.writer import ClickHouseWriter
from spendstream.waiting import in_thread

_INSERT_TIMEOUT_S: Final = 120.0
_KEY: Final = (*CELL, "correction_block", *DIMENSIONS)
_MEASURES: Final = (*SUMS, *MAXIMA, *MINIMA)
_TYPES: Final[dict[str, pa.DataType]] = {
    "minute": pa.timestamp("s", tz="UTC"),
    "source_partition": pa.int32(),
    "ver": pa.uint64(),
    **dict.fromkeys(("source_log", *DIMENSIONS), pa.string()),
    **dict.fromkeys(COSTS, USD),
    **dict.fromkeys(("first_event_at", "last_event_at"), pa.timestamp("us", tz="UTC")),
}


@dataclass(frozen=True)
class Change:
    """A total that a repair replaces. ``before`` None: there was none."""

    before: Row | None
    after: Row

    def record(self) -> dict[str, Any]:
        """Return it as JSON values; amounts are decimal text in USD."""
        after = self.after
        return {
            "minute": after["minute"].isoformat(),
            "source_log": after["source_log"],
            "source_partition": after["source_partition"],
            "correction_block": after["correction_block"],
            "dimensions": {name: after[name] for name in DIMENSIONS if after[name]},
            "before": None if self.before is None else _json_values(self.before),
            "after": _json_values(after),
        }


@dataclass(frozen=True)
class Repaired:
    """``rows`` were written for ``minutes`` cells. ``open_cells`` are not final yet: the meter still writes them."""

    rows: int
    minutes: int
    open_cells: frozenset[tuple[str, int, datetime]]
    hours: frozenset[datetime] = frozenset()
    changes: tuple[Change, ...] = ()


async def repair_cells(
    client: Any,
    settings: Settings,
    cells: Sequence[Cell],
    markers: Mapping[int, Progress],
    *,
    dry_run: bool = False,
) -> Repaired:
    """Write the rows that make the rollups of these cells equal to the ledger. See ``plan`` for why it is safe.

    What they replace is kept in table ``repairs`` first. ``dry_run``: nothing is written. ``markers`` were read before
    ClickHouse was known to hold all that they speak of.

    Raises: TimeoutError, when ClickHouse takes no rows in 120 s; what its client raises.
    """
    by_hour: dict[datetime, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_hour[cell.minute.replace(minute=0)].append(cell)
    writer = ClickHouseWriter(clickhouse_settings(settings))
    written, minutes = 0, 0
    still_open: set[tuple[str, int, datetime]] = set()
    hours: set[datetime] = set()
    changes: list[Change] = []
    began = datetime.now(UTC)
    try:
        for hour, differing in sorted(by_hour.items()):
            work = partial(_hour, client, settings, hour, differing, markers)
            found = await in_thread(work, "repair")
            still_open |= found.open_cells
            minutes += found.minutes
            changes += found.changes
            if found.rows and not dry_run:
                async with asyncio.timeout(_INSERT_TIMEOUT_S):
                    await writer.insert(table_insert(REPAIRS, _repair_rows(found.changes, began)))
                    await writer.insert(table_insert(ROLLUPS, rollup_rows(found.rows)))
                written += len(found.rows)
                hours.add(hour)
    finally:
        await writer.close()
    return Repaired(written, 0 if dry_run else minutes, frozenset(still_open), frozenset(hours), tuple(changes))


@dataclass(frozen=True)
class _Hour:
    changes: list[Change]
    minutes: int
    open_cells: set[tuple[str, int, datetime]]

    @property
    def rows(self) -> list[Row]:
        return [change.after for change in self.changes]


def _hour(
    client: Any, settings: Settings, hour: datetime, cells: Sequence[Cell], markers: Mapping[int, Progress]
) -> _Hour:
    """Return the rows that repair an hour's cells."""
    wanted = {(cell.source_log, cell.source_partition, cell.minute) for cell in cells}
    existing = _in_cells(rollup_query(settings.clickhouse_database, hour), client, wanted)
    used = dimensions_in_use(settings.meter_dimensions, existing)
    ledger = _in_cells(ledger_query(settings.clickhouse_database, hour, used), client, wanted)
    rollups_of, ledger_of = _by_window(existing), _by_window(ledger)
    repairs: list[Change] = []
    repaired: set[tuple[str, int, datetime]] = set()
    still_open: set[tuple[str, int, datetime]] = set()
    for window in rollups_of.keys() | ledger_of.keys():
        cell = (window.source_log, window.source_partition, window.minute)
        marker = markers.get(window.source_partition)
        fixes = list(corrections(rollups_of[window], ledger_of[window], used, settings.meter_cardinality_cap))
        if not fixes:
            continue
        if not is_window_final(window, marker, settings.meter_allowed_lateness_s):
            still_open.add(cell)
            continue
        alive = marker if marker is not None and marker.source_log == window.source_log else None
        ver = version([*rollups_of[window], *ledger_of[window]], alive)
        existing_of = {_key(row): row for row in rollups_of[window]}
        repairs += [Change(existing_of.get(_key(row)), {**row, "ver": ver}) for row in fixes]
        repaired.add(cell)
    return _Hour(repairs, len(repaired), still_open)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _json_values(row: Row) -> dict[str, Any]:
    return {name: _json_value(row[name]) for name in (*_KEY, *_MEASURES, "ver") if name in row}


def _json_value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, datetime) else value


def _repair_rows(changes: Sequence[Change], began: datetime) -> pa.Table:
    """Return changes as columns of ``repairs``."""
    records = [change.record() for change in changes]
    text = {
        "dimensions": [json.dumps(each["dimensions"]) for each in records],
        "total_before": ["" if each["before"] is None else json.dumps(each["before"]) for each in records],
        "total_after": [json.dumps(each["after"]) for each in records],
    }
    return pa.table(
        {
            "repaired_at": pa.array([began] * len(records), pa.timestamp("us", tz="UTC")),
            "minute": pa.array([change.after["minute"] for change in changes], pa.timestamp("s", tz="UTC")),
            "source_log": pa.array([each["source_log"] for each in records], pa.string()),
            "source_partition": pa.array([each["source_partition"] for each in records], pa.int32()),
            "correction_block": pa.array([each["correction_block"] for each in records], pa.int64()),
            **{name: pa.array(values, pa.string()) for name, values in text.items()},
        }
    )


def rollup_query(database: str, hour: datetime) -> str:
    """Return the SQL of an hour's rollups, one row a key."""
    columns = ", ".join(f"r.{name} AS {name}" for name in (*_KEY, *_MEASURES, "ver"))
    return f"SELECT {columns} FROM {database}.rollups_1m AS r FINAL WHERE {_of(hour).where('r.minute')}"


def ledger_query(database: str, hour: datetime, used: Sequence[str]) -> str:
    """Return the SQL of an hour's calls, summed to what the rollups of these dimensions must hold."""
    key = {
        "source_log": "c.source_log",
        "source_partition": "c.source_partition",
        "minute": MINUTE,
        "correction_block": BLOCK,
        **{name: f"c.{name}" if name in used else "''" for name in DIMENSIONS},
    }
    measures = {**SUMS, **MAXIMA, **MINIMA}
    columns = ", ".join(f"{text} AS k_{name}" for name, text in key.items())
    sums = ", ".join(f"{text} AS k_{name}" for name, text in measures.items())
    grouping = ", ".join(f"k_{name}" for name in key)
    return (
        f"SELECT {columns}, {sums} FROM {database}.calls AS c FINAL WHERE {_of(hour).where('c.occurred_at')} "
        f"GROUP BY {grouping}"
    )


def rollup_rows(repaired: Sequence[Row]) -> pa.Table:
    """Return rows as columns of ``rollups_1m``, ``ver`` included: a default would be the meter's."""
    return pa.table(
        {
            name: pa.array([row[name] for row in repaired], _TYPES.get(name, pa.int64()))
            for name in (*_KEY, *_MEASURES, "ver")
        }
    )


def _of(hour: datetime) -> Range:
    return Range(hour, hour + timedelta(hours=1))


def _in_cells(sql: str, client: Any, wanted: set[tuple[str, int, datetime]]) -> list[Row]:
    named = ({name.removeprefix("k_"): value for name, value in row.items()} for row in rows(client, sql))
    return [row for row in named if (row["source_log"], row["source_partition"], row["minute"]) in wanted]


def _by_window(found: Sequence[Row]) -> defaultdict[Window, list[Row]]:
    grouped: defaultdict[Window, list[Row]] = defaultdict(list)
    for row in found:
        grouped[window_of(row)].append(row)
    return grouped
