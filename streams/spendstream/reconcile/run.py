"""Runs a reconciliation and reports it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.errors import SpendstreamError
from spendstream.reconcile.compare import (
    Cell,
    HourTotals,
    Range,
    StoredCounts,
    dead_letter_hours,
    differing_cells,
    ledger_hours,
    ledger_shortage,
    missing_cards,
    notes,
    problems,
    retention_days,
    rollup_hours,
    stored_counts,
)
from spendstream.reconcile.positions import Positions, read_positions
from spendstream.reconcile.repair import Change, Repaired, repair_cells
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.waiting import in_thread


class NotRepairable(SpendstreamError):
    """Rollups can't be repaired safely at present, and nothing was written; the message says what to do."""


Status = Literal["ok", "repaired", "differs", "open", "expired"]
"""``open``: differs, and its minutes are not final. ``expired``: retention deleted rows, so nothing can be compared."""


@dataclass(frozen=True)
class Hour:
    """An hour of event time in the ledger and in the rollups; ``dead_letters`` were recorded in it."""

    at: datetime
    status: Status
    ledger: HourTotals
    rollups: HourTotals
    dead_letters: int
    differing_minutes: int

    def record(self) -> dict[str, Any]:
        """Return the hour as JSON values; amounts are decimal text in USD."""
        return {
            "hour": self.at.isoformat(),
            "status": self.status,
            "ledger": _totals(self.ledger),
            "rollups": _totals(self.rollups),
            "dead_letters": self.dead_letters,
            "differing_minutes": self.differing_minutes,
        }


@dataclass(frozen=True)
class Report:
    """``ok``: everything is drained, every count matches its counterpart, and no minute differs."""

    hours: tuple[Hour, ...]
    cells: tuple[Cell, ...]
    state: Positions
    stored: Mapping[int, StoredCounts]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    repaired_rows: int = 0
    repaired_minutes: int = 0
    changes: tuple[Change, ...] = ()
    """The totals that a repair replaced, or would replace."""

    @property
    def is_drained(self) -> bool:
        return self.state.is_drained

    @property
    def differing_hours(self) -> tuple[Hour, ...]:
        return tuple(hour for hour in self.hours if hour.status in ("differs", "open"))

    @property
    def ok(self) -> bool:
        return self.is_drained and not self.problems and not self.differing_hours

    def summary(self) -> dict[str, Any]:
        """Return the last JSON line."""
        return {
            "ok": self.ok,
            "drained": self.is_drained,
            "hours": len(self.hours),
            "differing_hours": len(self.differing_hours),
            "differing_minutes": sum(hour.differing_minutes for hour in self.differing_hours),
            "repaired_minutes": self.repaired_minutes,
            "repaired_rows": self.repaired_rows,
            "changes": [change.record() for change in self.changes],
            "records_behind": max(self.state.records_behind, sum(each.behind for each in self.state.partitions)),
            "partitions": list(self._partitions()),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def _partitions(self) -> Iterator[dict[str, Any]]:
        for each in self.state.partitions:
            holds = self.stored.get(each.partition, StoredCounts())
            yield {
                "partition": each.partition,
                "begin_offset": each.begin,
                "end_offset": each.end,
                "behind": each.behind,
                "source_log": None if each.marker is None else each.marker.source_log,
                **({} if each.marker is None else each.marker.counters.model_dump()),
                "ledger_calls": holds.ledger_calls,
                "rollup_calls": holds.rollup_calls,
                "ledger_dead_letters": holds.dead_letters,
            }


def _totals(totals: HourTotals) -> dict[str, Any]:
    return {
        "calls": totals.calls,
        "unpriced_calls": totals.unpriced_calls,
        "tokens": totals.tokens,
        "cost_usd": f"{totals.cost_usd.normalize():f}",
    }


SINKS_WAIT_S: Final = 15.0
_NOTHING_REPAIRED: Final = Repaired(0, 0, frozenset())
_NONE: Final = HourTotals()


async def reconcile(
    settings: Settings, within: Range, *, repair: bool = False, trust_ledger: bool = False, dry_run: bool = False
) -> Report:
    """Compare Kafka, ledger, rollups and dead letters; with ``repair``, also repair the rollups.

    1. The meter's markers are read; then it waits for the sinks, until ClickHouse has what the markers cover.
    2. Ledger and rollups are compared, minute by minute.
    3. With ``repair``: final minutes that differ are repaired from the ledger, and everything is compared again. No
       total is lowered where the ledger itself lacks calls that the meter counted, unless ``trust_ledger``.
       ``dry_run``: nothing is written, and the report has what would be.

    Raises: NotRepairable; TopicsMissing; aiokafka's and clickhouse-connect's errors, when one doesn't answer.
    """
    state = await read_positions(settings, SINKS_WAIT_S)
    client = await in_thread(lambda: open_client(clickhouse_settings(settings)), "connect")
    try:
        found = await in_thread(lambda: _compare(client, settings, within), "compare")
        repaired = _NOTHING_REPAIRED
        contradicted: list[Cell] = []
        if repair and (repairable := found.repairable()):
            _require_safe(state)
            if not trust_ledger:
                short = await in_thread(
                    lambda: ledger_shortage(client, settings.clickhouse_database, state), "ledger-shortage"
                )
                contradicted = [cell for cell in repairable if _is_contradicted(cell, short)]
            repairable = [cell for cell in repairable if cell not in contradicted]
            repaired = await repair_cells(client, settings, repairable, state.markers, dry_run=dry_run)
            found = await in_thread(lambda: _compare(client, settings, within), "compare")
        database, usage = settings.clickhouse_database, settings.topic(topics.USAGE)
        stored = await in_thread(lambda: stored_counts(client, database, usage, state), "stored-counts")
        missing = await in_thread(lambda: missing_cards(client, database, within), "missing-cards")
    finally:
        await in_thread(client.close, "close")
    return Report(
        hours=tuple(found.hours(repaired)),
        cells=tuple(found.cells),
        state=state,
        stored=stored,
        problems=(*problems(state, stored, found.retention, missing), *_not_lowered(contradicted)),
        notes=(*notes(state, stored, found.retention), *found.refusals(repair, repaired)),
        repaired_rows=repaired.rows,
        repaired_minutes=repaired.minutes,
        changes=repaired.changes,
    )


def _is_contradicted(cell: Cell, short: Mapping[tuple[str, int], int]) -> bool:
    """Whether a repair would lower a total though the ledger may be what is short: of a former life nobody knows."""
    return cell.would_be_lowered and short.get((cell.source_log, cell.source_partition), 1) > 0


def _not_lowered(cells: Sequence[Cell]) -> Iterator[str]:
    """Say which totals a repair left as they are."""
    by_partition = Counter((cell.source_log, cell.source_partition) for cell in cells)
    for (log, number), minutes in sorted(by_partition.items()):
        yield (
            f"partition {number}, log {log}: {minutes} minutes hold more than the ledger, and the ledger lacks calls "
            "that the meter counted. Nothing was lowered. Fill the ledger from Kafka with `spendstream reconcile "
            "--refill`. If an event_id was repeated beyond the dedupe horizon instead, repair with --trust-ledger"
        )


def _require_safe(state: Positions) -> None:
    if not state.markers:
        raise NotRepairable(
            "this Kafka has no marker of the meter, so it is unknown which minutes are final: "
            "check KAFKA_BOOTSTRAP_SERVERS and KAFKA_TOPIC_PREFIX"
        )
    if not state.sinks_have_markers:
        raise NotRepairable(
            f"the sinks are {state.records_behind} records behind, and what looks missing may still arrive: "
            "run the worker, then repair again"
        )


@dataclass(frozen=True)
class _Found:
    cells: Sequence[Cell]
    ledger: Mapping[datetime, HourTotals]
    rollups: Mapping[datetime, HourTotals]
    letters: Mapping[datetime, int]
    retention: Mapping[str, int]
    now: datetime

    def is_expired(self, hour: datetime) -> bool:
        """Whether retention may have deleted rows of an hour: those inserted first, with a day's margin."""
        days = [self.retention[table] for table in ("calls", "rollups_1m") if table in self.retention]
        if not days:
            return False
        kept_since = self.now - timedelta(days=min(days) - 1)
        inserted = [totals.get(hour, _NONE).inserted_at for totals in (self.ledger, self.rollups)]
        return any(at is not None and at < kept_since for at in inserted)

    def has_ledger(self, hour: datetime) -> bool:
        """Whether the ledger has any call of an hour. If not, the rollups are all that is left, and are kept."""
        return hour in self.ledger

    def repairable(self) -> list[Cell]:
        return [cell for cell in self.cells if self.has_ledger(_hour(cell)) and not self.is_expired(_hour(cell))]

    def hours(self, repaired: Repaired) -> list[Hour]:
        differing = Counter(_hour(cell) for cell in self.cells)
        still_open = {minute.replace(minute=0) for _, _, minute in repaired.open_cells}
        hours = sorted(self.ledger.keys() | self.rollups.keys() | self.letters.keys())
        return [
            Hour(
                hour,
                self._status(hour, differing[hour], hour in still_open, hour in repaired.hours),
                self.ledger.get(hour, _NONE),
                self.rollups.get(hour, _NONE),
                self.letters.get(hour, 0),
                differing[hour],
            )
            for hour in hours
        ]

    def _status(self, hour: datetime, differing: int, is_open: bool, is_repaired: bool) -> Status:
        if differing and self.is_expired(hour):
            return "expired"
        if differing:
            return "open" if is_open else "differs"
        return "repaired" if is_repaired else "ok"

    def refusals(self, repair: bool, repaired: Repaired) -> list[str]:
        """Return what a repair left as it is, and why."""
        if not repair:
            return []
        messages = []
        if repaired.open_cells:
            messages.append(
                f"{len(repaired.open_cells)} minutes are not final, and the meter still writes them: "
                "repair once the watermark has passed them by the allowed lateness"
            )
        bare = {_hour(cell) for cell in self.cells if not self.has_ledger(_hour(cell))}
        if bare:
            messages.append(f"{len(bare)} hours have rollups but no call in the ledger: they are kept")
        return messages


def _compare(client: Any, settings: Settings, within: Range) -> _Found:
    database, topic = settings.clickhouse_database, settings.topic(topics.USAGE)
    return _Found(
        cells=differing_cells(client, database, within),
        ledger=ledger_hours(client, database, within),
        rollups=rollup_hours(client, database, within),
        letters=dead_letter_hours(client, database, topic, within),
        retention=retention_days(client, database),
        now=datetime.now(UTC),
    )


def _hour(cell: Cell) -> datetime:
    return cell.minute.replace(minute=0)
