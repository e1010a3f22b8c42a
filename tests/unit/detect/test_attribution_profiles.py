"""What is usual for each combination of dimensions: decaying means, lazily, within bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spendstream.core.detect.attribution import Profiles
from spendstream.core.detect.attribution.profiles import HALF_LIFE_MINUTES
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import COLUMN, SUMS

CALLS = COLUMN["calls"]
START = 29_000_000
"""Minutes since 1970."""

NONE = np.zeros(0, dtype=np.int64)


def a(*rows: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


def sums(*calls: int) -> NDArray[np.int64]:
    found = np.zeros((len(calls), len(SUMS)), dtype=np.int64)
    found[:, CALLS] = calls
    found[:, COLUMN["cost_pusd"]] = np.array(calls) * 10**9
    return found


def usual(profiles: Profiles, row: int) -> float:
    return float(profiles.expected(a(row)).sums[0, CALLS])


def learn(profiles: Profiles, minute: int, calls: dict[int, int], frozen: NDArray[np.int64] = NONE) -> None:
    profiles.learn(minute * MINUTE_US, a(*calls), sums(*calls.values()), frozen)


def test_a_steady_rate_is_what_is_usual_from_the_first_minute_on() -> None:
    profiles = Profiles(("service",))
    row = profiles.combination(("api",))
    for minute in range(START, START + 200):
        learn(profiles, minute, {row: 40})
        assert usual(profiles, row) == pytest.approx(40, rel=1e-4)


def test_a_minute_without_calls_counts_as_zero() -> None:
    profiles = Profiles(("service",))
    rows = [profiles.combination((name,)) for name in ("api", "web")]
    for minute in range(START, START + 10):
        learn(profiles, minute, {rows[1]: 1} if minute % 2 else {rows[0]: 40, rows[1]: 1})
    assert usual(profiles, rows[0]) == pytest.approx(20, rel=0.02)
    assert usual(profiles, rows[1]) == pytest.approx(1)


def test_what_was_counts_half_after_the_half_life() -> None:
    profiles = Profiles(("service",))
    rows = [profiles.combination((name,)) for name in ("api", "web")]
    for minute in range(START, START + 3_000):
        learn(profiles, minute, {rows[0]: 40, rows[1]: 1})
    for minute in range(START + 3_000, START + 3_000 + int(HALF_LIFE_MINUTES)):
        learn(profiles, minute, {rows[1]: 1})
    assert usual(profiles, rows[0]) == pytest.approx(20, rel=1e-3)


def test_a_combination_seen_late_was_zero_before() -> None:
    profiles = Profiles(("service",))
    old = profiles.combination(("old",))
    for minute in range(START, START + 30):
        learn(profiles, minute, {old: 5})
    new = profiles.combination(("new",))
    assert usual(profiles, new) == 0
    learn(profiles, START + 30, {old: 5, new: 31})
    assert 0 < usual(profiles, new) < 2


def test_a_frozen_combination_learns_nothing_and_does_not_fade() -> None:
    profiles = Profiles(("service",))
    rows = [profiles.combination((name,)) for name in ("busy", "quiet", "other")]
    for minute in range(START, START + 30):
        learn(profiles, minute, dict.fromkeys(rows, 10))
    for minute in range(START + 30, START + 90):
        learn(profiles, minute, {rows[0]: 900, rows[2]: 10}, frozen=a(rows[0], rows[1]))
    for row in rows:
        assert usual(profiles, row) == pytest.approx(10, rel=1e-4)
    learn(profiles, START + 90, {rows[2]: 10})
    assert usual(profiles, rows[1]) < 10


def test_a_minute_corrected_later_counts_as_if_it_had_come_in_time() -> None:
    late, on_time = Profiles(("service",)), Profiles(("service",))
    row = late.combination(("api",))
    assert on_time.combination(("api",)) == row
    for minute in range(START, START + 20):
        learn(on_time, minute, {row: 30 if minute == START + 5 else 10})
        learn(late, minute, {row: 10})
    learn(late, START + 5, {row: 20})
    assert usual(late, row) == pytest.approx(usual(on_time, row), rel=1e-4)


def test_a_row_may_stand_twice_in_a_minute() -> None:
    profiles = Profiles(("service",))
    row = profiles.combination(("api",))
    profiles.learn(START * MINUTE_US, a(row, row), sums(3, 4), NONE)
    assert usual(profiles, row) == pytest.approx(7)


def test_what_faded_is_forgotten_and_its_number_is_reused() -> None:
    profiles = Profiles(("service",))
    rows = [profiles.combination((name,)) for name in ("gone", "there", "open")]
    learn(profiles, START, {rows[0]: 1, rows[1]: 1})
    assert profiles.forget(keep=a(rows[2])).tolist() == []
    for minute in range(START + 1, START + 900):
        learn(profiles, minute, {rows[1]: 1})
    assert profiles.forget(keep=a(rows[2])).tolist() == [rows[0]]
    assert len(profiles) == 2
    with pytest.raises(KeyError):
        profiles.values(rows[0])
    assert profiles.combination(("new",)) == rows[0]
    assert usual(profiles, rows[0]) == 0
    assert profiles.combination(("there",)) == rows[1]


def test_beyond_the_maximum_the_least_spending_go_first() -> None:
    profiles = Profiles(("service",), max_combinations=2)
    rows = [profiles.combination((name,)) for name in ("middle", "small", "large")]
    learn(profiles, START, {rows[0]: 20, rows[1]: 10, rows[2]: 30})
    assert profiles.forget(keep=NONE).tolist() == [rows[1]]


def test_a_restored_snapshot_continues_as_if_nothing_had_happened() -> None:
    profiles = Profiles(("service", "team"))
    names = [("api", ""), ("", "été"), ("a\x1fb", "c"), ("x", "y")]
    rows = [profiles.combination(name) for name in names]
    learn(profiles, START, {row: row + 5 for row in rows[:3]})
    learn(profiles, START + 700, {rows[1]: 8})
    learn(profiles, START + 900, {rows[1]: 8})
    assert rows[0] in profiles.forget(keep=NONE).tolist()
    arrays = profiles.snapshot()
    assert all(array.dtype != object for array in arrays.values())
    restored = Profiles(("service", "team"))
    restored.restore({name: array.copy() for name, array in arrays.items()})
    for each in (profiles, restored):
        assert each.combination(names[1]) == rows[1]
        learn(each, START + 901, {rows[1]: 50, each.combination(("fresh", "")): 3})
    assert len(restored) == len(profiles)
    np.testing.assert_array_equal(restored.snapshot()["sums"], profiles.snapshot()["sums"])
    np.testing.assert_array_equal(restored.snapshot()["through"], profiles.snapshot()["through"])


def test_an_empty_snapshot_is_restored() -> None:
    profiles = Profiles(("service",))
    profiles.restore(Profiles(("service",)).snapshot())
    assert len(profiles) == 0
    assert profiles.combination(("api",)) == 0


def test_a_snapshot_of_other_dimensions_is_ignored() -> None:
    profiles = Profiles(("service",))
    learn(profiles, START, {profiles.combination(("api",)): 3})
    other = Profiles(("team",))
    other.restore(profiles.snapshot())
    assert len(other) == 0


def test_many_combinations_keep_their_numbers_as_the_bank_grows() -> None:
    profiles = Profiles(("service",))
    rows = [profiles.combination((f"s{n}",)) for n in range(3_000)]
    assert rows == list(range(3_000))
    profiles.learn(START * MINUTE_US, np.array(rows), sums(*range(1, 3_001)), NONE)
    found = profiles.expected(np.array(rows))
    assert found.members[2_999] == ("s2999",)
    np.testing.assert_allclose(found.sums[:, CALLS], np.arange(1, 3_001), rtol=1e-4)


MINUTES = st.lists(
    st.tuples(st.integers(0, 3), st.dictionaries(st.integers(0, 3), st.integers(1, 50)), st.sets(st.integers(0, 3))),
    min_size=1,
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(MINUTES)
def test_the_means_are_those_of_a_plain_sum_over_all_minutes(
    minutes: list[tuple[int, dict[int, int], set[int]]],
) -> None:
    profiles = Profiles(("service",))
    for row in range(4):
        profiles.combination((f"s{row}",))
    seen: dict[int, list[int]] = {row: [] for row in range(4)}
    minute = START - 1
    for skipped, calls, frozen in minutes:
        gap = skipped if minute >= START else 0
        minute += gap + 1
        learn(profiles, minute, calls, a(*frozen))
        for row in range(4):
            seen[row] += [0] * gap
            if row not in frozen:
                seen[row].append(calls.get(row, 0))
    for row, history in seen.items():
        weights = 0.5 ** (np.arange(len(history))[::-1] / HALF_LIFE_MINUTES)
        mean = float((weights * history).sum() / weights.sum()) if history else 0.0
        assert usual(profiles, row) == pytest.approx(mean, rel=1e-4, abs=1e-4)
