"""The meter's counters against what ClickHouse stored, one source partition at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from spendstream.reconcile.compare import quoted, rows
from spendstream.reconcile.positions import Positions, SourcePartition
from spendstream.schemas.progress import Counters

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
    """Return what ClickHouse holds of each metered partition, in the topic's present life."""
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


def retention_days(client: Any, database: str) -> dict[str, int]:
    """Return after how many days each table forgets its rows; absent where it keeps them."""
    found = rows(client, f"SELECT name, engine_full FROM system.tables WHERE database = {quoted(database)}")
    return {row["name"]: days for row in found if (days := _days(row["engine_full"])) is not None}


def _days(engine_full: str) -> int | None:
    if known := _TTL.search(engine_full):
        return int(known.group(1))
    return 0 if _ANY_TTL.search(engine_full) else None  # another form of retention: nothing can be held against it


def problems(state: Positions, found: Mapping[int, StoredCounts], retention: Mapping[str, int]) -> Iterator[str]:
    """Yield what does not add up. What ClickHouse holds is judged only once all is drained, and kept for good."""
    for each in state.partitions:
        if each.marker is None:
            continue
        yield from _counter_problems(each, each.marker.counters)
        if state.is_drained and each.partition in found:
            yield from _stored_problems(each.partition, each.marker.counters, found[each.partition], retention)


def _counter_problems(each: SourcePartition, counters: Counters) -> Iterator[str]:
    parts = counters.metered + counters.duplicates + counters.dead_letters + counters.rerouted
    if parts != counters.records:
        yield (
            f"partition {each.partition}: {counters.records} records, but {counters.metered} metered "
            f"+ {counters.duplicates} duplicates + {counters.dead_letters} dead letters + {counters.rerouted} rerouted "
            f"= {parts}"
        )


def _stored_problems(
    number: int, counters: Counters, found: StoredCounts, retention: Mapping[str, int]
) -> Iterator[str]:
    if "calls" not in retention and not found.repaired and found.ledger_calls != counters.metered:
        yield (
            f"partition {number}: the meter counted {counters.metered} calls, the ledger holds {found.ledger_calls}. "
            "Fewer: an event_id came again beyond the dedupe horizon, or rows are lost"
        )
    if "rollups_1m" not in retention and not found.repaired and found.rollup_calls != counters.metered:
        yield (f"partition {number}: the meter counted {counters.metered} calls, the rollups hold {found.rollup_calls}")
    if "dead_letters" not in retention and found.dead_letters != counters.dead_letters:
        yield (
            f"partition {number}: the meter counted {counters.dead_letters} dead letters, "
            f"the table holds {found.dead_letters}"
        )


def notes(state: Positions, found: Mapping[int, StoredCounts], retention: Mapping[str, int]) -> Iterator[str]:
    """Yield what is worth knowing and no fault."""
    for each in state.partitions:
        if each.marker is not None and each.marker.through_offset >= each.end:
            yield f"partition {each.partition}: the usage topic was made anew since it was metered"
    for table, days in sorted(retention.items()):
        yield f"{table} keeps rows for {days or 'some'} days: older hours can't be held against it"
    for number, holds in sorted(found.items()):
        metered = state.markers[number].counters.metered
        if holds.repaired and state.is_drained and holds.ledger_calls != metered:
            yield (
                f"partition {number}: the meter counted {metered} calls, the ledger holds {holds.ledger_calls}; "
                "its rollups were repaired to that"
            )
