"""The picture: which groups, which spans, which labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spendstream.backtest import Backtest, BacktestError
from spendstream.backtest.picture import (
    LABEL_ROWS,
    Chart,
    ChartRecorder,
    GroupTotals,
    Span,
    draw,
    merge_spans,
    place_labels,
    spans,
)
from spendstream.backtest.series import CsvSeries
from spendstream.core.timestamps import MINUTE_US, epoch_us
from spendstream.schemas.watch import Watches
from tests.unit.backtest import series

BEGAN_US = epoch_us(series.BEGAN)
WATCHES = Watches.model_validate(
    {
        "watches": [
            {"name": "spend", "group_by": ["feature"], "rule": {"kind": "anomaly"}},
            {"name": "high", "rule": {"kind": "threshold", "measure": "cost", "above": 7, "window": 180}},
            {"name": "day", "group_by": ["feature"], "rule": {"kind": "budget", "amount_usd": 300, "period": "day"}},
        ]
    }
)


@pytest.fixture
def run(tmp_path: Path) -> Backtest:
    path = series.write(tmp_path / "f.csv", series.with_incident(series.calm(120), 80, 90))
    series.write(path, series.calm(120, seed=2, usd=3.0), feature="search", append=True)
    return Backtest(CsvSeries(series.read(path), ("feature",)), WATCHES)


def test_the_groups_that_alerted_are_drawn_with_their_series_and_band(run: Backtest, tmp_path: Path) -> None:
    totals = GroupTotals(run.watches, ("feature",))
    alerts = list(run.run([totals]))
    wanted = totals.largest(alerts, 6)
    assert ("spend", ("chat",)) in wanted
    assert ("spend", ("search",)) not in wanted
    recorder = ChartRecorder(wanted, run.watches, ("feature",))
    list(run.run([recorder]))
    chart = recorder.charts["spend", ("chat",)]
    assert chart.observed().tolist() == pytest.approx(series.with_incident(series.calm(120), 80, 90), abs=1e-6)
    assert chart.lower[79] < chart.expected[79] < chart.upper[79]
    assert not chart.lower[80] <= chart.observed()[80] <= chart.upper[80]
    draw(tmp_path / "out.png", list(recorder.charts.values()), alerts, "A test")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_without_alerts_the_largest_groups_are_drawn(tmp_path: Path) -> None:
    totals = GroupTotals(WATCHES, ("feature",))
    totals.totals |= {("spend", ("a",)): 1.0, ("spend", ("b",)): 3.0, ("spend", ("c",)): 2.0}
    assert totals.largest([], 2) == [("spend", ("b",)), ("spend", ("c",))]


def test_a_span_is_from_the_first_evidence_to_the_end(run: Backtest) -> None:
    alerts = [alert for alert in run.run() if alert.watch == "spend"]
    (span,) = spans(alerts, BEGAN_US + 120 * MINUTE_US)
    assert span.start_us == BEGAN_US + 80 * MINUTE_US
    assert span.end_us == epoch_us(alerts[-1].at)
    assert span.text.startswith("up 4")


def test_an_alert_without_an_end_lasts_to_the_end_of_the_picture(run: Backtest) -> None:
    fired = [alert for alert in run.run() if alert.watch == "spend" and alert.transition == "firing"]
    assert [span.end_us for span in spans(fired, BEGAN_US)] == [BEGAN_US]


def test_labels_in_a_row_do_not_overlap_and_those_without_room_are_counted() -> None:
    found = [Span(at, at + 1, "up 3.2x") for at in (0, 1, 2, 3, 500, 999)]
    placed, rows, unnamed = place_labels(found, 0, 1000)
    assert (rows, unnamed) == (LABEL_ROWS, 1)
    assert [label.row for label in placed] == [0, 1, 2, 0, 0]
    assert all(label.at <= 1 - 0.0062 * len(label.text) for label in placed)


def test_spans_at_the_same_time_are_shaded_once() -> None:
    found = [Span(0, 10, "a"), Span(5, 7, "b"), Span(20, 21, "c")]
    assert merge_spans(found, 1) == [(0, 10), (20, 21)]
    assert merge_spans(found, 15) == [(0, 35)]


def test_a_ratio_with_a_denominator_of_0_is_not_drawn() -> None:
    rule = {"kind": "threshold", "measure": "failure_share", "above": 0.3}
    (watch,) = Watches.model_validate({"watches": [{"name": "w", "rule": rule}]}).watches
    chart = Chart(watch, {}, MINUTE_US, [0, 1, 2], numerators=[1, 0, 3], denominators=[2, 0, 4])
    assert np.array_equal(chart.observed(), [0.5, np.nan, 0.75], equal_nan=True)
    assert chart.windowed(3)[2] == pytest.approx(4 / 6)


def test_an_unknown_image_format_is_an_error(run: Backtest, tmp_path: Path) -> None:
    recorder = ChartRecorder([("high", ())], run.watches, ("feature",))
    list(run.run([recorder]))
    with pytest.raises(BacktestError, match="nosuch"):
        draw(tmp_path / "out.nosuch", list(recorder.charts.values()), [], "A test")
