"""What a reconciliation found, as records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from spendstream.reconcile.balances import StoredCounts
from spendstream.reconcile.compare import Cell, HourTotals
from spendstream.reconcile.positions import Positions

Status = Literal["ok", "repaired", "differs", "open", "expired"]
"""``open``: differs, and its minutes are not final. ``expired``: retention deleted rows, so nothing can be said."""


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
    """``ok``: all is drained, every number meets its counterpart, and no minute differs."""

    hours: tuple[Hour, ...]
    cells: tuple[Cell, ...]
    state: Positions
    stored: Mapping[int, StoredCounts]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    repaired_rows: int = 0
    repaired_minutes: int = 0

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
