"""`spendstream backtest` on a CSV: what scripts and people read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spendstream.cli.root import run
from tests.unit.backtest import series

FIELDS = {"timestamp", "group", "watch", "facet", "state", "observed", "expected", "score", "title", "reason"}


@pytest.fixture
def watches(tmp_path: Path) -> Path:
    path = tmp_path / "watches.yaml"
    path.write_text(series.SPEND)
    return path


def backtest(watches: Path, path: Path, *options: str) -> int:
    table = ["--csv", str(path), "--time", "at", "--value", "usd", "--group", "feature"]
    return run(["backtest", "--watches", str(watches), *table, *options])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_an_object_a_line_for_every_transition(
    watches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = series.write(tmp_path / "f.csv", series.with_incident(series.calm(120), 80, 90))
    assert backtest(watches, path, "--json") == 0
    printed = capfd.readouterr()
    alerts = lines(printed.out)
    assert all(alert.keys() >= FIELDS for alert in alerts)
    kinds = [alert["transition"] for alert in alerts if alert["facet"] == "up"]
    assert kinds[0] == "firing"
    assert kinds[-1] == "resolved"
    assert "updated" in kinds
    first = alerts[0]
    assert (first["timestamp"], first["watch"], first["group"]) == (
        "2026-03-02T01:21:00+00:00",
        "spend",
        {"feature": "chat"},
    )
    assert first["observed"] > first["limit"] > first["expected"]
    assert "1 alerts in 120 minutes" in printed.err


def test_the_table_shows_what_fired_and_a_summary(
    watches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = series.write(tmp_path / "f.csv", series.with_incident(series.calm(120), 80, 90))
    assert backtest(watches, path) == 0
    printed = capfd.readouterr().out
    assert "2026-03-02 01:21:00  firing" in printed
    assert "resolved" in printed
    assert printed.splitlines()[-1] == "1 alerts in 120 minutes: spend 1 in 1 groups"


def test_a_steady_series_prints_only_a_summary(
    watches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert backtest(watches, series.write(tmp_path / "f.csv", series.calm(60))) == 0
    assert capfd.readouterr().out == "0 alerts in 60 minutes: spend 0 in 1 groups\n"


def test_bad_rows_are_reported_and_counted_and_exit_with_1(
    watches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = series.write(tmp_path / "f.csv", series.calm(10))
    with path.open("a") as out:
        out.write("2026-03-02T00:10Z,chat,lots\n")
    assert backtest(watches, path) == 1
    printed = capfd.readouterr()
    assert "10 minutes" in printed.out
    assert "line 12" in printed.err
    assert "skipped 1 rows that could not be read" in printed.err


def test_an_unknown_column_lists_the_columns(watches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = series.write(tmp_path / "f.csv", [1.0])
    assert run(["backtest", "--csv", str(path), "--time", "when", "--value", "usd", "--watches", str(watches)]) == 1
    assert "no column 'when'; it has at, feature, usd" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--csv", "f.csv"],
        ["--from", "2026-03-02"],
        ["--from", "soon", "--to", "later"],
        ["--csv", "f.csv", "--time", "at", "--value", "usd", "--group", "series"],
        ["--csv", "f.csv", "--time", "at", "--value", "usd", "--tz", "Mars/Olympus"],
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    series.write(tmp_path / "f.csv", [1.0])
    assert run(["backtest", *arguments]) == 2
    assert capfd.readouterr().err


def test_one_watch_can_be_run_by_itself_and_an_unknown_one_is_an_error(
    watches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = series.write(tmp_path / "f.csv", series.calm(5))
    assert backtest(watches, path, "--watch", "nosuch") == 1
    assert "expected one of spend" in capfd.readouterr().err
    assert backtest(watches, path, "--watch", "spend") == 0


def test_the_step_of_a_coarser_series_is_printed(
    watches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert backtest(watches, series.write(tmp_path / "f.csv", series.calm(20), step=5)) == 0
    assert "steps of 5m" in capfd.readouterr().err
