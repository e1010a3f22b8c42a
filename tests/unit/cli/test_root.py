"""The root: help without heavy imports, one line for an error that can be fixed, a traceback for a bug."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import structlog
from aiokafka.errors import KafkaConnectionError
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from spendstream.cli import environment, root
from spendstream.cli.console import explain
from spendstream.errors import SpendstreamError


def test_help_lists_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys; from spendstream.cli.root import run; status = run(['--help']); "
        "heavy = {'faust', 'polars', 'aiokafka', 'pyarrow', 'clickhouse_connect', 'pydantic'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    for name in root.COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", root.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run([name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_an_unknown_command_is_a_usage_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run(["wroker"]) == 2
    assert "worker" in capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def price() -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("spendstream.cli.price"), "price", price)


def test_an_error_that_can_be_fixed_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, SpendstreamError("do this"))
    assert root.run(["price"]) == 1
    assert capsys.readouterr().err == "spendstream: do this\n"


def test_a_bug_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        root.run(["price"])


def test_an_invalid_setting_is_named_with_its_valid_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METER_DIMENSIONS", "team,colour")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    assert root.run(["topics"]) == 1
    message = capsys.readouterr().err
    assert "METER_DIMENSIONS" in message
    assert "unknown dimension colour" in message


def test_logs_are_not_mixed_into_a_commands_output(capsys: pytest.CaptureFixture[str]) -> None:
    root.run(["--help"])
    output = capsys.readouterr().out
    structlog.get_logger("spendstream.drain").warning("drain.retry")
    logged = capsys.readouterr()
    assert output.strip()
    assert logged.out == ""
    assert "drain.retry" in logged.err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == metadata.version("spendstream")


# Errors as messages.


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "adopted", None)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("CLICKHOUSE_URL", "http://127.0.0.1:2")


def explained(error: BaseException) -> str:
    message = explain(error)
    assert message is not None
    return message


@pytest.mark.usefixtures("addresses")
def test_a_broker_that_does_not_answer_is_named_with_the_setting_to_change() -> None:
    message = explained(KafkaConnectionError("Unable to bootstrap"))
    assert "127.0.0.1:1" in message
    assert "KAFKA_BOOTSTRAP_SERVERS" in message


@pytest.mark.usefixtures("addresses")
def test_an_embedded_stack_that_is_gone_is_named_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "adopted", Path("state/env"))
    message = explained(KafkaConnectionError("Unable to bootstrap"))
    assert "state/env" in message
    assert "spendstream up" in message


@pytest.mark.usefixtures("addresses")
def test_a_clickhouse_that_does_not_answer_is_named_by_its_address() -> None:
    assert "http://127.0.0.1:2" in explained(OperationalError("Error connecting: Connection refused"))


def test_a_syntax_error_is_reported_without_the_list_of_every_keyword() -> None:
    error = DatabaseError(
        "Received ClickHouse exception, code: 62, server response: Code: 62. DB::Exception: Syntax error: failed at "
        "position 1 (selec): selec 1. Maybe you meant: SELECT. Expected one of: Query, SHOW, (a) b. (SYNTAX_ERROR) "
        "(for url http://127.0.0.1:2)"
    )
    assert explained(error) == (
        "ClickHouse: Syntax error: failed at position 1 (selec): selec 1. Maybe you meant: SELECT. (SYNTAX_ERROR)"
    )


def test_a_missing_table_comes_with_the_command_that_creates_it() -> None:
    error = DatabaseError("server response: Code: 60. DB::Exception: Unknown table x. (UNKNOWN_TABLE)")
    assert "spendstream migrate" in explained(error)


def test_a_taken_port_comes_with_the_setting() -> None:
    assert "METRICS_PORT" in explained(OSError(errno.EADDRINUSE, "address already in use"))


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "x"), KeyError("x"), RuntimeError("x")])
def test_anything_else_is_a_bug(error: Exception) -> None:
    assert explain(error) is None


def test_our_own_errors_are_shown_as_they_are() -> None:
    assert explain(SpendstreamError("do this")) == "do this"
