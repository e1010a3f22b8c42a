"""The migrations make what the sinks fill and the views promise, on the real engine."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.client import ClickHouseSettings, open_client
from spendstream.clickhouse.columns import TIMES, rollup_columns, spend_columns
from spendstream.clickhouse.migrate import (
    Migration,
    MigrationChanged,
    MigrationError,
    MigrationSettings,
    MigrationUnknown,
    Migrator,
    Retention,
    ShardedCluster,
    Target,
    TemplateError,
    load_migrations,
    render,
)
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.schemas.priced import DEFAULTS, PRICED_SCHEMA, REQUIRED
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import RollupEncoder
from tests.unit.sinks.make import ipc, priced_calls, records, rollup_value

pytestmark = pytest.mark.clickhouse

NUMBERS = [migration.number for migration in load_migrations()]
CARD_VIEWS = {"rate_cards_v", "rates_v", "charges_v"}
VIEWS = {"calls_v", "spend_1m", "spend_1h", "spend_1d", "dead_letters_v", "alerts_v", "alerts_current", *CARD_VIEWS}
TABLES = {"calls", "rollups_1m", "dead_letters", "rate_cards", "alerts", "repairs", "schema_migrations"}


@pytest.fixture
def target(client: Client) -> Iterator[Target]:
    """A database that does not exist yet."""
    target = Target(f"db_{uuid.uuid4().hex[:12]}")
    yield target
    client.command(f"DROP DATABASE IF EXISTS {target.database} SYNC")


def migrator(client: Client, target: Target, migrations: Any = None, **retention: int) -> Migrator:
    return Migrator(client, MigrationSettings(target, Retention(**retention)), migrations)


def objects(client: Client, target: Target) -> dict[str, str]:
    rows = client.query(f"SELECT name, create_table_query FROM system.tables WHERE database = '{target.database}'")
    return dict(rows.result_rows)


def columns(client: Client, target: Target, table: str) -> set[str]:
    where = f"database = '{target.database}' AND table = '{table}'"
    return {name for (name,) in client.query(f"SELECT name FROM system.columns WHERE {where}").result_rows}


def test_up_down_up_ends_where_the_first_up_did(client: Client, target: Target) -> None:
    migrations = migrator(client, target)
    assert [migration.number for migration in migrations.up()] == NUMBERS
    first = objects(client, target)
    assert first.keys() == VIEWS | TABLES
    assert [migration.number for migration in migrations.down(0)] == NUMBERS[::-1]
    assert objects(client, target).keys() == {"schema_migrations"}
    assert len(migrations.up()) == len(NUMBERS)
    assert objects(client, target) == first


def test_down_stops_at_the_number_it_is_given(client: Client, target: Target) -> None:
    migrations = migrator(client, target)
    migrations.up()
    assert [migration.number for migration in migrations.down(2)] == NUMBERS[:1:-1]
    assert [status.number for status in migrations.status() if status.is_applied] == [1, 2]


def test_up_again_does_nothing(client: Client, target: Target) -> None:
    migrator(client, target).up()
    assert migrator(client, target).up() == []


def test_status_of_a_missing_database_creates_none(client: Client, target: Target) -> None:
    assert {status.is_applied for status in migrator(client, target).status()} == {False}
    assert objects(client, target) == {}


def test_a_run_that_was_cut_off_is_finished_by_the_next(client: Client, target: Target) -> None:
    class CutOff(Exception):
        pass

    class Dying:
        """A client that dies before its eighth statement."""

        left = 8

        def command(self, cmd: str) -> Any:
            self.left -= 1
            if not self.left:
                raise CutOff
            return client.command(cmd)

        query = staticmethod(client.query)

    with pytest.raises(CutOff):
        Migrator(Dying(), MigrationSettings(target)).up()
    migrator(client, target).up()
    assert objects(client, target).keys() == VIEWS | TABLES


def test_runs_at_once_are_harmless(server: EmbeddedClickHouse, client: Client, target: Target) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with open_client(ClickHouseSettings(server.url)) as own:
                migrator(own, target, calls_days=7).up()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert objects(client, target).keys() == VIEWS | TABLES
    assert migrator(client, target, calls_days=7).up() == []


def test_a_changed_applied_file_is_an_error_that_names_it(client: Client, target: Target) -> None:
    migrator(client, target).up()
    changed = list(load_migrations())
    changed[1] = dataclasses.replace(changed[1], up=changed[1].up + " ")
    with pytest.raises(MigrationChanged, match=r"0002_rollups_1m\.up\.sql"):
        migrator(client, target, changed).up()
    problems = {status.number: status.problem for status in migrator(client, target, changed).status()}
    assert problems[2]
    assert not problems[1]


def test_a_migration_of_a_newer_release_is_an_error(client: Client, target: Target) -> None:
    newer = (*load_migrations(), Migration(len(NUMBERS) + 1, "novelty", "SELECT 1;", "SELECT 1;"))
    migrator(client, target, newer).up()
    with pytest.raises(MigrationUnknown, match="upgrade spendstream"):
        migrator(client, target).up()
    with pytest.raises(MigrationUnknown, match="novelty"):
        migrator(client, target).down(0)


def test_the_tables_have_a_column_for_all_that_crosses_the_wire(client: Client, target: Target) -> None:
    migrator(client, target).up()
    (ledger,) = CallEncoder().encode(records([ipc(priced_calls(1))])).inserts
    (rollups,) = RollupEncoder().encode(records([rollup_value()])).inserts
    assert set(ledger.columns) <= columns(client, target, "calls")
    assert set(rollups.columns) <= columns(client, target, "rollups_1m")


def test_a_column_that_an_insert_leaves_out_has_the_default_of_the_wire(client: Client, target: Target) -> None:
    migrator(client, target).up()
    call = priced_calls(1).select(sorted(REQUIRED))
    client.insert_arrow("calls", call, database=target.database)
    (row,) = client.query(f"SELECT {', '.join(DEFAULTS)} FROM {target.database}.calls").named_results()
    assert row == {name: {} if value == [] else value for name, value in DEFAULTS.items()}


def test_tables_and_views_have_every_declared_column(client: Client, target: Target) -> None:
    migrator(client, target).up()
    declared = {
        "rollups_1m": {*rollup_columns(), *DIMENSIONS},
        "calls": set(PRICED_SCHEMA.names),
        "calls_v": {*PRICED_SCHEMA.names, "total_tokens", "savings_cache_usd"},
        **{view: set(spend_columns(view)) for view in TIMES},
    }
    missing = {name: wanted - columns(client, target, name) for name, wanted in declared.items()}
    assert not any(missing.values()), f"{missing}: add a migration; see tests/unit/test_measures.py"


def test_every_table_view_and_column_says_what_it_means(client: Client, target: Target) -> None:
    migrations = migrator(client, target)
    migrations.up()
    where = f"WHERE database = '{target.database}' AND comment = ''"
    assert client.query(f"SELECT name FROM system.tables {where}").result_rows == []
    assert client.query(f"SELECT table, name FROM system.columns {where}").result_rows == []
    assert migrations.apply_comments() == []


def test_a_comment_that_has_changed_is_set_again(client: Client, target: Target) -> None:
    migrations = migrator(client, target)
    migrations.up()
    client.command(f"ALTER TABLE {target.database}.calls COMMENT COLUMN latency_ms 'it''s slow', MODIFY COMMENT 'a'")
    client.command(f"ALTER TABLE {target.database}.calls_v COMMENT COLUMN latency_ms ''")
    assert len(migrations.apply_comments()) == 2
    assert migrations.apply_comments() == []


def test_every_view_reads_with_the_rights_of_who_migrated(client: Client, target: Target) -> None:
    migrator(client, target).up()
    made = objects(client, target)
    assert {view for view in VIEWS if "DEFINER = default SQL SECURITY DEFINER" in made[view]} == VIEWS


def test_rows_of_before_survive_the_change_of_the_ledgers_columns_and_its_way_back(
    client: Client, target: Target
) -> None:
    before = [migration for migration in load_migrations() if migration.number < 8]
    migrator(client, target, before).up()
    costs = "cost_usd, cost_input_usd, cost_gpu_usd, cost_without_cache_usd"
    client.command(
        f"INSERT INTO {target.database}.calls (event_id, occurred_at, model, task_id, {costs}) "
        "VALUES (generateUUIDv4(), now(), 'priced', 't-1', 1.5, 1.25, 0, 2), "
        "(generateUUIDv4(), now(), 'unpriced', 't-2', NULL, NULL, NULL, NULL)"
    )

    def calls() -> Any:
        return client.query(f"SELECT model, task_id, {costs} FROM {target.database}.calls_v ORDER BY model").result_rows

    stored = calls()
    assert stored[1][2:] == (None, None, None, None)
    for step in (migrator(client, target).up, lambda: migrator(client, target).down(7), migrator(client, target).up):
        step()
        assert calls() == stored


def ttls(client: Client, target: Target) -> set[str]:
    return {name for name, ddl in objects(client, target).items() if " TTL " in ddl}


def test_nothing_expires_by_default(client: Client, target: Target) -> None:
    migrator(client, target).up()
    assert ttls(client, target) == set()


def test_retention_follows_its_setting_up_and_down_again(client: Client, target: Target) -> None:
    migrator(client, target, calls_days=30, dead_letters_days=7, alerts_days=9).up()
    assert ttls(client, target) == {"calls", "dead_letters", "alerts"}
    longer = migrator(client, target, calls_days=90)
    assert len(longer.apply_retention()) == 3
    assert longer.apply_retention() == []
    assert "toIntervalDay(90)" in objects(client, target)["calls"]
    assert ttls(client, target) == {"calls"}
    migrator(client, target).up()
    assert ttls(client, target) == set()


def test_imported_history_outlives_a_merge_under_retention(client: Client, target: Target) -> None:
    migrator(client, target, calls_days=30).up()
    table = f"{target.database}.calls"
    (insert,) = CallEncoder().encode(records([ipc(priced_calls(5))])).inserts  # calls of March 2026
    client.raw_insert(table, insert.columns, insert.body, fmt="ArrowStream")
    client.command(f"OPTIMIZE TABLE {table} FINAL")
    assert client.command(f"SELECT count() FROM {table}") == 5
    # What was inserted long ago does expire.
    client.command(f"ALTER TABLE {table} MODIFY TTL toDateTime(inserted_at) - toIntervalDay(1)")
    client.command(f"OPTIMIZE TABLE {table} FINAL")
    assert client.command(f"SELECT count() FROM {table}") == 0


@pytest.mark.parametrize("days", [-1, -30])
def test_a_negative_retention_is_refused(days: int) -> None:
    with pytest.raises(ValueError, match="rollups_1m"):
        Retention(rollups_days=days)


CLUSTER = Target("spend", cluster="main")


def statements(target: Target) -> list[str]:
    return [
        sql for migration in load_migrations() for sql in render(migration.up, target) + render(migration.down, target)
    ]


@pytest.mark.parametrize("sql", statements(CLUSTER), ids=lambda sql: " ".join(sql.split()[:6]))
def test_the_cluster_form_of_each_statement_is_valid_sql(client: Client, sql: str) -> None:
    assert "ON CLUSTER 'main'" in sql
    assert client.command(f"EXPLAIN AST {sql}")
    assert client.query("SELECT formatQuery({sql:String})", parameters={"sql": sql}).result_rows


def test_the_cluster_form_differs_in_engine_and_on_cluster_only() -> None:
    single = statements(Target("spend"))
    for one, many in zip(single, statements(CLUSTER), strict=True):
        plain = many.replace("ON CLUSTER 'main'", "")
        versions = dict.fromkeys(("calls", "rollups_1m", "dead_letters", "alerts", "repairs"), "ver") | {
            "rate_cards": "inserted_at"
        }
        for table, version in versions.items():
            replicated = (
                f"ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/{{database}}/{table}', "
                f"'{{replica}}', {version})"
            )
            plain = plain.replace(replicated, f"ReplacingMergeTree({version})")
        assert plain.split() == one.split()


@pytest.mark.parametrize(("shards", "error"), [(3, ShardedCluster), (0, MigrationError)])
def test_a_cluster_of_other_than_one_shard_is_refused(shards: int, error: type[Exception]) -> None:
    class Sharded:
        def command(self, cmd: str) -> Any:
            raise AssertionError(cmd)

        def query(self, query: str) -> Any:
            return type("Result", (), {"result_rows": [(shards,)]})

    with pytest.raises(error, match="main"):
        Migrator(Sharded(), MigrationSettings(CLUSTER)).up()


@pytest.mark.parametrize("name", ["", "a b", "a;DROP", "1st", "ä"])
def test_a_name_that_needs_quotes_is_refused(name: str) -> None:
    with pytest.raises(TemplateError):
        Target(name)


def test_an_unknown_placeholder_is_an_error() -> None:
    with pytest.raises(TemplateError, match="retention"):
        render("CREATE TABLE a {retention};", Target())


def test_comments_and_their_punctuation_are_left_out() -> None:
    assert render("-- one; {two}\nSELECT 1;\n-- three;\n\nSELECT 2;\n", Target()) == ["SELECT 1", "SELECT 2"]
