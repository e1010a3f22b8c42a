"""Rows to steps: nothing is lost, and a row stands for what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spendstream.backtest import BacktestError
from spendstream.backtest.series import USUAL_CALLS, SeriesFeed
from spendstream.core.timestamps import MINUTE_US, epoch_us
from spendstream.schemas.measures import COLUMN, COST
from tests.unit.backtest import series

BEGAN_US = epoch_us(series.BEGAN)


def feed_of(path: Path, **options: object) -> SeriesFeed:
    return SeriesFeed(series.read(path), ("feature",), **options)  # type: ignore[arg-type]


def calls_csv(path: Path, seconds: list[float]) -> Path:
    """One call of a dollar at each second after the beginning."""
    lines = [f"{1_772_409_600 + second},chat,1\n" for second in seconds]
    path.write_text("at,feature,usd\n" + "".join(lines))
    return path


@pytest.mark.parametrize("minutes", [1, 5, 60, 1440])
def test_the_step_of_regular_totals_is_found_out(tmp_path: Path, minutes: int) -> None:
    feed = feed_of(series.write(tmp_path / "f", [1.0] * 20, step=minutes))
    assert feed.step_us == minutes * MINUTE_US
    assert [step.open_us for step in feed.steps()] == [BEGAN_US + at * feed.step_us for at in range(20)]


def test_totals_a_few_seconds_off_stay_in_steps_of_their_own(tmp_path: Path) -> None:
    late = [0, 301, 598, 902, 1199, 1500, 1803]
    (tmp_path / "f").write_text("at,feature,usd\n" + "".join(f"{1_772_409_600 + at},chat,1\n" for at in late))
    rows = series.read_rows(
        tmp_path / "f", series.Columns("at", "usd", {"feature": "feature"}, time_format="epoch-s"), print
    )
    opens = [step.open_us for step in SeriesFeed(rows, ("feature",)).steps()]
    assert opens == [BEGAN_US + at * 5 * MINUTE_US for at in range(7)]


def test_irregular_rows_have_steps_of_a_minute(tmp_path: Path) -> None:
    path = calls_csv(tmp_path / "f", [0, 400, 900, 2000, 2300, 4000])
    rows = series.read_rows(path, series.Columns("at", "usd", {"feature": "feature"}, time_format="epoch-s"), print)
    assert SeriesFeed(rows, ("feature",)).step_us == MINUTE_US


def test_rows_that_share_minutes_are_calls_known_within_the_minute(tmp_path: Path) -> None:
    path = calls_csv(tmp_path / "f", [0, 14, 15, 59, 61])
    rows = series.read_rows(path, series.Columns("at", "usd", {"feature": "feature"}, time_format="epoch-s"), print)
    feed = SeriesFeed(rows, ("feature",))
    first = next(feed.steps())
    assert [(part.known_s, int(part.sums[0, COLUMN["calls"]])) for part in first.parts] == [(15, 2), (30, 1), (60, 1)]
    assert feed.measures == {"cost", "calls", "cost_per_call"}


def test_a_total_is_of_calls_in_proportion_and_its_measures_say_nothing_of_calls(tmp_path: Path) -> None:
    feed = feed_of(series.write(tmp_path / "f", [1.0, 2.0, 3.0, 0.0]))
    calls = [int(step.parts[0].sums[0, COLUMN["calls"]]) for step in feed.steps()]
    assert calls == [USUAL_CALLS // 2, USUAL_CALLS, USUAL_CALLS * 3 // 2, 0]
    assert feed.measures == {"cost"}


def test_steps_hold_every_row_to_the_pico_dollar(tmp_path: Path) -> None:
    path = series.write(tmp_path / "f", series.calm(50))
    series.write(path, series.calm(50, seed=2), feature="search", append=True)
    rows = series.read(path)
    found = sum(int(part.sums[:, COLUMN[COST]].sum()) for step in feed_of(path).steps() for part in step.parts)
    assert found == int(np.sum(rows.values))


@pytest.mark.parametrize("step_s", [30, 90])
def test_a_step_that_is_no_whole_minutes_is_refused(tmp_path: Path, step_s: int) -> None:
    with pytest.raises(BacktestError, match="whole minutes"):
        feed_of(series.write(tmp_path / "f", [1.0]), step_s=step_s)


def test_totals_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    path = series.write(tmp_path / "f", [8_000_000.0])
    series.write(path, [8_000_000.0], feature="search", append=True)
    with pytest.raises(BacktestError, match="million"):
        feed_of(path)
