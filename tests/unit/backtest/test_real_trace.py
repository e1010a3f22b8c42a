"""Two hours of real production calls, at $3 and $15 per million tokens: the built-in watches raise no false alert."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest

from spendstream.backtest import Backtest
from spendstream.backtest.series import Columns, CsvSeries, read_rows
from spendstream.core.money import pusd_from_text
from spendstream.watches import default_watches

TRACES = Path(__file__).resolve().parents[4] / "shared" / "data" / "azure-llm-2023"

pytestmark = pytest.mark.skipif(not TRACES.is_dir(), reason="the Azure LLM traces are not beside the repository")


@pytest.mark.parametrize(("trace", "usd"), [("code", "57.868362"), ("conv", "128.415585")])
def test_a_real_hour_of_calls_fires_nothing(trace: str, usd: str, tmp_path: Path) -> None:
    priced = tmp_path / "priced.csv"
    with (TRACES / f"{trace}.csv").open() as calls, priced.open("w") as out:
        out.write("at,usd\n")
        for call in csv.DictReader(calls):
            cost = (3 * int(call["ContextTokens"]) + 15 * int(call["GeneratedTokens"])) * Decimal("1e-6")
            out.write(f"{call['TIMESTAMP']},{cost}\n")
    errors: list[object] = []
    rows = read_rows(priced, Columns("at", "usd", {}), errors.append)
    assert int(rows.values.sum()) == pusd_from_text(usd)
    assert not errors
    series = CsvSeries(rows, ())
    assert series.row_kind == "calls"
    run = Backtest(series, default_watches(()))
    assert not [alert for alert in run.run() if alert.state == "firing"]
