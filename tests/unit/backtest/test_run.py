"""A series through the detector: what fires, and when, in real time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from spendstream.backtest import Backtest, BacktestError
from spendstream.backtest.run import SimulatedClock
from spendstream.backtest.series import CsvSeries
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Watches
from tests.unit.backtest import series

ANOMALY = {"name": "spend", "group_by": ["feature"], "rule": {"kind": "anomaly", "measure": "cost"}}


def backtest(path: Path, *watches: dict[str, object]) -> Backtest:
    csv = CsvSeries(series.read(path), ("feature",))
    return Backtest(csv, Watches.model_validate({"watches": list(watches or (ANOMALY,))}))


def moments(alerts: list[Alert], transition: str) -> list[float]:
    """When, in minutes from the start of the series."""
    return [(alert.at - series.BEGAN) / timedelta(minutes=1) for alert in alerts if alert.transition == transition]


def test_a_steady_series_fires_nothing(tmp_path: Path) -> None:
    run = backtest(series.write(tmp_path / "f", series.calm(200)))
    assert not [alert for alert in run.run() if alert.state == "firing"]
    assert run.summary.minutes == 200
    assert run.summary.groups == {"spend": 1}


def test_an_incident_fires_in_its_first_minute_and_ends_after_its_last(tmp_path: Path) -> None:
    values = series.with_incident(series.calm(200), 120, 140)
    path = series.write(tmp_path / "f", values)
    series.write(path, series.calm(200, seed=2), feature="search", append=True)
    run = backtest(path)
    alerts = list(run.run())
    (fired,) = (alert for alert in alerts if alert.transition == "firing")
    assert fired.group == {"feature": "chat"}
    assert fired.facet == "up"
    assert fired.started_at == series.BEGAN + timedelta(minutes=120)
    assert fired.observed == pytest.approx(values[120], abs=1e-6)
    assert moments(alerts, "firing")[0] == 121  # all of the minute is known at its end
    assert 141 < moments(alerts, "resolved")[-1] < 150
    assert run.summary.alerts == {"spend": 1}
    assert run.summary.still_firing == 0


def test_without_calls_and_tokens_no_reason_is_invented(tmp_path: Path) -> None:
    run = backtest(series.write(tmp_path / "f", series.with_incident(series.calm(100), 70, 100)))
    alerts = list(run.run())
    assert any(alert.state == "firing" for alert in alerts)
    assert all(alert.attribution is None for alert in alerts)
    assert run.summary.still_firing == 1


def test_a_coarser_series_fires_in_real_time(tmp_path: Path) -> None:
    values = series.with_incident(series.calm(200, usd=10.0), 120, 130)
    run = backtest(series.write(tmp_path / "f", values, step=5))
    alerts = list(run.run())
    (fired,) = (alert for alert in alerts if alert.transition == "firing")
    assert fired.started_at == series.BEGAN + timedelta(minutes=600)
    assert fired.at == series.BEGAN + timedelta(minutes=605)
    assert fired.observed == pytest.approx(values[120] / 5, abs=1e-6)  # USD a minute


@pytest.mark.parametrize("step", [1, 5])
def test_a_budget_is_spent_exactly_and_in_real_time_whatever_the_step(tmp_path: Path, step: int) -> None:
    budget = {"kind": "budget", "amount_usd": "100", "period": "day", "thresholds": [0.5], "burn_rates": []}
    path = series.write(tmp_path / "f", [1.0 * step] * (120 // step), step=step)
    watch = {"name": "day", "group_by": ["feature"], "rule": budget | {"forecast": False}}
    alerts = list(backtest(path, watch).run())
    (fired,) = (alert for alert in alerts if alert.transition == "firing")
    assert fired.at == series.BEGAN + timedelta(minutes=50)
    assert fired.budget is not None
    assert fired.budget.spent_usd == 50


def test_a_gap_is_minutes_without_spend(tmp_path: Path) -> None:
    path = series.write(tmp_path / "f", series.calm(100))
    with path.open("a") as out:
        out.write(f"{(series.BEGAN + timedelta(minutes=160)).isoformat()},chat,2\n")
    run = backtest(path)
    facets = {alert.facet for alert in run.run() if alert.state == "firing"}
    assert run.summary.minutes == 161
    assert facets & {"down", "no_data"}


def test_watches_of_measures_that_the_series_lacks_are_skipped_and_named(tmp_path: Path) -> None:
    failures = {"name": "failures", "rule": {"kind": "threshold", "measure": "failure_share", "above": 0.1}}
    path = series.write(tmp_path / "f", [1.0] * 5)
    assert [watch.name for watch in backtest(path, ANOMALY, failures).skipped] == ["failures"]
    with pytest.raises(BacktestError, match="failure_share; the series has cost"):
        backtest(path, failures)


def test_a_span_of_many_years_is_refused_as_a_mistake(tmp_path: Path) -> None:
    path = series.write(tmp_path / "f", [1.0] * 5)
    with path.open("a") as out:
        out.write("1970-01-01T00:00Z,chat,1\n")
    with pytest.raises(BacktestError, match="mistyped"):
        backtest(path)


def test_simulated_time_is_real_time_at_each_steps_open_and_seconds_stay_seconds() -> None:
    clock = SimulatedClock(start_us=0, step_us=5 * MINUTE_US)
    assert clock.simulated(15 * MINUTE_US) == 3 * MINUTE_US
    assert clock.real(3 * MINUTE_US) == 15 * MINUTE_US
    assert clock.real(3 * MINUTE_US + 16 * US) == 15 * MINUTE_US + 16 * US
