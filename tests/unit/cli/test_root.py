"""The root: help without heavy imports, one line for what can be mended, a traceback for a bug."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata

import pytest
import structlog

from spendstream.cli import root
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


def test_an_unknown_command_is_a_usage_error_with_a_proposal(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run(["wroker"]) == 2
    assert "worker" in capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def price() -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("spendstream.cli.price"), "price", price)


def test_what_can_be_mended_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, SpendstreamError("do this"))
    assert root.run(["price"]) == 1
    assert capsys.readouterr().err == "spendstream: do this\n"


def test_a_bug_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        root.run(["price"])


def test_a_wrong_setting_is_named_with_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METER_DIMENSIONS", "team,colour")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    assert root.run(["topics"]) == 1
    said = capsys.readouterr().err
    assert "METER_DIMENSIONS" in said
    assert "unknown dimension colour" in said


def test_what_a_command_logs_is_no_part_of_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    root.run(["--help"])
    answer = capsys.readouterr().out
    structlog.get_logger("spendstream.drain").warning("drain.asks_again")
    logged = capsys.readouterr()
    assert answer.strip()
    assert logged.out == ""
    assert "drain.asks_again" in logged.err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == metadata.version("spendstream")
