"""A statement's end and its kind are found as ClickHouse's own lexer finds them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from spendstream.cli.clickhouse import NotARead, _read_only, query
from spendstream.clickhouse.statements import first_keyword, stacked_at, why_it_writes


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT 1;",
        "SELECT 1 ; ;\n",
        "SELECT 1; -- the end; really",
        "SELECT 1; /* a; /* nested; */ b; */",
        "SELECT ';', 'it''s;', '\\';'",
        'SELECT 1 AS "a;b", 2 AS `c;d`, 3 AS "e\\";"',
        "SELECT /* ; */ 1 -- ;\n + 1 # ;\n + 1 #! ;\n",
        "SELECT $$ ; $$, $tag$ ; $$ ; $tag$",
        "SELECT ‘;’, “;”",
        "INSERT INTO t VALUES (1, 'a;b'), (2, ';');",
        "EXPLAIN SELECT ';'",
        "WITH ';' AS a SELECT a",
        "",
        ";",
    ],
)
def test_one_statement_is_one(text: str) -> None:
    assert stacked_at(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("SELECT 1; DROP TABLE x FORMAT JSON", 8),
        ("SELECT 1;;SELECT 2", 8),
        ("SELECT 1 /* ; */; /* ; */ DROP TABLE x", 16),
        ("SELECT ';' -- ;\n; DROP TABLE x", 16),
        ("SELECT a$x$ ; DROP TABLE x; $x$", 12),
        ("SELECT 1$x$ ; DROP TABLE x; $x$", 12),
        ("SELECT '\\\\'; DROP TABLE x --'", 11),
        ("SELECT 1 /* /* */; */ ; DROP TABLE x", 22),
        ("INSERT INTO t VALUES (1); DROP TABLE t", 24),
        ("EXPLAIN SELECT 1; DROP TABLE x", 16),
        ("WITH 1 AS a SELECT a; SELECT 2", 20),
        ("SELECT 1; 2", 8),
        ("; SELECT 1", 0),
    ],
)
def test_a_second_statement_is_found_where_the_first_ends(text: str, at: int) -> None:
    assert stacked_at(text.encode()) == at


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        (b" ( (select 1))", "SELECT"),
        (b"--x\n#! y\n/* z\n*/ show tables", "SHOW"),
        (b"/* /* */ */ drop table x", "DROP"),
        (b"", ""),
        (b"'select'", ""),
    ],
)
def test_first_keyword_is_found_past_comments_and_parentheses(text: bytes, keyword: str) -> None:
    assert first_keyword(text) == keyword


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'INSERT INTO t', `insert` FROM t",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "EXPLAIN SELECT 1",
        "SHOW TABLES",
        "describe calls_v",
        "EXISTS t",
        "FROM t SELECT a",
        "SELECT insert AS into FROM t -- INSERT INTO t",
    ],
)
def test_a_read_is_a_read(text: str) -> None:
    assert why_it_writes(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("drop table x", "DROP"),
        ("/* SELECT */ ALTER TABLE x DELETE WHERE 1", "ALTER"),
        ("INSERT INTO t SELECT 1", "INSERT"),
        ("WITH 1 AS a INSERT INTO FUNCTION file('x.csv') SELECT a", "INSERT"),
        ("WITH 1 AS a INSERT /* there */ INTO t SELECT a", "INSERT"),
        ("EXPLAIN INSERT INTO t SELECT 1", "INSERT"),
        ("SYSTEM STOP MERGES", "SYSTEM"),
        ("KILL QUERY WHERE 1", "KILL"),
        ("CREATE TEMPORARY TABLE t (a Int8)", "CREATE"),
    ],
)
def test_what_writes_is_named(text: str, what: str) -> None:
    assert why_it_writes(text.encode()) == what


def test_the_query_command_names_the_place_and_the_word_before_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_URL", "http://127.0.0.1:1")
    with pytest.raises(NotARead, match=r"more than one statement: text follows the ; at character 11\. Run each alone"):
        query("SELECT 'ü'; DROP TABLE x FORMAT JSON")
    with pytest.raises(NotARead, match="DROP is not a read, and this command only reads"):
        query("DROP TABLE x")


@pytest.mark.parametrize(("value", "sent"), [("0", {"readonly": 2}), ("1", {}), ("2", {})])
def test_the_query_command_leaves_a_profile_that_is_read_only_already(value: str, sent: dict[str, int]) -> None:
    client = SimpleNamespace(server_settings={"readonly": SimpleNamespace(value=value)})
    assert _read_only(client) == sent
