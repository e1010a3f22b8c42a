"""A CSV as a series: what is read, what is reported, and that every row ends in a step."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from spendstream.backtest import BacktestError
from spendstream.backtest.series import ASSUMED_CALLS, Columns, CsvSeries, read_rows
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US, epoch_us, from_epoch_us
from spendstream.intake import RowError
from spendstream.schemas.measures import COLUMN, COST
from tests.unit.backtest import series

BEGAN_US = epoch_us(series.BEGAN)
HEADER = "at,feature,usd\n"


def csv_series(path: Path, **options: object) -> CsvSeries:
    return CsvSeries(series.read(path), ("feature",), **options)  # type: ignore[arg-type]


def calls_csv(path: Path, seconds: list[float]) -> Path:
    """One call of a dollar at each second after the beginning."""
    lines = [f"{1_772_409_600 + second},chat,1\n" for second in seconds]
    path.write_text("at,feature,usd\n" + "".join(lines))
    return path


@pytest.mark.parametrize("minutes", [1, 5, 60, 1440])
def test_the_step_of_regular_totals_is_detected(tmp_path: Path, minutes: int) -> None:
    csv = csv_series(series.write(tmp_path / "f", [1.0] * 20, step=minutes))
    assert csv.step_us == minutes * MINUTE_US
    assert [step.open_us for step in csv.steps()] == [BEGAN_US + at * csv.step_us for at in range(20)]


def test_totals_a_few_seconds_off_stay_in_steps_of_their_own(tmp_path: Path) -> None:
    late = [0, 301, 598, 902, 1199, 1500, 1803]
    (tmp_path / "f").write_text("at,feature,usd\n" + "".join(f"{1_772_409_600 + at},chat,1\n" for at in late))
    rows = read_rows(tmp_path / "f", Columns("at", "usd", {"feature": "feature"}, time_format="epoch-s"), print)
    opens = [step.open_us for step in CsvSeries(rows, ("feature",)).steps()]
    assert opens == [BEGAN_US + at * 5 * MINUTE_US for at in range(7)]


def test_irregular_rows_get_steps_of_a_minute(tmp_path: Path) -> None:
    path = calls_csv(tmp_path / "f", [0, 400, 900, 2000, 2300, 4000])
    rows = read_rows(path, Columns("at", "usd", {"feature": "feature"}, time_format="epoch-s"), print)
    assert CsvSeries(rows, ("feature",)).step_us == MINUTE_US


def test_rows_that_share_minutes_are_calls_known_within_the_minute(tmp_path: Path) -> None:
    path = calls_csv(tmp_path / "f", [0, 14, 15, 59, 61])
    rows = read_rows(path, Columns("at", "usd", {"feature": "feature"}, time_format="epoch-s"), print)
    csv = CsvSeries(rows, ("feature",))
    first = next(csv.steps())
    assert [(increment.known_s, int(increment.sums[0, COLUMN["calls"]])) for increment in first.increments] == [
        (15, 2),
        (30, 1),
        (60, 1),
    ]
    assert csv.measures == {"cost", "calls", "cost_per_call"}


def test_a_total_is_assumed_to_be_of_calls_in_proportion_and_has_no_measure_of_calls(tmp_path: Path) -> None:
    csv = csv_series(series.write(tmp_path / "f", [1.0, 2.0, 3.0, 0.0]))
    calls = [int(step.increments[0].sums[0, COLUMN["calls"]]) for step in csv.steps()]
    assert calls == [ASSUMED_CALLS // 2, ASSUMED_CALLS, ASSUMED_CALLS * 3 // 2, 0]
    assert csv.measures == {"cost"}


def test_steps_contain_every_row_to_the_pico_dollar(tmp_path: Path) -> None:
    path = series.write(tmp_path / "f", series.calm(50))
    series.write(path, series.calm(50, seed=2), feature="search", append=True)
    rows = series.read(path)
    found = sum(
        int(increment.sums[:, COLUMN[COST]].sum()) for step in csv_series(path).steps() for increment in step.increments
    )
    assert found == int(np.sum(rows.values))


@pytest.mark.parametrize("step_s", [30, 90])
def test_a_step_that_is_not_whole_minutes_is_refused(tmp_path: Path, step_s: int) -> None:
    with pytest.raises(BacktestError, match="whole minutes"):
        csv_series(series.write(tmp_path / "f", [1.0]), step_s=step_s)


def test_totals_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    path = series.write(tmp_path / "f", [8_000_000.0])
    series.write(path, [8_000_000.0], feature="search", append=True)
    with pytest.raises(BacktestError, match="million"):
        csv_series(path)


def rows_of(path: Path, text: str, columns: Columns | None = None) -> tuple[list[tuple[str, int]], list[RowError]]:
    path.write_text(text)
    errors: list[RowError] = []
    read = read_rows(path, columns or Columns("at", "usd", {}), errors.append)
    times = [from_epoch_us(at).isoformat() for at in read.times_us.tolist()]
    return list(zip(times, read.values.tolist(), strict=True)), errors


def test_amounts_are_read_to_the_pico_dollar(tmp_path: Path) -> None:
    found, _ = rows_of(tmp_path / "f", HEADER + "2026-03-02T00:00Z,a,0.000000000001\n2026-03-02T00:01Z,a,1e-3\n")
    assert [value for _, value in found] == [1, PUSD // 1000]


def test_rows_are_sorted_by_time(tmp_path: Path) -> None:
    found, errors = rows_of(tmp_path / "f", HEADER + "2026-03-02T00:01Z,a,2\n2026-03-02T00:00Z,a,1\n")
    assert [value // PUSD for _, value in found] == [1, 2]
    assert not errors


def test_each_bad_row_is_reported_with_its_line_and_the_others_are_read(tmp_path: Path) -> None:
    bad = "yesterday,a,1\n2026-03-02T00:00Z,a,lots\n2026-03-02T00:00Z,a,-1\n2026-03-02T00:00Z,a,\n2026-03-02T00:00Z\n"
    bad += "2026-03-02T00:00Z,a,nan\n2026-03-02T00:00Z,a,9000001\n"
    found, errors = rows_of(tmp_path / "f", HEADER + bad + "2026-03-02T00:00Z,a,7\n")
    assert [value for _, value in found] == [7 * PUSD]
    assert [(error.line, error.field) for error in errors] == [
        (2, "at"),
        (3, "usd"),
        (4, "usd"),
        (5, "usd"),
        (6, None),
        (7, "usd"),
        (8, "usd"),
    ]


def test_an_unknown_column_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(HEADER)
    with pytest.raises(BacktestError, match="no column 'price'; it has at, feature, usd"):
        read_rows(tmp_path / "f", Columns("at", "price", {}), lambda error: None)


@pytest.mark.parametrize("text", ["", HEADER, HEADER + "x,y,z\n"])
def test_a_csv_without_a_readable_row_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(BacktestError):
        read_rows(tmp_path / "f", Columns("at", "usd", {}), lambda error: None)


def test_a_time_without_a_zone_gets_the_given_zone_and_one_with_a_zone_keeps_it(tmp_path: Path) -> None:
    columns = Columns("at", "usd", {}, zone=ZoneInfo("Europe/Berlin"))
    found, _ = rows_of(tmp_path / "f", HEADER + "2026-07-01 12:00,a,1\n2026-07-01T12:00Z,a,1\n", columns)
    assert [at for at, _ in found] == ["2026-07-01T10:00:00+00:00", "2026-07-01T12:00:00+00:00"]


def test_epoch_times_are_read_if_their_unit_is_given_and_refused_if_not(tmp_path: Path) -> None:
    text = HEADER + "1772409600,a,1\n"
    found, _ = rows_of(tmp_path / "f", text, Columns("at", "usd", {}, time_format="epoch-s"))
    assert found[0][0] == "2026-03-02T00:00:00+00:00"
    with pytest.raises(BacktestError, match="no row"):
        rows_of(tmp_path / "f", text)


def test_groups_are_combinations_of_their_columns(tmp_path: Path) -> None:
    path = series.write(tmp_path / "f", [1.0, 1.0], feature="chat")
    series.write(path, [1.0], feature="search", append=True)
    read = series.read(path)
    assert sorted(read.combinations) == [("chat",), ("search",)]
    assert sorted(read.combinations[at] for at in read.members.tolist()) == [("chat",), ("chat",), ("search",)]
