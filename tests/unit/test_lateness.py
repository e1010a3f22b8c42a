"""Windows, watermark and lateness, to the microsecond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.core.lateness import NO_WATERMARK, advance, classify_lateness, is_final, window_of
from spendstream.core.timestamps import MINUTE_US
from tests.unit.log import NOON_MS

NOON_US = NOON_MS * 1000
TIMES = st.lists(st.integers(-(10**15), 4 * 10**15), min_size=1, max_size=30)


def us(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("after_noon_us", "opened_us"),
    [(0, 0), (1, 0), (MINUTE_US - 1, 0), (MINUTE_US, MINUTE_US), (-1, -MINUTE_US), (-MINUTE_US, -MINUTE_US)],
)
def test_a_minute_holds_its_open_and_not_its_close(after_noon_us: int, opened_us: int) -> None:
    assert window_of(us(NOON_US + after_noon_us)).tolist() == [NOON_US + opened_us]


def test_minutes_before_1970_open_before_their_events() -> None:
    assert window_of(us(-1)).tolist() == [-MINUTE_US]


@pytest.mark.parametrize(
    ("watermark_us", "lateness"),
    [
        (MINUTE_US - 1, 0),
        (MINUTE_US, 1),
        (MINUTE_US + 600_000_000 - 1, 1),
        (MINUTE_US + 600_000_000, 2),
        (MINUTE_US + 600_000_001, 2),
        (NO_WATERMARK, 0),
    ],
)
def test_an_event_is_late_from_its_minutes_close_and_a_correction_from_the_allowance_on(
    watermark_us: int, lateness: int
) -> None:
    assert classify_lateness(us(0), us(watermark_us), 600).tolist() == [lateness]
    assert is_final(0, watermark_us, 600) == (lateness == 2)


def test_without_an_allowance_a_late_event_is_a_correction() -> None:
    assert classify_lateness(us(0, 0), us(MINUTE_US - 1, MINUTE_US), 0).tolist() == [0, 2]


@given(st.integers(NOON_US, NOON_US * 2), TIMES)
def test_the_watermark_never_goes_back(start_us: int, occurred: list[int]) -> None:
    watermarks = [start_us, *advance(start_us, us(*occurred)).tolist()]
    assert watermarks == sorted(watermarks)
    assert watermarks[-1] == max(start_us, *occurred)


@given(TIMES, st.integers(0, 30))
def test_the_watermark_is_the_same_whatever_the_batches(occurred: list[int], cut: int) -> None:
    whole = advance(NO_WATERMARK, us(*occurred)).tolist()
    first = advance(NO_WATERMARK, us(*occurred[:cut])).tolist()
    second = advance(first[-1] if first else NO_WATERMARK, us(*occurred[cut:])).tolist()
    assert first + second == whole
