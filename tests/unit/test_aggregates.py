"""Laws of the open aggregates: totals don't depend on batches, replays or where a restart fell."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.aggregates import CORRECTION_BLOCK_OFFSETS, Aggregates
from spendstream.core.rollup_record import AggregateKey, read_rollup, rollup_record, totals_of
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import BUCKET_COSTS, COLUMN, COST, COUNTERFACTUALS, EXACT, MEASURES, SUMS, TOKENS
from spendstream.schemas.rollup import ON_TIME, OTHER

TEAM = ("team",)
Totals = dict[AggregateKey, list[int]]


def call(offset: int, team: str = "a", minute: int = 0, block: int = ON_TIME, **columns: Any) -> dict[str, Any]:
    """A priced call of $0.000000000005, at a minute."""
    return {
        "minute_us": minute * MINUTE_US,
        "block": block,
        "team": team,
        "offset": offset,
        "occurred_at_us": minute * MINUTE_US + offset % MINUTE_US,
        "status": "ok",
        "attempt": 1,
        "lateness": 0,
        "priced": True,
        "quality": EXACT,
        "latency_ms": None,
        "web_searches": 0,
        "gpu_us": 0,
        **dict.fromkeys((*TOKENS, *BUCKET_COSTS), 0),
        **dict.fromkeys((COST, *COUNTERFACTUALS), 5),
        **columns,
    }


def frame(calls: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(calls, schema_overrides={"latency_ms": pl.Int64})


def totals(aggregates: Aggregates) -> Totals:
    return {key: values.tolist() for key, values in aggregates}


def absorbed(calls: list[dict[str, Any]], cap: int = 100, sizes: list[int] | None = None) -> Aggregates:
    aggregates = Aggregates(TEAM, cap)
    start = 0
    for size in [*(sizes or []), len(calls)]:
        if calls[start : start + size]:
            aggregates.absorb(frame(calls[start : start + size]))
            start += size
    return aggregates


CALLS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2), st.sampled_from([ON_TIME, 0]), st.integers(0, 9)),
    min_size=1,
    max_size=40,
).map(
    lambda rows: [
        call(offset, team, minute, block, cost_pusd=cost, latency_ms=cost or None)
        for offset, (team, minute, block, cost) in enumerate(rows)
    ]
)
SIZES = st.lists(st.integers(1, 12), max_size=8)


@given(CALLS, SIZES, st.sampled_from([1, 2, 3, 100]))
@settings(max_examples=40, deadline=None)
def test_totals_do_not_depend_on_the_batches(calls: list[dict[str, Any]], sizes: list[int], cap: int) -> None:
    assert totals(absorbed(calls, cap, sizes)) == totals(absorbed(calls, cap))


@given(CALLS, SIZES, st.sampled_from([1, 2, 3, 100]), st.integers(0, 40), st.integers(0, 40), st.randoms())
@settings(max_examples=60, deadline=None)
def test_a_restore_from_any_of_the_rollups_and_a_replay_come_to_the_same(
    calls: list[dict[str, Any]], sizes: list[int], cap: int, marked: int, flushed: int, rng: random.Random
) -> None:
    """Up to ``marked`` all rollups were acknowledged; of those up to ``flushed`` only some, in any order."""
    marked, flushed = sorted((min(marked, len(calls)), min(flushed, len(calls))))
    restored = Aggregates(TEAM, cap)
    if marked:
        for key, values in absorbed(calls[:marked], cap):
            restored.restore(key, values, 0)
    if flushed:
        later = [(key, values.copy()) for key, values in absorbed(calls[:flushed], cap)]
        for key, values in rng.sample(later, rng.randint(0, len(later))):
            restored.restore(key, values, 0)
    replayed = calls[marked:]
    start = 0
    for size in [*sizes, len(calls)]:
        if replayed[start : start + size]:
            restored.absorb(frame(replayed[start : start + size]))
            start += size
    assert totals(restored) == totals(absorbed(calls, cap))


@given(CALLS, st.integers(0, 40), st.sampled_from([1, 2, 100]))
@settings(max_examples=30, deadline=None)
def test_absorbing_what_was_restored_changes_nothing(calls: list[dict[str, Any]], since: int, cap: int) -> None:
    whole = absorbed(calls, cap)
    restored = Aggregates(TEAM, cap)
    for key, values in whole:
        restored.restore(key, values, 0)
    if calls[since:]:
        assert restored.absorb(frame(calls[since:])).height == 0
    assert totals(restored) == totals(whole)
    assert restored.take_dirty() == []


def test_of_two_restored_totals_the_greater_through_offset_wins() -> None:
    (older,), (newer,) = list(absorbed([call(1)])), list(absorbed([call(1), call(2)]))
    for order in ((older, newer), (newer, older)):
        restored = Aggregates(TEAM, 9)
        for key, values in order:
            restored.restore(key, values, 0)
        assert [values[COLUMN["calls"]] for _, values in restored] == [2]


@pytest.mark.parametrize(("teams", "others"), [(3, 0), (4, 1), (6, 3)])
def test_dimensions_beyond_the_cap_share_one_row_that_is_counted(teams: int, others: int) -> None:
    aggregates = absorbed([call(i, team=f"team-{i}") for i in range(teams)], cap=3)
    assert len(aggregates) == 3 + (others > 0)
    assert aggregates.other_calls() == others
    assert ({OTHER} in [set(key.dimensions) for key, _ in aggregates]) == (others > 0)


def test_a_row_admitted_before_the_cap_keeps_its_own_afterwards() -> None:
    aggregates = absorbed([call(0, "a"), call(1, "b"), call(2, "a"), call(3, "b")], cap=1, sizes=[2])
    assert {key.dimensions: t[COLUMN["calls"]] for key, t in aggregates} == {("a",): 2, (OTHER,): 2}


def test_every_minute_and_every_correction_block_has_a_cap_of_its_own() -> None:
    calls = [call(0, "a"), call(1, "b", minute=1), call(2, "c", block=0), call(3, "d", block=1)]
    assert absorbed(calls, cap=1).other_calls() == 0


def test_a_restored_other_row_admits_nobody_it_had_kept_out() -> None:
    """The flush was cut short: __other__ (c) was acknowledged, b's own row was not."""
    calls = [call(0, "a"), call(1, "b"), call(2, "c")]
    restored = Aggregates(TEAM, 2)
    for key, values in absorbed(calls, cap=2):
        if key.dimensions != ("b",):
            restored.restore(key, values, 0)
    restored.absorb(frame(calls))
    assert {key.dimensions for key, _ in restored} == {("a",), ("b",), (OTHER,)}
    assert all(values[COLUMN["calls"]] == 1 for _, values in restored)


@pytest.mark.parametrize(("watermark_us", "evicted"), [(11 * MINUTE_US - 1, 0), (11 * MINUTE_US, 1)])
def test_a_minute_is_evicted_when_the_watermark_is_past_its_allowance(watermark_us: int, evicted: int) -> None:
    aggregates = absorbed([call(0)])
    aggregates.take_dirty()
    assert aggregates.evict(watermark_us, 0, 600) == evicted
    assert len(aggregates) == 1 - evicted


def test_what_was_not_taken_is_not_evicted() -> None:
    aggregates = absorbed([call(0)])
    assert aggregates.evict(2**60, 10**9, 0) == 0


@pytest.mark.parametrize(("through", "evicted"), [(CORRECTION_BLOCK_OFFSETS - 2, 0), (CORRECTION_BLOCK_OFFSETS - 1, 1)])
def test_a_correction_block_is_evicted_when_no_later_offset_is_in_it(through: int, evicted: int) -> None:
    aggregates = absorbed([call(0, block=0)])
    aggregates.take_dirty()
    assert aggregates.evict(2**60, through, 0) == evicted


def test_an_evicted_row_is_used_again_and_starts_empty() -> None:
    aggregates = absorbed([call(0, latency_ms=9)])
    aggregates.take_dirty()
    aggregates.evict(2**60, 0, 0)
    aggregates.absorb(frame([call(10**9, minute=5)]))
    ((_, values),) = aggregates
    assert values[COLUMN["calls"]] == 1
    assert values[COLUMN["latency_ms_max"]] == 0
    assert values[COLUMN["first_offset"]] == 10**9


def test_the_rollup_topic_is_read_from_the_oldest_open_window() -> None:
    aggregates = absorbed([call(0), call(1, minute=20)])
    assert aggregates.rollups_from() is None
    keys = [key for key, _ in aggregates.take_dirty()]
    aggregates.written_from(keys[:1], 100)
    aggregates.written_from(keys, 150)
    assert aggregates.rollups_from() == 100
    aggregates.evict(11 * MINUTE_US, 0, 600)
    assert aggregates.rollups_from() == 150


def test_what_is_taken_does_not_change_with_what_comes_later() -> None:
    aggregates = absorbed([call(0)])
    ((_, taken),) = aggregates.take_dirty()
    aggregates.absorb(frame([call(1)]))
    assert taken[COLUMN["calls"]] == 1
    assert aggregates.take_dirty()[0][1][COLUMN["calls"]] == 2
    assert aggregates.take_dirty() == []


@pytest.mark.parametrize("sizes", [[1, 1, 1], [3], [2, 1]])
def test_a_cost_that_64_bits_do_not_hold_is_noticed_and_never_wrapped(sizes: list[int]) -> None:
    dear = [call(i, cost_pusd=2**63 - 1) for i in range(3)]
    with pytest.raises(OverflowError, match="64 bits"):
        absorbed(dear, sizes=sizes)


def test_dear_calls_that_do_fit_are_summed() -> None:
    ((_, values),) = absorbed([call(0, cost_pusd=2**62), call(1, cost_pusd=2**62 - 1)])
    assert values[COLUMN[COST]] == 2**63 - 1


def test_a_thousand_rows_are_kept_apart() -> None:
    aggregates = absorbed([call(i, team=f"team-{i % 1000}") for i in range(3000)], cap=10_000, sizes=[700])
    assert len(aggregates) == 1000
    assert all(values[COLUMN["calls"]] == 3 for _, values in aggregates)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=len(SUMS), max_size=len(SUMS)), st.text(max_size=9), SIZES)
def test_a_rollup_record_brings_the_aggregate_back(sums: list[int], team: str, sizes: list[int]) -> None:
    key = AggregateKey(29_543_761 * MINUTE_US, ON_TIME, (team,))
    values = next(values for _, values in absorbed([call(3)]))
    values[: len(SUMS)] = sums
    team_is_text = team.encode("utf-8", "ignore").decode() == team
    if team_is_text:
        _, record = rollup_record("life-1", 2, TEAM, key, values)
        found = read_rollup(record)
        assert (found.source_log, found.source_partition, tuple(found.dimensions), found.key) == (
            "life-1",
            2,
            TEAM,
            key,
        )
        assert totals_of([found]).tolist() == [values.tolist()]


def test_the_measures_have_one_column_each() -> None:
    assert len(COLUMN) == len(MEASURES) == len(set(MEASURES))
