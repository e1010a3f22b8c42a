"""How long rows are kept: a setting, applied to tables that exist, and so not a migration.

Retention counts from `inserted_at`, when a row came into ClickHouse, not from when the call happened. Counted from the
call, importing last year's usage under a retention of 90 days would delete it within minutes, without a word. Counted
from the insert, each row stays at least as long as was set. The price: a row that is written again (a late call revises
its minute, a replay) starts anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from spendstream.clickhouse.template import Target

_TTL: Final = re.compile(r"\bTTL toDateTime\(inserted_at\) \+ toIntervalDay\((\d+)\)")
_ANY_TTL: Final = re.compile(r"\bTTL (.+?)(?: SETTINGS|$)", re.DOTALL)


@dataclass(frozen=True)
class Retention:
    """Days that rows are kept after they were inserted; 0, the default, keeps them for good."""

    calls_days: int = 0
    rollups_days: int = 0
    dead_letters_days: int = 0
    alerts_days: int = 0

    def __post_init__(self) -> None:
        for table, days in self.by_table().items():
            if days < 0:
                raise ValueError(f"retention of {table}: {days} days; 0 keeps rows for good")

    def by_table(self) -> dict[str, int]:
        """Return the days by table name."""
        return {
            "calls": self.calls_days,
            "rollups_1m": self.rollups_days,
            "dead_letters": self.dead_letters_days,
            "alerts": self.alerts_days,
        }


def retention_changes(retention: Retention, engines: Mapping[str, str], target: Target) -> Iterator[str]:
    """Yield the statements that bring tables to the retention that is set; none where all are as they should be.

    `engines`: the `engine_full` of `system.tables`, by table name.
    """
    for table, days in retention.by_table().items():
        engine = engines.get(table)
        if engine is None or _days(engine) == days:
            continue
        change = f"MODIFY TTL toDateTime(inserted_at) + toIntervalDay({days})" if days else "REMOVE TTL"
        yield " ".join(f"ALTER TABLE {target.database}.{table} {target.on_cluster} {change}".split())


def _days(engine_full: str) -> int | None:
    """Return the days of a table's TTL, 0 where it has none, None where it has one of another form."""
    if found := _TTL.search(engine_full):
        return int(found.group(1))
    return None if _ANY_TTL.search(engine_full) else 0
