"""Failures that the operator can mend are told in a line; the rest are bugs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from spendstream.cli import environment
from spendstream.cli.failures import explain
from spendstream.errors import SpendstreamError


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "adopted", None)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("CLICKHOUSE_URL", "http://127.0.0.1:2")


def told(error: BaseException) -> str:
    words = explain(error)
    assert words is not None
    return words


def test_an_absent_broker_is_named_with_what_to_set() -> None:
    words = told(KafkaConnectionError("Unable to bootstrap"))
    assert "127.0.0.1:1" in words
    assert "KAFKA_BOOTSTRAP_SERVERS" in words


def test_an_embedded_stack_that_is_gone_is_named_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "adopted", Path("state/env"))
    words = told(KafkaConnectionError("Unable to bootstrap"))
    assert "state/env" in words
    assert "spendstream up" in words


def test_an_absent_clickhouse_is_named_by_its_address() -> None:
    assert "http://127.0.0.1:2" in told(OperationalError("Error connecting: Connection refused"))


def test_a_syntax_error_is_told_without_the_list_of_every_keyword() -> None:
    error = DatabaseError(
        "Received ClickHouse exception, code: 62, server response: Code: 62. DB::Exception: Syntax error: failed at "
        "position 1 (selec): selec 1. Maybe you meant: SELECT. Expected one of: Query, SHOW, (a) b. (SYNTAX_ERROR) "
        "(for url http://127.0.0.1:2)"
    )
    assert told(error) == (
        "ClickHouse: Syntax error: failed at position 1 (selec): selec 1. Maybe you meant: SELECT. (SYNTAX_ERROR)"
    )


def test_a_missing_table_comes_with_the_command_that_makes_it() -> None:
    error = DatabaseError("server response: Code: 60. DB::Exception: Unknown table x. (UNKNOWN_TABLE)")
    assert "spendstream migrate" in told(error)


def test_a_taken_port_comes_with_the_setting() -> None:
    assert "METRICS_PORT" in told(OSError(errno.EADDRINUSE, "address already in use"))


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "x"), KeyError("x"), RuntimeError("x")])
def test_anything_else_is_a_bug(error: Exception) -> None:
    assert explain(error) is None


def test_our_own_errors_speak_for_themselves() -> None:
    assert explain(SpendstreamError("do this")) == "do this"
