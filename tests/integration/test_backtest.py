"""A backtest over history in ClickHouse: as over a CSV of the same series, but with reasons."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver.client import Client

from spendstream.backtest import BacktestError
from spendstream.backtest.history import HistorySeries
from spendstream.cli.root import run
from spendstream.clickhouse.client import ClickHouseSettings, open_client
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.core.money import PUSD
from spendstream.core.timestamps import epoch_us
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.schemas.measures import COLUMN, COST
from spendstream.sinks.encoders import RollupEncoder
from tests.unit.backtest import series
from tests.unit.sinks.make import records, rollup_value

pytestmark = pytest.mark.clickhouse

MINUTES = 130
INCIDENT = range(100, 110)
SAME = ("timestamp", "started_at", "group", "watch", "facet", "state", "transition", "observed", "expected", "title")


class History:
    """A database of 130 minutes of two features; one of them makes four times the calls for ten minutes."""

    def __init__(self, url: str, client: Client) -> None:
        self.url, self.client, self.name = url, client, f"db_{uuid.uuid4().hex[:12]}"
        Migrator(client, MigrationSettings(Target(self.name))).up()
        self.rows: list[tuple[int, str, int, Decimal]] = []
        random = np.random.default_rng(3)
        for feature in ("chat", "search"):
            for at, noise in enumerate(random.normal(1, 0.05, MINUTES)):
                calls = int(200 * noise) * (4 if feature == "chat" and at in INCIDENT else 1)
                self.rows.append((at, feature, calls, calls * Decimal("0.012")))
        values = [self._rollup(*row) for row in self.rows]
        for insert in RollupEncoder().encode(records(values)).inserts:
            client.raw_insert(f"{self.name}.{insert.table}", insert.columns, insert.body, fmt="ArrowStream")

    def series(self, dimensions: tuple[str, ...] = ("team", "feature"), minutes: int = MINUTES) -> HistorySeries:
        start_us = epoch_us(series.BEGAN)
        return HistorySeries(self.client, self.name, dimensions, start_us, start_us + minutes * 60_000_000)

    def csv(self, path: Path) -> Path:
        lines = [f"{series.BEGAN + timedelta(minutes=at)},{feature},{n},{usd}" for at, feature, n, usd in self.rows]
        path.write_text("\n".join(["at,feature,n,usd", *lines]) + "\n")
        return path

    def _rollup(self, at: int, feature: str, calls: int, usd: Decimal) -> bytes:
        return rollup_value(
            minute=series.BEGAN + timedelta(minutes=at),
            dimensions={"team": "search", "feature": feature, "model": "m-1"},
            calls=calls,
            tokens={"input": calls * 3000, "output": calls * 200},
            cost_usd=usd,
        )


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with (
        EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as server,
        open_client(ClickHouseSettings(server.url)) as client,
    ):
        yield History(server.url, client)


@pytest.fixture
def backtest(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Any:
    monkeypatch.setenv("CLICKHOUSE_URL", history.url)
    monkeypatch.setenv("CLICKHOUSE_DATABASE", history.name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watches.yaml").write_text(series.SPEND)

    def json_lines(*options: str) -> list[dict[str, Any]]:
        assert run(["backtest", "--watches", "watches.yaml", "--json", *options]) == 0
        return [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    return json_lines


def test_history_holds_every_pico_dollar_and_call(history: History) -> None:
    steps = list(history.series().steps())
    sums = sum(increment.sums.sum(axis=0) for step in steps for increment in step.increments)
    assert len(steps) == MINUTES
    assert int(sums[COLUMN[COST]]) == int(sum(usd for *_, usd in history.rows) * PUSD)
    assert int(sums[COLUMN["calls"]]) == sum(calls for _, _, calls, _ in history.rows)
    assert int(sums[COLUMN["input_tokens"]]) == 3000 * int(sums[COLUMN["calls"]])


def test_dimensions_that_are_not_asked_for_are_summed_over(history: History) -> None:
    (increment,) = next(history.series(dimensions=()).steps()).increments
    assert increment.members == [()]
    assert int(increment.sums[0, COLUMN["calls"]]) == sum(calls for at, _, calls, _ in history.rows if at == 0)


def test_a_span_without_any_spend_is_an_error(history: History) -> None:
    with pytest.raises(BacktestError, match="nothing was metered"):
        HistorySeries(history.client, history.name, ("feature",), 0, 3_600_000_000)


def test_history_fires_the_same_as_a_csv_of_the_same_series(backtest: Any, history: History, tmp_path: Path) -> None:
    span = ("--from", "2026-03-02T00:00Z", "--to", "2026-03-02T02:10Z")
    columns = ("--time", "at", "--value", "usd", "--group", "feature", "--calls", "n")
    of_history = backtest(*span)
    of_csv = backtest("--csv", str(history.csv(tmp_path / "f.csv")), *columns)
    assert [{name: alert[name] for name in SAME} for alert in of_history] == [
        {name: alert[name] for name in SAME} for alert in of_csv
    ]
    fired = [alert for alert in of_history if alert["transition"] == "firing"]
    assert [(alert["group"], alert["started_at"]) for alert in fired] == [
        ({"feature": "chat"}, "2026-03-02T01:40:00+00:00")
    ]


def test_history_gives_the_reason(backtest: Any) -> None:
    alerts = backtest("--from", "2026-03-02T00:00Z", "--to", "2026-03-02T02:10Z")
    assert "calls" in next(alert["reason"] for alert in alerts if alert["transition"] == "firing")
