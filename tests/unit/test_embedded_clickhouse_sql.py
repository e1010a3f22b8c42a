"""The seams of a statement are found where ClickHouse finds them."""

from __future__ import annotations

import pytest

from spendstream.embedded.clickhouse_sql import (
    Insert,
    can_stream,
    has_result,
    may_be_stacked,
    may_change_session,
    result_format,
    split_insert,
)


@pytest.mark.parametrize(
    ("text", "sql", "data"),
    [
        (b"INSERT INTO t (a, b) FORMAT Native\n\x00\x01", "INSERT INTO t (a, b)", b"\x00\x01"),
        (b"insert into t format Native \r\n\n\x00", "insert into t", b"\n\x00"),
        (b'INSERT INTO t FORMAT Native {"a":1}', "INSERT INTO t", b'{"a":1}'),
        (b"INSERT INTO t SETTINGS async_insert=1 FORMAT Native", "INSERT INTO t SETTINGS async_insert=1", b""),
        (b"-- VALUES\n/* SELECT */ INSERT INTO t FORMAT Native\nx", "-- VALUES\n/* SELECT */ INSERT INTO t", b"x"),
        (b"INSERT INTO t (`format`, format, `values`) FORMAT Native\nx", None, b"x"),
        (b"/* /* nested */ */ INSERT INTO t FORMAT Native\nx", None, b"x"),
        (b"INSERT INTO `select FORMAT CSV ` FORMAT Native\nSELECT", "INSERT INTO `select FORMAT CSV `", b"SELECT"),
    ],
)
def test_insert_is_split_after_its_format(text: bytes, sql: str | None, data: bytes) -> None:
    insert = split_insert(text)
    assert insert is not None
    assert insert == Insert(sql or insert.sql, "Native", data)


def test_values_with_a_semicolon_go_in_as_data() -> None:
    assert split_insert(b"INSERT INTO t (a) VALUES (1, ';');") == Insert("INSERT INTO t (a)", "Values", b" (1, ';');")


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 1 FORMAT Native\n",
        b"INSERT INTO t VALUES (1, 'FORMAT Native\n')",
        b"INSERT INTO t SELECT format FROM u",
        b"INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x FORMAT Native",
        b"INSERT INTO t",
        b"",
    ],
)
def test_statement_that_carries_its_own_rows_is_not_split(text: bytes) -> None:
    assert split_insert(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"SELECT 1", "CSV"),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1\n format JSON ; ", "JSON"),
        (b"SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "JSON"),
    ],
)
def test_format_clause_comes_before_the_default(text: bytes, expected: str) -> None:
    assert result_format(text, "CSV") == expected


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        (b"SELECT 1 FORMAT Native", "JSON", True),
        (b"SELECT 1", "TabSeparated", True),
        (b"SELECT 1 FORMAT ArrowStream", "Native", False),
        (b"SELECT 'FORMAT CSV' FORMAT JSON", "Native", False),
        (b"SHOW TABLES", "TabSeparated", False),
    ],
)
def test_only_rows_without_head_or_foot_are_streamed(text: bytes, default: str, expected: bool) -> None:
    assert can_stream(text, default) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [(b"SELECT 1 ; ;\n", False), (b"SELECT ';'", True), (b"SELECT 1; x", True)]
)
def test_only_a_semicolon_within_the_text_needs_a_closer_look(text: bytes, expected: bool) -> None:
    assert may_be_stacked(text) is expected


def test_statements_are_classified_by_result_and_by_session() -> None:
    assert has_result(b"EXPLAIN SELECT 1")
    assert not has_result(b"CREATE TABLE t (a Int8) ENGINE = Memory")
    assert may_change_session(b"SELECT 1; set max_threads = 1")
    assert not may_change_session(b"SELECT offset, settled FROM t SETTINGS max_threads = 1")
