"""Every ClickHouse query of the dashboards runs on the migrated views."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.client import INSERT_SETTINGS, ClickHouseSettings, open_client
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.sinks.alerts import AlertEncoder
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import DeadLetterEncoder, RollupEncoder, RowEncoder
from tests.unit.notifiers.make import make_alert
from tests.unit.sinks.make import dead_letter_value, ipc, priced_calls, records, rollup_value

pytestmark = pytest.mark.clickhouse

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "infra/grafana/dashboards"
EMPTY, FILLED = "dashboards_empty", "dashboards_filled"
ALL_TIME = {
    "$__timeFilter(minute)": "minute >= toDateTime(0) AND minute <= now() + 86400000",
    "$__timeFilter(at)": "at >= toDateTime(0) AND at <= now() + 86400000",
    "$__timeFilter(recorded_at)": "recorded_at >= toDateTime(0) AND recorded_at <= now() + 86400000",
}


def queries() -> list[ParameterSet]:
    """One for each target that ClickHouse answers: its SQL, and whether a time series is drawn of it."""
    return [
        pytest.param(target["rawSql"], target["queryType"] == "timeseries", id=f"{path.stem}: {panel['title']}")
        for path in sorted(DASHBOARDS.glob("*.json"))
        for panel in json.loads(path.read_text("utf-8"))["panels"]
        for target in panel.get("targets", [])
        if "rawSql" in target
    ]


def without_macros(sql: str) -> str:
    """Write what Grafana's data source would put in place of its macros."""
    for macro, condition in ALL_TIME.items():
        sql = sql.replace(macro, condition)
    assert "$" not in sql, f"a macro that this test does not know: {sql}"
    return sql


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with (
        EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as server,
        open_client(ClickHouseSettings(server.url)) as connected,
    ):
        for database in (EMPTY, FILLED):
            Migrator(connected, MigrationSettings(Target(database))).up()
        dollar, team = Decimal(1), {"service": "api", "team": "search", "model": "m-1"}
        insert(
            connected,
            RollupEncoder(),
            rollup_value(dimensions=team, cost_usd=dollar, cost_without_cache_usd=3 * dollar),
        )
        insert(
            connected, RollupEncoder(), rollup_value(dimensions={"model": "m-2"}, cost_usd=0 * dollar, unpriced_calls=2)
        )
        insert(connected, DeadLetterEncoder(), dead_letter_value(service="api"))
        insert(connected, AlertEncoder(), make_alert().model_dump_json().encode())
        insert(connected, CallEncoder(20_000), ipc(priced_calls(3, occurred_at=datetime.now(UTC))))
        yield connected


def insert(client: Client, encoder: RowEncoder, value: bytes) -> None:
    for insert in encoder.encode(records([value])).inserts:
        table = f"{FILLED}.{insert.table}"
        client.raw_insert(table, insert.columns, insert.body, fmt="ArrowStream", settings=INSERT_SETTINGS)


def run(client: Client, database: str, sql: str) -> list[dict[str, Any]]:
    return list(client.query(without_macros(sql), settings={"database": database}).named_results())


@pytest.mark.parametrize(("sql", "is_series"), queries())
def test_a_dashboard_query_runs_on_empty_tables(client: Client, sql: str, is_series: bool) -> None:
    run(client, EMPTY, sql)
    columns = [(row["name"], row["type"]) for row in run(client, EMPTY, f"DESCRIBE ({sql})")]
    if is_series:
        assert columns[0] == ("time", "DateTime('UTC')")
        assert columns[1][0] == "series"
    # Grafana draws floats and integers; a decimal would arrive as text
    assert not any("Decimal" in kind for _, kind in columns)


@pytest.mark.parametrize(("sql", "is_series"), queries())
def test_a_dashboard_query_finds_what_is_there(client: Client, sql: str, is_series: bool) -> None:
    assert run(client, FILLED, sql)


@pytest.mark.parametrize(
    ("title", "value"),
    [("Spend", 1.0), ("Saved by caching", 2.0), ("Calls", 4), ("Unpriced calls", 2), ("Dead letters", 1)],
)
def test_the_numbers_on_top_are_the_totals(client: Client, title: str, value: float) -> None:
    sql = next(query.values[0] for query in queries() if query.id == f"ai-spend: {title}")
    assert run(client, FILLED, str(sql)) == [{"value": value}]


def test_spend_without_a_team_is_shown_as_such(client: Client) -> None:
    sql = next(query.values[0] for query in queries() if query.id == "ai-spend: Spend per minute by team")
    spend = {row["series"]: row["usd"] for row in run(client, FILLED, str(sql))}
    assert spend == {"search": 1.0, "(none)": None}
