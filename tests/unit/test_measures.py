"""Every measure, dimension and bucket is declared once; what can't be derived from that is held against it."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from spendstream.clickhouse.columns import TIMES, migration, rollup_columns, spend_columns
from spendstream.clickhouse.migrate import Target, load_migrations, render
from spendstream.core.decode.columns import CALL_SCHEMA
from spendstream.schemas.buckets import COST_BUCKETS, PROMPT_PARTS, TOKEN_BUCKETS, cost_column, tokens_field
from spendstream.schemas.measures import COLUMN, MEASURES, SUMS, WATCHED
from spendstream.schemas.priced import PRICED_SCHEMA
from spendstream.schemas.rollup import DIMENSIONS, CostRollup
from spendstream.schemas.usage import UsageEvent
from spendstream.schemas.watch import Dimension, Measure

Columns = dict[str, str]

_OBJECT = re.compile(
    r"(?:CREATE (?:OR REPLACE )?(?:TABLE|VIEW)(?: IF NOT EXISTS)?|ALTER TABLE) spendstream\.(\w+)\s+(.*)", re.S
)
_COLUMN = re.compile(r"^    (\w+) ([A-Z].*?),?(?: --.*)?$", re.M)
_ADDED = re.compile(r"ADD COLUMN IF NOT EXISTS (\w+) (.*?)(?=,\s+(?:ADD|MODIFY)|$)", re.S)


def columns_by_migrations() -> dict[str, Columns]:
    """The columns of each table with their types, and of each view with their expressions, as the SQL files say."""
    found: dict[str, Columns] = {}
    for each in load_migrations():
        for statement in render(each.up, Target()):
            made = _OBJECT.match(statement)
            if made is None:
                continue
            name, body = made.groups()
            if statement.startswith("ALTER TABLE"):
                found[name] |= dict(_ADDED.findall(body))
            elif body.startswith("("):
                found[name] = dict(_COLUMN.findall(body.partition("\n)")[0]))
            else:
                selected = body.partition("SELECT")[2].partition("\nFROM")[0]
                found[name] = dict(map(_named, _items(selected)))
    return found


def _items(selected: str) -> list[str]:
    """Split a SELECT list at its outer commas."""
    items, depth = [""], 0
    for character in selected:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [" ".join(item.split()) for item in items]


def _named(item: str) -> tuple[str, str]:
    expression, _, name = item.rpartition(" AS ")
    return (name, expression) if expression else (item, item)


TABLES = columns_by_migrations()


def lacking(table: str, declared: Columns) -> str:
    """What to do where a table or view lacks columns that are declared, or has them otherwise."""
    different = [name for name in declared if TABLES[table].get(name) != declared[name]]
    return (
        f"{table} differs from the declaration in {', '.join(different)}: add a migration, for a measure with "
        f"`python -m spendstream.clickhouse.columns {' '.join(different)}`"
    )


def test_the_table_of_rollups_has_a_column_of_its_type_for_every_measure() -> None:
    declared = rollup_columns()
    assert declared.items() <= TABLES["rollups_1m"].items(), lacking("rollups_1m", declared)


@pytest.mark.parametrize("view", TIMES)
def test_a_view_of_spend_has_what_is_declared_and_nothing_else(view: str) -> None:
    declared = spend_columns(view)
    assert TABLES[view] == declared, lacking(view, declared)


def test_the_ledger_and_its_view_have_every_column_of_priced_calls() -> None:
    for table in ("calls", "calls_v"):
        missing = set(PRICED_SCHEMA.names) - TABLES[table].keys()
        assert not missing, f"{table} lacks {', '.join(sorted(missing))}: add a migration"


def test_every_dimension_is_a_column_of_calls_ledger_and_rollups_and_can_be_watched() -> None:
    assert get_args(Dimension) == DIMENSIONS
    for name in DIMENSIONS:
        assert name in TABLES["rollups_1m"]
        assert name in PRICED_SCHEMA.names
        assert name == "model" or (name in CALL_SCHEMA and name in UsageEvent.model_fields)


def test_every_token_bucket_is_counted_from_event_to_ledger_and_every_cost_has_its_column() -> None:
    for field in (*map(tokens_field, TOKEN_BUCKETS), *(f"prompt_{part}_tokens" for part in PROMPT_PARTS)):
        assert field in UsageEvent.model_fields
        assert field in CALL_SCHEMA
        assert field in PRICED_SCHEMA.names
    assert {cost_column(bucket) for bucket in COST_BUCKETS} <= set(PRICED_SCHEMA.names)


def test_a_measure_has_one_name_one_column_and_one_place_on_the_wire() -> None:
    for names in ([m.name for m in MEASURES], [m.field for m in MEASURES]):
        assert len(names) == len(set(names)) == len(COLUMN)
    placed = [(m.group, m.bucket or m.field) for m in MEASURES]
    assert len(set(placed)) == len(placed)
    assert tuple(COLUMN)[: len(SUMS)] == SUMS


def test_what_a_record_must_have_does_not_grow_since_older_records_lack_it() -> None:
    assert {name for name, field in CostRollup.model_fields.items() if field.is_required()} == {
        *("source_log", "source_partition", "minute", "dimensions", "first_offset", "through_offset", "calls"),
        *("cost_usd", "cost_without_cache_usd", "cost_at_standard_tier_usd", "cost_with_requested_model_usd"),
        *("first_event_at", "last_event_at"),
    }


def test_a_watch_may_look_at_what_is_declared() -> None:
    assert get_args(Measure) == tuple(WATCHED)
    assert all({*watched.numerator, *watched.denominator} <= set(SUMS) for watched in WATCHED.values())


@pytest.mark.parametrize("names", [["web_searches"], ["gpu_us", "cost_gpu_usd", "latency_ms_max"]])
def test_a_generated_migration_adds_the_columns_and_its_down_takes_them_away(names: list[str]) -> None:
    up, down = (" ".join(render(sql, Target("d", cluster="main"))) for sql in migration(names))
    for name in names:
        kind = rollup_columns()[name]
        assert f"ALTER TABLE d.rollups_1m ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS {name} {kind}" in up
        assert f"ALTER TABLE d.rollups_1m ON CLUSTER 'main' DROP COLUMN IF EXISTS {name}" in down
        assert up.count(f" AS {name}") == 3
        assert f" AS {name}" not in down
    assert up.count("CREATE OR REPLACE VIEW") == down.count("CREATE OR REPLACE VIEW") == 3


def test_a_migration_for_what_is_not_declared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tool_calls: not a measure; declare it in schemas/measures\.py first"):
        migration(["tool_calls"])
