"""Calls are kept apart by size and offset, so that no aggregate's sum passes 64 bits."""

from __future__ import annotations

import polars as pl
import pytest

from spendstream.core.aggregates import SIZES, TIERS, Tier, blocks
from spendstream.core.lateness import CORRECTION_CODE, LATE_CODE, ON_TIME_CODE
from spendstream.core.pricing.price import MAX_PUSD
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rollup import ON_TIME
from spendstream.schemas.usage import MAX_GPU_SECONDS, MAX_TOKENS

DEAR = 2**42
"""4.40 USD."""
DEAREST = 2**51
"""2,252 USD."""


def block(offset: int, size: int = 5, lateness: int = ON_TIME_CODE, column: str = "cost_pusd") -> int:
    sizes = {name: [size if name == column else 0] for name in SIZES}
    (one,) = blocks(pl.DataFrame({"offset": [offset], "lateness": [lateness], **sizes})).tolist()
    return int(one)


@pytest.mark.parametrize("tier", TIERS)
def test_a_block_full_of_its_dearest_calls_fits_64_bits(tier: Tier) -> None:
    assert (tier.below - 1) * tier.offsets < 2**63


def test_the_dearest_call_the_longest_gpu_time_and_the_most_tokens_fit_a_tier() -> None:
    assert TIERS[-1].below > MAX_PUSD
    assert TIERS[1].below > MAX_GPU_SECONDS * 10**6
    assert TIERS[0].below > MAX_TOKENS * len(TOKEN_BUCKETS)


def test_ordinary_calls_share_a_block_within_two_million_offsets() -> None:
    assert block(0) == block(2**21 - 1, DEAR - 1) == block(7, lateness=LATE_CODE) == ON_TIME
    assert block(2**21) == ON_TIME - 3


def test_dear_calls_share_a_block_within_4096_offsets() -> None:
    assert block(0, DEAR) == block(4095, DEAREST - 1) == ON_TIME - 1
    assert block(4096, DEAR) == ON_TIME - 4


def test_the_dearest_calls_are_alone() -> None:
    assert [block(offset, DEAREST) for offset in (0, 1, 2)] == [ON_TIME - 2, ON_TIME - 5, ON_TIME - 8]


@pytest.mark.parametrize("column", SIZES)
def test_any_column_that_can_pass_64_bits_counts(column: str) -> None:
    assert block(0, DEAR, column=column) == ON_TIME - 1


def test_what_is_too_late_shares_a_correction_unless_it_is_among_the_dearest() -> None:
    assert block(4096, 5, CORRECTION_CODE) == block(8191, DEAREST - 1, CORRECTION_CODE) == 1
    assert block(4096, DEAREST, CORRECTION_CODE) == block(4096, DEAREST) < ON_TIME


def test_no_two_tiers_share_a_block() -> None:
    offsets = (0, 1, 2, 3, 4095, 4096, 2**21, 2**40)
    one, two, three = ({block(offset, size) for offset in offsets} for size in (5, DEAR, DEAREST))
    assert one.isdisjoint(two | three)
    assert two.isdisjoint(three)
