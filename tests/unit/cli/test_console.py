"""JSON for scripts loses neither digit nor zone; tables show values literally."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
import typer
from rich.console import Console

from spendstream.cli.console import table, to_json, utc_time

ID = uuid.UUID("019a0000-0000-7000-a000-000000000001")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("57.868362000000"), "57.868362000000"),
        (Decimal("0E-12"), "0.000000000000"),
        (Decimal("1E+3"), "1000"),
        (datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006+00:00"),  # noqa: DTZ001 as ClickHouse answers
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T03:00:00+02:00"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (ID, str(ID)),
        (None, None),
        (True, True),
        (2**64 - 1, 2**64 - 1),
        (b"\xffa", "\\xffa"),
        ((1, Decimal("2.5")), [1, "2.5"]),
        ({"k": ID}, {"k": str(ID)}),
    ],
)
def test_a_value_becomes_the_json_that_scripts_rely_on(value: Any, expected: Any) -> None:
    shown = to_json(value)
    assert shown == expected
    assert json.loads(json.dumps(shown)) == expected


def render(*rows: tuple[Any, ...]) -> str:
    written = StringIO()
    Console(file=written, width=80).print(table(["name", "value"], rows))
    return written.getvalue()


def test_markup_in_a_value_is_shown_literally() -> None:
    assert "[red]x[/red]" in render(("[red]x[/red]", 1))


def test_null_is_a_dash_and_an_empty_result_keeps_its_columns() -> None:
    assert "–" in render(("a", None))
    assert "value" in render()


@pytest.mark.parametrize("text", ["2026-03-01T10:00", "2026-03-01T10:00Z", "2026-03-01T12:00+02:00"])
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    assert utc_time(text) == datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_an_invalid_time_is_refused_with_an_example() -> None:
    with pytest.raises(typer.BadParameter, match=r"expected e\.g\. 2026-01-31"):
        utc_time("tomorrow")
