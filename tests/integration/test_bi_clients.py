"""What BI tools connect with, unmodified: ClickHouse's JDBC driver with its defaults (which compress), and polars."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

import clickhouse_connect.dbapi
import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.comments import TABLES
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from tests.kafka.install import cache_dir, fetch_jars, java_executable

pytestmark = pytest.mark.clickhouse

FOLDER: Final = Path(__file__).parents[1] / "jdbc"


@pytest.fixture
def database(client: Client) -> Iterator[str]:
    """A migrated database with two calls, one of them unpriced."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    Migrator(client, MigrationSettings(Target(name))).up()
    client.command(
        f"INSERT INTO {name}.calls (event_id, occurred_at, model, cost_usd) VALUES "
        "(generateUUIDv4(), '2026-03-01 12:00:00', 'a', 0.000000000001), "
        "(generateUUIDv4(), '2026-03-01 12:00:00', 'b', NULL)"
    )
    yield name
    client.command(f"DROP DATABASE {name} SYNC")


def read(server: EmbeddedClickHouse, database: str, *queries: str) -> list[list[str]]:
    libs = fetch_jars(FOLDER / "pom.xml", cache_dir() / "jdbc")
    url = server.url.replace("http://", "jdbc:clickhouse://") + f"/{database}"
    command = [java_executable(), "-cp", f"{libs}{os.sep}*", str(FOLDER / "Read.java"), url, database, *queries]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_the_jdbc_driver_lists_tables_with_their_comments_and_reads_exact_amounts(
    server: EmbeddedClickHouse, database: str
) -> None:
    found = read(
        server,
        database,
        "SELECT model, cost_usd FROM calls_v ORDER BY model",
        "SELECT number FROM numbers(200000)",  # many compressed blocks
    )
    assert {row[1]: row[2] for row in found if row[0] == "table"} == TABLES
    rows = [row[1:] for row in found if row[0] == "row"]
    assert rows[:2] == [["a", "1E-12"], ["b", "null"]]  # as BigDecimal writes a pico-dollar
    assert rows[2:] == [[str(number)] for number in range(200_000)]


@pytest.mark.parametrize("way", ["arrow", "read_database"])
def test_polars_reads_amounts_exactly_and_unknown_ones_as_null(
    server: EmbeddedClickHouse, client: Client, database: str, way: str
) -> None:
    sql = f"SELECT model, cost_usd FROM {database}.calls_v ORDER BY model"
    if way == "arrow":
        frame = pl.from_arrow(client.query_arrow(sql))
    else:
        connection = clickhouse_connect.dbapi.connect(dsn=server.url)
        frame = pl.read_database(sql, connection, schema_overrides={"cost_usd": pl.Decimal(38, 12)})
    assert isinstance(frame, pl.DataFrame)
    assert frame.schema["cost_usd"] == pl.Decimal(38, 12)
    assert frame.rows() == [("a", Decimal("0.000000000001")), ("b", None)]
