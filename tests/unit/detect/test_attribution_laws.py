"""Whatever the calls were: the parts sum to the change, exactly, and nothing is made up."""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spendstream.core.detect.attribution import Cube, attribute
from spendstream.core.detect.attribution.cells import lay_out
from spendstream.core.detect.attribution.decompose import FACTORS, decompose, logarithmic_mean
from spendstream.schemas.buckets import tokens_field
from spendstream.schemas.measures import COLUMN, SUMS
from tests.unit.detect.cubes import DIMENSIONS, RATES, calls, member

COUNTS = st.sampled_from((0, 1, 2, 7, 100, 100_000))
MEMBERS = st.builds(
    member,
    feature=st.sampled_from(("chat", "agent")),
    customer=st.sampled_from(("a", "b", "")),
    model=st.sampled_from(("gpt-5", "haiku", "__other__")),
    service_tier=st.sampled_from(("", "batch")),
)


TIMES = st.sampled_from((0, 0.5, 1, 12.25))


@st.composite
def consistent_rows(draw: st.DrawFn, times: st.SearchStrategy[float] = TIMES) -> NDArray[np.int64]:
    """Sums of some calls as a meter makes them, at ``times`` the rates."""
    tokens = {bucket: draw(COUNTS) for bucket in RATES}
    fee = draw(st.sampled_from((0, 0.01)))
    return calls(draw(st.integers(1, 500)), tokens, times=draw(times), fee=fee)


@st.composite
def odd_rows(draw: st.DrawFn) -> NDArray[np.int64]:
    """Sums that fit nothing: costs without tokens, tokens without calls, corrections below zero."""
    sums = np.zeros(len(SUMS), dtype=np.int64)
    for name in draw(st.lists(st.sampled_from(SUMS), max_size=8)):
        sums[COLUMN[name]] = draw(st.sampled_from((-5, 1, 10**6, 10**13, 2**60)))
    return sums


def cubes(rows: st.SearchStrategy[NDArray[np.int64]]) -> st.SearchStrategy[Cube]:
    listed = st.lists(st.tuples(MEMBERS, rows), max_size=4)
    minutes = st.sampled_from((0.05, 1 / 3, 1.0, 90.0))
    return st.builds(
        lambda found, length: Cube(
            [values for values, _ in found],
            np.array([sums for _, sums in found], dtype=np.int64).reshape(len(found), len(SUMS)),
            length,
        ),
        listed,
        minutes,
    )


AT_ONE_PRICE = TIMES.flatmap(lambda times: cubes(consistent_rows(st.just(times))))
ANY = cubes(consistent_rows() | odd_rows())
GROUPS = st.sampled_from(((), ("feature",)))
EXPECTED_USD = st.none() | st.floats(0, 1e6) | st.decimals(0, 10**6, places=6)


@settings(max_examples=100, deadline=None)
@given(ANY, ANY, EXPECTED_USD, GROUPS)
def test_the_parts_sum_to_the_change_whatever_the_sums(
    before: Cube, now: Cube, expected_usd: float | Decimal | None, group_by: tuple[str, ...]
) -> None:
    found = attribute(now, before, DIMENSIONS, group_by, expected_usd)
    change = found.observed_usd_per_minute - found.expected_usd_per_minute
    assert sum((part.change_usd_per_minute for part in found.parts), Decimal(0)) == change
    assert found.observed_usd_per_minute == now.usd_per_minute()
    assert all(part.words and part.change_usd_per_minute for part in found.parts)
    assert len({part.factor for part in found.parts}) == len(found.parts)


RISING = ("more", "longer")
FALLING = ("fewer", "shorter", "less")
NUMBERS = re.compile(r": ([\d,.]+|almost 0)%?(?: .*)? instead of ([\d,.]+|almost 0)%?$")


def number(text: str) -> float:
    return 0.01 if text == "almost 0" else float(text.replace(",", ""))


@settings(max_examples=200, deadline=None)
@given(cubes(consistent_rows()), cubes(consistent_rows()), GROUPS)
def test_the_numbers_of_each_part_move_the_way_its_words_say(
    before: Cube, now: Cube, group_by: tuple[str, ...]
) -> None:
    for part in attribute(now, before, DIMENSIONS, group_by).parts:
        numbers = NUMBERS.search(part.words)
        first = part.words.split()[0]
        if numbers and first in (*RISING, *FALLING):
            is_, was = map(number, numbers.groups())
            assert (is_ > was) == (first in RISING), part.words
            assert is_ != was, part.words


@settings(max_examples=100, deadline=None)
@given(cubes(consistent_rows()), cubes(consistent_rows()))
def test_nothing_but_rounding_is_left_over(before: Cube, now: Cube) -> None:
    cells = lay_out(before, now, DIMENSIONS)
    spend = [float(side[:, COLUMN["cost_pusd"]].sum()) for side in (cells.before, cells.now)]
    parts = decompose(cells).parts
    assert np.isfinite(parts).all()
    # a cell's costs may be rounded to a pico-dollar, and what a call pays beside its tokens is cut at a millionth
    assert abs(parts.sum() - (spend[1] - spend[0])) <= 1e-5 * max(spend) + 1


@settings(max_examples=60, deadline=None)
@given(cubes(consistent_rows()), cubes(consistent_rows()))
def test_looking_back_turns_every_part_around(before: Cube, now: Cube) -> None:
    there = decompose(lay_out(before, now, DIMENSIONS)).parts
    back = decompose(lay_out(now, before, DIMENSIONS)).parts
    scale = np.abs(there).max(initial=0) + 1
    # the cache's share of a change of length is judged from where one stands; all else is symmetric
    swapped = [FACTORS.index("cache"), FACTORS.index("tokens_per_call")]
    others = [at for at in range(len(FACTORS)) if at not in swapped]
    assert np.allclose(there[others], -back[others], atol=1e-7 * scale)
    assert np.isclose(there[swapped].sum(), -back[swapped].sum(), atol=1e-7 * scale)


@settings(max_examples=60, deadline=None)
@given(cubes(consistent_rows()), st.floats(0.01, 100))
def test_the_same_calls_at_another_pace_are_volume_alone(before: Cube, pace: float) -> None:
    now = Cube(before.members, before.sums, before.minutes / pace)
    assume(before.usd_per_minute() > 0)
    assume(abs(pace - 1) > 0.01)
    assert {part.factor for part in attribute(now, before, DIMENSIONS, ()).parts} == {"volume"}


def assert_a_trace_moves_little(before: Cube, trace: NDArray[np.float64], now: Cube) -> None:
    """Add a trace of ``now`` to ``before``: no part moves by more than a fifth of all that the parts move.

    Logarithms approach their limit slowly: of counts that differ a million times, ln(1e6) / ln(1e100) or 6% is left.
    """
    exact = decompose(lay_out(before, now, DIMENSIONS))
    nearly = decompose(
        lay_out(
            Cube([*before.members, *now.members], np.concatenate((before.sums / before.minutes, trace * 1e-100))),
            now,
            DIMENSIONS,
        )
    )
    moved = sum(float(np.abs(each).sum()) for each in (exact.volume, exact.model_mix, exact.tier, exact.rates))
    assert np.isfinite(nearly.parts).all()
    assert np.abs(nearly.parts - exact.parts).max(initial=0) <= 0.2 * moved + 1


@settings(max_examples=60, deadline=None)
@given(cubes(consistent_rows(st.just(1))), cubes(consistent_rows(st.just(1))))
def test_at_equal_prices_nothing_and_a_trace_of_something_have_much_the_same_parts(before: Cube, now: Cube) -> None:
    assert_a_trace_moves_little(before, now.sums.astype(np.float64), now)


@settings(max_examples=60, deadline=None)
@given(AT_ONE_PRICE, AT_ONE_PRICE)
@example(
    before=Cube([member()], np.stack([calls(1, {"cache_read": 1}, times=0)])),
    now=Cube([member()], np.stack([calls(1, {"cache_read": 1, "cache_write_5m": 1}, times=0.5)])),
).via("a bucket that was free costs something: the bucket that is new to the cell was free too")
@example(
    before=Cube(
        [member(feature="agent"), member(feature="agent", model="haiku")],
        np.stack([calls(1, {}, fee=0.01), calls(1, {"reasoning": 1}, times=0)]),
        0.05,
    ),
    now=Cube(
        [member(feature="chat"), member(feature="agent", model="haiku")],
        np.stack([calls(1, {}), calls(1, {"reasoning": 100_000}, times=0.5)]),
        1 / 3,
    ),
).via("what was free costs something, with far fewer calls: the parts exceed the spend, and so does what a trace moves")
def test_a_trace_that_tells_no_new_price_moves_little(before: Cube, now: Cube) -> None:
    """One token of a bucket tells what the bucket costs, and that is news: cells that have calls get no new bucket."""
    trace = now.sums.astype(np.float64)
    for row, values in enumerate(now.members):
        own = before.sums[[cell_of(each) == cell_of(values) for each in before.members]]
        for bucket in RATES if len(own) else ():
            if not own[:, COLUMN[tokens_field(bucket)]].any():
                cost = COLUMN[f"cost_{bucket}_pusd"]
                trace[row, COLUMN["cost_pusd"]] -= trace[row, cost]
                trace[row, [cost, COLUMN[tokens_field(bucket)]]] = 0
    assert_a_trace_moves_little(before, trace, now)


def cell_of(values: tuple[str, ...]) -> list[str]:
    return [value for name, value in zip(DIMENSIONS, values, strict=True) if name != "customer"]


@given(st.floats(1e-30, 1e30), st.floats(1e-12, 1e12))
def test_a_logarithmic_mean_lies_between(value: float, times: float) -> None:
    low, high = sorted((value, value * times))
    mean = float(logarithmic_mean(np.array([value]), np.array([value * times]))[0])
    assert low * (1 - 1e-9) <= mean <= high * (1 + 1e-9)
    assert logarithmic_mean(np.array([0.0]), np.array([value]))[0] == 0
