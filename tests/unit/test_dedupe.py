"""Which ids were counted: like a dictionary, whatever the batches, and within the horizon only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.core.dedupe import _SPREAD_HI, _SPREAD_LO, GENERATIONS, Ids, IdTable, SeenIds

HORIZON_S = 4
GENERATION_MS = HORIZON_S * 1000 // GENERATIONS
HALVES = st.sampled_from([0, 1, 2, 5, 2**63, 2**64 - 1])
ID = st.tuples(HALVES, HALVES).filter(lambda pair: pair != (0, 0))


def ids(pairs: list[tuple[int, int]]) -> Ids:
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def random_ids(n: int, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(1, 2**64 - 1, size=(n, 2), dtype=np.uint64)


def generations_of(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@given(st.lists(st.tuples(ID, st.sampled_from([0, 0, 0, 1, 4, 5, 9])), max_size=60), st.lists(st.integers(1, 20)))
def test_it_equals_a_dictionary_whatever_the_batches(steps: list[tuple[tuple[int, int], int]], cuts: list[int]) -> None:
    generation, last = 0, {}
    pairs, generations, expected = [], [], []
    for pair, step in steps:
        generation += step
        pairs.append(pair)
        generations.append(generation)
        fresh = pair not in last or generation - last[pair] > GENERATIONS
        expected.append(fresh)
        if fresh:
            last[pair] = generation
    seen, got, start = SeenIds(HORIZON_S), [], 0
    for size in [*cuts, len(pairs)]:
        part = slice(start, start + size)
        if pairs[part]:
            got += seen.accept(ids(pairs[part]), generations_of(*generations[part])).tolist()
            seen.forget(generations[part][-1] * GENERATION_MS)
            start += size
    assert got == expected


@pytest.mark.parametrize(("later", "is_new"), [(0, False), (1, False), (GENERATIONS, False), (GENERATIONS + 1, True)])
def test_an_id_is_known_for_the_horizon_and_new_a_generation_later(later: int, is_new: bool) -> None:
    seen = SeenIds(HORIZON_S)
    seen.accept(ids([(7, 7)]), generations_of(10))
    seen.forget((10 + later) * GENERATION_MS)
    assert seen.accept(ids([(7, 7)]), generations_of(10 + later)).tolist() == [is_new]


def test_an_id_lives_at_least_one_horizon_of_log_time() -> None:
    seen = SeenIds(HORIZON_S)
    just_before_a_cut = GENERATION_MS - 1
    seen.accept(ids([(7, 7)]), seen.generation(generations_of(just_before_a_cut)))
    horizon_later = seen.generation(generations_of(just_before_a_cut + HORIZON_S * 1000))
    assert not seen.accept(ids([(7, 7)]), horizon_later).any()


def test_a_duplicate_does_not_prolong_the_life_of_an_id() -> None:
    seen = SeenIds(HORIZON_S)
    accepted = [bool(seen.accept(ids([(7, 7)]), generations_of(g))[0]) for g in (0, 3, 4, 5)]
    assert accepted == [True, False, False, True]


def test_the_first_of_equal_ids_in_one_batch_counts() -> None:
    seen = SeenIds(HORIZON_S)
    accepted = seen.accept(ids([(1, 1), (2, 2), (1, 1), (1, 1), (2, 2)]), generations_of(0, 0, 0, 1, 1))
    assert accepted.tolist() == [True, True, False, False, False]


def test_ids_that_differ_in_one_half_only_are_different() -> None:
    seen = SeenIds(HORIZON_S)
    assert seen.accept(ids([(0, 1), (1, 0), (1, 1), (0, 2)]), generations_of(0, 0, 0, 0)).all()


@pytest.mark.parametrize("n", [1, 2047, 2048, 2049, 50_000])
def test_a_table_grows_and_keeps_all(n: int) -> None:
    table, known = IdTable(), random_ids(n)
    for part in np.array_split(known, 7):
        table.add(part)
    assert table.count == n
    assert table.contains(known).all()
    assert not table.contains(random_ids(1000, seed=1)).any()
    assert table.nbytes >= 2 * 16 * n
    assert table.nbytes <= max(8 * 16 * n, 16 << 12)


def test_ids_that_share_a_slot_are_all_kept() -> None:
    table = IdTable()
    home = table._home(random_ids(200_000))
    crowded = random_ids(200_000)[home == home[0]]
    assert len(crowded) > 20
    table.add(crowded)
    assert table.contains(crowded).all()


def test_relearning_a_range_twice_changes_nothing() -> None:
    seen, known = SeenIds(HORIZON_S), random_ids(100)
    seen.relearn(3, known)
    seen.relearn(3, known[20:60])
    seen.relearn(3, np.concatenate((known, known)))
    assert seen.count == 100
    assert not seen.accept(known, np.full(100, 3, dtype=np.int64)).any()


def test_forgetting_frees_only_what_no_later_record_asks_for() -> None:
    seen = SeenIds(HORIZON_S)
    for generation in range(8):
        seen.learn(generation, random_ids(10, seed=generation))
    seen.forget(8 * GENERATION_MS - 1)
    assert seen.count == 10 * (GENERATIONS + 1)


def test_nothing_is_accepted_of_nothing() -> None:
    assert SeenIds(1).accept(ids([]), generations_of()).tolist() == []


def test_ids_whose_mixed_numbers_meet_are_told_apart() -> None:
    """The quick look for repeats sorts one number an id; where two ids share it, the ids themselves decide."""
    hi, lo, other_hi, wrap = 12345, 67890, 99999, 2**64
    spread_lo, spread_hi = int(_SPREAD_LO), int(_SPREAD_HI)
    number = (lo * spread_lo % wrap) ^ (hi * spread_hi % wrap)
    other_lo = (number ^ (other_hi * spread_hi % wrap)) * pow(spread_lo, -1, wrap) % wrap
    ids = np.array([[hi, lo], [other_hi, other_lo], [hi, lo]], dtype=np.uint64)
    assert SeenIds(3600).accept(ids, np.zeros(3, dtype=np.int64)).tolist() == [True, True, False]


def test_ids_chosen_to_share_a_slot_elsewhere_spread_here() -> None:
    """16,000 ids that mix to one number under another process's draw: each process draws its own."""
    spread_lo, spread_hi = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
    low = np.random.default_rng(1).integers(1, 2**63, size=16_000, dtype=np.uint64)
    back = np.uint64(pow(spread_hi, -1, 2**64))
    chosen = np.column_stack(((low * np.uint64(spread_lo) ^ np.uint64(77)) * back, low))
    assert len(np.unique(chosen[:, 1] * np.uint64(spread_lo) ^ chosen[:, 0] * np.uint64(spread_hi))) == 1
    table = IdTable()
    table.add(chosen)
    assert table.contains(chosen).all()
    assert len(np.unique(table._home(chosen))) > 10_000
