"""Rows of a CSV: what is read, and what is told of what can't be."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from spendstream.backtest import BacktestError
from spendstream.backtest.rows import Columns, read_rows
from spendstream.core.money import PUSD
from spendstream.core.timestamps import from_epoch_us
from spendstream.intake import RowError
from tests.unit.backtest import series

HEADER = "at,feature,usd\n"


def rows_of(path: Path, text: str, columns: Columns | None = None) -> tuple[list[tuple[str, int]], list[RowError]]:
    path.write_text(text)
    errors: list[RowError] = []
    read = read_rows(path, columns or Columns("at", "usd", {}), errors.append)
    times = [from_epoch_us(at).isoformat() for at in read.times_us.tolist()]
    return list(zip(times, read.values.tolist(), strict=True)), errors


def test_amounts_are_read_to_the_pico_dollar(tmp_path: Path) -> None:
    found, _ = rows_of(tmp_path / "f", HEADER + "2026-03-02T00:00Z,a,0.000000000001\n2026-03-02T00:01Z,a,1e-3\n")
    assert [value for _, value in found] == [1, PUSD // 1000]


def test_rows_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    found, errors = rows_of(tmp_path / "f", HEADER + "2026-03-02T00:01Z,a,2\n2026-03-02T00:00Z,a,1\n")
    assert [value // PUSD for _, value in found] == [1, 2]
    assert not errors


def test_each_bad_row_is_told_by_its_line_and_the_others_are_read(tmp_path: Path) -> None:
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
def test_a_table_without_a_row_that_can_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(BacktestError):
        read_rows(tmp_path / "f", Columns("at", "usd", {}), lambda error: None)


def test_a_time_without_a_zone_is_of_the_zone_given_and_one_with_a_zone_keeps_it(tmp_path: Path) -> None:
    columns = Columns("at", "usd", {}, zone=ZoneInfo("Europe/Berlin"))
    found, _ = rows_of(tmp_path / "f", HEADER + "2026-07-01 12:00,a,1\n2026-07-01T12:00Z,a,1\n", columns)
    assert [at for at, _ in found] == ["2026-07-01T10:00:00+00:00", "2026-07-01T12:00:00+00:00"]


def test_epoch_times_are_read_where_their_unit_is_stated_and_refused_where_not(tmp_path: Path) -> None:
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
