"""What is read in arrears is judged minute by minute, as it would have been in its time."""

from __future__ import annotations

from spendstream.agents.detect import SLICE_US, slices
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.timestamps import US
from tests.unit.detect.rollup_log import BEGAN_US


def record(at_s: float, partition: int = 0) -> RollupRecord:
    return RollupRecord(partition, (BEGAN_US + round(at_s * US)) // 1000, b"k", b"{}")


def test_what_comes_in_its_time_is_one_slice() -> None:
    records = [record(0.2), record(0.1, 1)]
    ((some, until),) = slices(records, BEGAN_US, BEGAN_US + US)
    assert (sorted(some), until) == (sorted(records), BEGAN_US + US)


def test_arrears_are_cut_into_minutes_in_the_order_of_time() -> None:
    records = [record(at, partition) for partition in (0, 1) for at in (10, 70, 130, 185)]
    cut = list(slices(records, BEGAN_US, BEGAN_US + 190 * US))
    assert [len(some) for some, _ in cut] == [2, 2, 2, 2]
    assert [until for _, until in cut] == [BEGAN_US + n * SLICE_US for n in (1, 2, 3)] + [BEGAN_US + 190 * US]


def test_what_lies_ahead_of_the_clock_is_in_the_last_slice() -> None:
    cut = list(slices([record(10), record(500)], BEGAN_US, BEGAN_US + 90 * US))
    assert [len(some) for some, _ in cut] == [1, 1]


def test_minutes_without_a_record_are_judged_as_well() -> None:
    cut = list(slices([], BEGAN_US, BEGAN_US + 300 * US))
    assert [until - BEGAN_US for _, until in cut] == [n * SLICE_US for n in range(1, 6)]


def test_a_clock_that_never_ran_begins_at_the_first_record() -> None:
    cut = list(slices([record(0), record(61)], 0, BEGAN_US + 90 * US))
    assert [len(some) for some, _ in cut] == [1, 1]
