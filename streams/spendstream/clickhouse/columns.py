"""The columns that tables and views have by declaration, and the migration that adds a measure's.

    python -m spendstream.clickhouse.columns tool_tokens    # writes NNNN_tool_tokens.up.sql and .down.sql

Applied migrations stay as they are; a test holds them against the declaration.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from spendstream.clickhouse.migrate import FOLDER, load_migrations
from spendstream.schemas.measures import MEASURES, TOKENS, RollupMeasure
from spendstream.schemas.rollup import DIMENSIONS

TIMES: Final = {
    "spend_1m": ("minute", "r.minute"),
    "spend_1h": ("hour", "toStartOfHour(r.minute)"),
    "spend_1d": ("day", "toDate(toStartOfHour(r.minute))"),
}
"""By view of spend: its column of time, and that of a rollup ``r``."""

_INTEGER: Final = "Int64 CODEC(T64, ZSTD(1))"
_TYPES: Final = {
    "count": _INTEGER,
    "ms": _INTEGER,
    "µs": _INTEGER,
    "offset": "Int64 CODEC(Delta, ZSTD(1))",
    "USD": "Decimal(38, 12) CODEC(ZSTD(1))",
    "time": "DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))",
}


def rollup_columns(measures: Sequence[RollupMeasure] = MEASURES) -> dict[str, str]:
    """Return the measures' columns of ``rollups_1m``, and their types."""
    return {measure.field: _TYPES[measure.unit] for measure in measures}


def spend_columns(view: str, measures: Sequence[RollupMeasure] = MEASURES) -> dict[str, str]:
    """Return the columns of a view of spend, and their expressions over rollups ``r``."""
    time, expression = TIMES[view]
    summed = {m.field: f"{m.kind}(r.{m.field})" for m in measures if m.unit != "offset"}
    savings = {"cache": "without_cache", "tier": "at_standard_tier", "model": "with_requested_model"}
    return {
        time: expression,
        **{name: name for name in DIMENSIONS},
        **summed,
        "cost_usd": "if(sum(r.calls) > sum(r.unpriced_calls), sum(r.cost_usd), NULL)",
        "total_tokens": " + ".join(f"sum(r.{name})" for name in TOKENS),
        **{f"savings_{name}_usd": f"sum(r.cost_{other}_usd) - sum(r.cost_usd)" for name, other in savings.items()},
        "latency_ms_avg": "if(sum(r.latency_calls) > 0, sum(r.latency_ms_sum) / sum(r.latency_calls), NULL)",
    }


def migration(names: Sequence[str]) -> tuple[str, str]:
    """Return the SQL that adds these measures to ``rollups_1m`` and the views of spend, and the SQL that undoes it.

    Raises: ValueError, for a name that no measure has.
    """
    added = [measure for measure in MEASURES if measure.field in names]
    if unknown := set(names) - {measure.field for measure in added}:
        raise ValueError(f"{', '.join(sorted(unknown))}: not a measure; declare it in schemas/measures.py first")
    before = [measure for measure in MEASURES if measure not in added]
    alter = "ALTER TABLE {database}.rollups_1m {on_cluster}"
    add = [f"{alter} ADD COLUMN IF NOT EXISTS {name} {kind};" for name, kind in rollup_columns(added).items()]
    drop = [f"{alter} DROP COLUMN IF EXISTS {name};" for name in rollup_columns(added)]
    return (
        "\n".join([*add, *(_spend_view(view, MEASURES) for view in TIMES)]) + "\n",
        "\n".join([*(_spend_view(view, before) for view in TIMES), *drop]) + "\n",
    )


def _spend_view(view: str, measures: Sequence[RollupMeasure]) -> str:
    columns = spend_columns(view, measures)
    selected = ",\n    ".join(name if name == text else f"{text} AS {name}" for name, text in columns.items())
    return (
        f"\nCREATE OR REPLACE VIEW {{database}}.{view} {{on_cluster}} AS\nSELECT\n    {selected}\n"
        f"FROM {{database}}.rollups_1m AS r FINAL\nGROUP BY {TIMES[view][0]}, {', '.join(DIMENSIONS)}\n"
        "SETTINGS do_not_merge_across_partitions_select_final = 1, optimize_move_to_prewhere_if_final = 1;"
    )


def write_migration(names: Sequence[str], folder: Path = FOLDER) -> list[Path]:
    """Write the next migration of a folder, which adds these measures; return its files."""
    number = len(load_migrations(folder)) + 1
    paths = [folder / f"{number:04}_{names[0]}.{way}.sql" for way in ("up", "down")]
    for path, sql in zip(paths, migration(names), strict=True):
        path.write_text(sql, "utf-8")
    return paths


if __name__ == "__main__":
    if len(sys.argv) == 1:
        raise SystemExit("usage: python -m spendstream.clickhouse.columns MEASURE...")
    for written in write_migration(sys.argv[1:]):
        sys.stdout.write(f"{written}\n")
