"""A reconciliation from beginning to end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.reconcile.balances import notes, problems, retention_days, stored_counts
from spendstream.reconcile.compare import (
    Cell,
    HourTotals,
    Range,
    dead_letter_hours,
    differing_cells,
    ledger_hours,
    rollup_hours,
)
from spendstream.reconcile.errors import NotRepairable
from spendstream.reconcile.positions import Positions, read_positions
from spendstream.reconcile.repair import Mended, mend
from spendstream.reconcile.report import Hour, Report, Status
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.waiting import in_thread

SINKS_WAIT_S: Final = 15.0
_NOTHING_MENDED: Final = Mended(0, 0, frozenset())
_NONE: Final = HourTotals()


async def reconcile(settings: Settings, within: Range, *, repair: bool = False) -> Report:
    """Hold Kafka, ledger, rollups and dead letters against each other; with ``repair``, mend the rollups.

    1. The meter's markers are read, and the sinks waited for until ClickHouse holds what the markers speak of.
    2. Ledger and rollups are compared, minute by minute.
    3. With ``repair``: final minutes that differ are mended from the ledger, and everything is compared again.

    Raises: NotRepairable; TopicsMissing; aiokafka's and clickhouse-connect's errors, when one doesn't answer.
    """
    state = await read_positions(settings, SINKS_WAIT_S)
    client = await in_thread(lambda: open_client(clickhouse_settings(settings)), "connect")
    try:
        found = await in_thread(lambda: _compare(client, settings, within), "compare")
        mended = _NOTHING_MENDED
        if repair and (mendable := found.mendable()):
            _require_safe(state)
            mended = await mend(client, settings, mendable, state.markers)
            found = await in_thread(lambda: _compare(client, settings, within), "compare")
        database, usage = settings.clickhouse_database, settings.topic(topics.USAGE)
        stored = await in_thread(lambda: stored_counts(client, database, usage, state), "stored-counts")
    finally:
        await in_thread(client.close, "close")
    return Report(
        hours=tuple(found.hours(mended)),
        cells=tuple(found.cells),
        state=state,
        stored=stored,
        problems=tuple(problems(state, stored, found.retention)),
        notes=(*notes(state, stored, found.retention), *found.refusals(repair, mended)),
        repaired_rows=mended.rows,
        repaired_minutes=mended.minutes,
    )


def _require_safe(state: Positions) -> None:
    if not state.markers:
        raise NotRepairable(
            "the meter left no marker on this Kafka, so it can't be known which minutes are final: is it the right one?"
        )
    if not state.sinks_have_markers:
        raise NotRepairable(
            f"the sinks are behind, and what looks missing may be on its way: run the worker, and repair again. "
            f"{state.records_behind} records are left"
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
        """Whether the ledger has any call of an hour. Without one its rollups are all there is, and are kept."""
        return hour in self.ledger

    def mendable(self) -> list[Cell]:
        return [cell for cell in self.cells if self.has_ledger(_hour(cell)) and not self.is_expired(_hour(cell))]

    def hours(self, mended: Mended) -> list[Hour]:
        differing = Counter(_hour(cell) for cell in self.cells)
        still_open = {minute.replace(minute=0) for _, _, minute in mended.open_cells}
        hours = sorted(self.ledger.keys() | self.rollups.keys() | self.letters.keys())
        return [
            Hour(
                hour,
                self._status(hour, differing[hour], hour in still_open, hour in mended.hours),
                self.ledger.get(hour, _NONE),
                self.rollups.get(hour, _NONE),
                self.letters.get(hour, 0),
                differing[hour],
            )
            for hour in hours
        ]

    def _status(self, hour: datetime, differing: int, is_open: bool, is_mended: bool) -> Status:
        if differing and self.is_expired(hour):
            return "expired"
        if differing:
            return "open" if is_open else "differs"
        return "repaired" if is_mended else "ok"

    def refusals(self, repair: bool, mended: Mended) -> list[str]:
        """Return what a repair left alone, and why."""
        if not repair:
            return []
        said = []
        if mended.open_cells:
            said.append(
                f"{len(mended.open_cells)} minutes are not final, and the meter still writes them: "
                "repair once the watermark has passed them by the allowed lateness"
            )
        bare = {_hour(cell) for cell in self.cells if not self.has_ledger(_hour(cell))}
        if bare:
            said.append(f"{len(bare)} hours have rollups and no call in the ledger: they are kept as they are")
        return said


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
