"""One statement a request, and nothing but reads where only reads are allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from spendstream.cli.root import run
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from tests.integration.embedded_clickhouse.requests import ask

pytestmark = pytest.mark.clickhouse

SECOND_STATEMENTS = [
    "SELECT 1; DROP TABLE {table} FORMAT JSON",
    "SELECT ';' /* ; */; -- ;\nDROP TABLE {table}",
    "SELECT 1 /* /* */ ; */; DROP TABLE {table}",
    "SELECT a$x$ ; DROP TABLE {table}; $x$",
    "SELECT 1 ;\0 DROP TABLE {table}",
    "EXPLAIN SELECT 1; DROP TABLE {table}",
    "EXPLAIN AST INSERT INTO {table} VALUES (1); DROP TABLE {table}",
    "WITH 1 AS a SELECT a; DROP TABLE {table}",
    "SHOW TABLES; DROP TABLE {table}",
    "SET max_threads = 1; DROP TABLE {table}",
    "INSERT INTO {table} (a) VALUES (1); DROP TABLE {table}",
    "INSERT INTO {table} (a) FORMAT Values (1); DROP TABLE {table}",
    "INSERT INTO {table} (a) SELECT 1; DROP TABLE {table}",
    "INSERT INTO {table} (a); DROP TABLE {table} FORMAT CSV\n1",
    "/* /* */ */ INSERT INTO {table} (a) VALUES (1); DROP TABLE {table}",
]


@pytest.mark.parametrize("text", SECOND_STATEMENTS)
def test_second_statement_is_refused_and_the_first_is_not_run(
    server: EmbeddedClickHouse, client: Client, table: str, text: str
) -> None:
    text = text.format(table=table)
    before, _, after = text.partition(";")
    parameters = {"param_p": "1"}
    for answer in (
        ask(server, body=text.encode()),
        ask(server, query=text),
        ask(server, method="GET", query=text),
        ask(server, query=f"{before};", body=after.encode()),
        ask(server, body=text.encode(), **parameters),
        ask(server, body=text.encode(), session_id="stacked", wait_end_of_query="1"),
    ):
        status, headers, body = answer
        assert (status, headers["X-ClickHouse-Exception-Code"]) in ((400, "62"), (500, "164")), body
    assert client.query(f"SELECT count() FROM {table}").result_rows == [(0,)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"SELECT 1;", b"1\n"),
        (b"SELECT 1 ; ;\n", b"1\n"),
        (b"SELECT 1; -- the end; really", b"1\n"),
        (b"SELECT ';', 'it''s;', '\\';' -- ;", b";\tit\\'s;\t\\';\n"),
        (b"SELECT $$;$$ AS `a;b`", b";\n"),
        (b"SELECT length('\xff;')", b"2\n"),
        (b"WITH ';' AS a SELECT a;", b";\n"),
        (b"SHOW DATABASES LIKE ';'", b""),
    ],
)
def test_semicolon_that_parts_nothing_is_harmless(server: EmbeddedClickHouse, text: bytes, expected: bytes) -> None:
    assert ask(server, body=text)[2] == expected


def test_semicolons_in_inserted_data_are_data(server: EmbeddedClickHouse, client: Client, table: str) -> None:
    for statement, parameters in (
        (f"INSERT INTO {table} VALUES (1, 'a;b'), (1 + 1, concat(';', 'c'));", {}),
        (f"INSERT INTO {table} VALUES ({{a:UInt64}}, {{b:String}}); -- ;", {"param_a": "3", "param_b": "it's;\\\\"}),
        (f"INSERT INTO {table} SELECT 4, ';';", {}),
        (f"INSERT INTO {table} FORMAT CSV\n5,d;e\n6,;", {}),
    ):
        assert ask(server, body=statement, **parameters)[0] == 200
    rows = client.query(f"SELECT * FROM {table} ORDER BY a").result_rows
    assert rows == [(1, "a;b"), (2, ";c"), (3, "it's;\\"), (4, ";"), (5, "d;e"), (6, ";")]


def test_a_parameters_name_is_a_name(server: EmbeddedClickHouse, client: Client, table: str) -> None:
    parameters = {f"param_a = 1; DROP TABLE {table}; --": "1"}
    assert ask(server, body=f"INSERT INTO {table} VALUES (1, ';')", **parameters)[0] == 404
    assert client.query(f"SELECT count() FROM {table}").result_rows == [(0,)]


WRITES = [
    "DROP TABLE {table}",
    "TRUNCATE TABLE {table}",
    "INSERT INTO {table} (a) VALUES (1)",
    "INSERT INTO {table} (a) FORMAT CSV\n1",
    "INSERT INTO {table} (a) SELECT 1",
    "INSERT INTO {table} (a) SETTINGS readonly = 0 VALUES (1)",
    "INSERT INTO {table} (a) SELECT 1 SETTINGS readonly = 0",
    "INSERT INTO FUNCTION file('{folder}/x.csv') SELECT 1",
    "WITH 1 AS a INSERT INTO FUNCTION file('{folder}/x.csv') SELECT a",
    "ALTER TABLE {table} DELETE WHERE 1",
    "SELECT 1 SETTINGS readonly = 0",
    "SET readonly = 0",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
]


@pytest.mark.parametrize("statement", WRITES)
def test_write_is_refused_where_only_reads_are_allowed(
    server: EmbeddedClickHouse, client: Client, table: str, tmp_path: Path, statement: str
) -> None:
    text = statement.format(table=table, folder=tmp_path)
    for answer in (
        ask(server, body=text, readonly="1"),
        ask(server, body=text, readonly="2"),
        ask(server, body=text, readonly="2", session_id="reading"),
        ask(server, method="GET", query=text),
        ask(server, method="GET", query=text, readonly="0"),
    ):
        status, headers, body = answer
        assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "164"), body
    assert client.query(f"SELECT count() FROM {table}").result_rows == [(0,)]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("statement", [*SECOND_STATEMENTS, *WRITES])
def test_query_command_only_reads(
    server: EmbeddedClickHouse,
    client: Client,
    table: str,
    tmp_path: Path,
    statement: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLICKHOUSE_URL", server.url)
    monkeypatch.setenv("CLICKHOUSE_DATABASE", "default")
    assert run(["query", statement.format(table=table, folder=tmp_path)]) != 0
    said = capfd.readouterr().err
    assert "more than one statement" in said or "not a read" in said or "readonly" in said
    assert client.query(f"SELECT count() FROM {table}").result_rows == [(0,)]
    assert not list(tmp_path.iterdir())


def test_query_command_reads_whatever_reads(
    server: EmbeddedClickHouse, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLICKHOUSE_URL", server.url)
    monkeypatch.setenv("CLICKHOUSE_DATABASE", "default")
    for statement in (
        "SELECT ';' AS a;",
        "SELECT 1 SETTINGS max_threads = 1",
        "WITH 1 AS a SELECT a -- ; the end",
        "SHOW DATABASES",
        "EXPLAIN SELECT 1",
        "DESCRIBE system.one",
        "EXISTS system.one",
    ):
        assert run(["query", statement, "--json"]) == 0, statement
        assert capfd.readouterr().out, statement
