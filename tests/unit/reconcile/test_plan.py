"""Which rows repair a difference, when that is safe, and that the sums become the ledger's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.core.timestamps import epoch_us
from spendstream.reconcile.compare import Range
from spendstream.reconcile.plan import (
    COSTS,
    SUMS,
    Row,
    Window,
    corrections,
    dimensions_in_use,
    is_window_final,
    version,
)
from spendstream.schemas.progress import Progress
from spendstream.schemas.rollup import DIMENSIONS, ON_TIME, OTHER

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
LATENESS_S = 600
USED = ("service",)


def row(service: str, calls: int = 1, *, first: int = 0, through: int = 9, **values: Any) -> dict[str, Any]:
    return {
        "source_log": "log",
        "source_partition": 0,
        "minute": NOON,
        "correction_block": ON_TIME,
        **dict.fromkeys(DIMENSIONS, ""),
        "service": service,
        **{name: Decimal(calls) if name in COSTS else calls for name in SUMS},
        "latency_ms_max": 5,
        "first_event_at": NOON,
        "last_event_at": NOON,
        "first_offset": first,
        "through_offset": through,
        **values,
    }


def fix(rollups: list[Row], ledger: list[Row], cap: int = 100) -> dict[str, int]:
    return {each["service"]: each["calls"] for each in corrections(rollups, ledger, USED, cap)}


def marker(watermark: datetime, through: int = 10_000, log: str = "log") -> Progress:
    return Progress(
        partition=0,
        source_log=log,
        first_offset=0,
        through_offset=through,
        watermark_us=epoch_us(watermark),
        log_clock_ms=0,
        rollups_from=0,
    )


def test_equal_rollups_are_left_alone() -> None:
    assert fix([row("a"), row("b", 2)], [row("a"), row("b", 2)]) == {}


def test_a_missing_total_is_written_and_a_wrong_one_replaced() -> None:
    assert fix([row("a", 2)], [row("a", 1), row("b", 3)]) == {"a": 1, "b": 3}


def test_a_difference_in_cost_alone_is_repaired() -> None:
    assert fix([row("a")], [row("a", cost_usd=Decimal("1.000000000001"))]) == {"a": 1}


def test_a_total_without_calls_becomes_zeros_of_its_own_types() -> None:
    (stone,) = corrections([row("a", 7)], [], USED, 100)
    assert stone["calls"] == 0
    assert stone["cost_usd"] == Decimal(0)
    assert isinstance(stone["cost_usd"], Decimal)
    assert stone["service"] == "a"
    assert list(corrections([stone], [], USED, 100)) == []


def test_beyond_the_cap_own_rows_stay_and_the_rest_is_shared() -> None:
    rollups = [row("a"), row(OTHER, 1)]
    assert fix(rollups, [row("a"), row("b", 2), row("c", 3)]) == {OTHER: 5}


def test_a_lost_window_is_restored_by_first_offsets_up_to_the_cap() -> None:
    ledger = [row("late", first=8), row("first", first=1), row("second", first=2), row("later", first=9)]
    assert fix([], ledger, cap=2) == {"first": 1, "second": 1, OTHER: 2}


def test_the_shared_row_has_other_in_every_dimension_in_use_and_in_no_other() -> None:
    (shared,) = corrections([], [row("a"), row("b")], ("service", "team"), 0)
    assert {name: shared[name] for name in ("service", "team", "customer")} == {
        "service": OTHER,
        "team": OTHER,
        "customer": "",
    }


@given(
    rollups=st.dictionaries(st.sampled_from([*"abcdef", OTHER]), st.integers(0, 5)),
    ledger=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5)),
    cap=st.integers(0, 7),
)
def test_whatever_the_rollups_were_they_end_with_the_ledgers_sum(
    rollups: dict[str, int], ledger: dict[str, int], cap: int
) -> None:
    before = [row(name, calls) for name, calls in rollups.items()]
    calls = [row(name, calls, first=at) for at, (name, calls) in enumerate(ledger.items())]
    after = {**rollups, **fix(before, calls, cap)}
    assert sum(after.values()) == sum(ledger.values())
    again = [row(name, count) for name, count in after.items()]
    assert fix(again, calls, cap) == {}


@pytest.mark.parametrize(("seconds", "final"), [(LATENESS_S + 59, False), (LATENESS_S + 60, True)])
def test_a_minute_is_final_once_the_watermark_has_passed_its_end_by_the_lateness(seconds: int, final: bool) -> None:
    window = Window("log", 0, NOON, ON_TIME)
    assert is_window_final(window, marker(NOON + timedelta(seconds=seconds)), LATENESS_S) is final


@pytest.mark.parametrize(("through", "final"), [(8190, False), (8191, True)])
def test_a_correction_is_final_once_its_block_of_offsets_is_metered(through: int, final: bool) -> None:
    window = Window("log", 0, NOON, 1)
    assert is_window_final(window, marker(NOON, through), LATENESS_S) is final


def test_an_earlier_life_of_the_topic_is_final() -> None:
    assert is_window_final(Window("former", 0, NOON, ON_TIME), marker(NOON), LATENESS_S)


def test_the_version_is_above_every_total_and_every_repair_before() -> None:
    assert version([row("a", through=9)], marker(NOON, 20)) == 21
    assert version([row("a", through=9, ver=30)], marker(NOON, 20)) == 31
    assert version([row("a", through=9)], None) == 10


def test_the_ledger_is_grouped_by_what_is_configured_and_what_the_rollups_show() -> None:
    assert dimensions_in_use(("team",), [row("a"), row(OTHER, customer=OTHER)]) == ("service", "team")


def test_a_range_is_widened_to_whole_hours() -> None:
    widened = Range.of(NOON + timedelta(minutes=10), NOON + timedelta(minutes=80))
    assert (widened.start, widened.end) == (NOON, NOON + timedelta(hours=2))
    assert Range.of(NOON, NOON + timedelta(hours=1)) == Range(NOON, NOON + timedelta(hours=1))
