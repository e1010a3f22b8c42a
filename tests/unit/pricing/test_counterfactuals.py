"""What the same calls would have cost otherwise."""

from __future__ import annotations

from collections.abc import Callable

from spendstream.core.pricing import PriceBook
from tests.unit.pricing.conftest import CARD, call, frame

BookOf = Callable[[str], PriceBook]

TWO_MODELS = """
cards:
  - provider: acme
    model: small
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 1, output: 2},
             service_tiers: {batch: {multiplier: 0.5}}}]
  - provider: acme
    model: large
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 10, output: 20}}]
  - provider: acme
    model: deaf
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {output: 20}}]
"""


def test_without_cache_reads_and_writes_are_plain_input(book_of: BookOf) -> None:
    """600 + 400 tokens at $3 instead of 600 at $3 and 400 at $0.30: 3,000 µUSD, not 1,920. Writes: $3, not $3.75."""
    book = book_of(CARD % "input: 3, cache_read: 0.3, cache_write: 3.75, output: 15")
    priced = book.price(frame(call(input=600, cache_read=400), call(cache_write=100), call(input=5, output=5)))
    assert priced.total_pusd.tolist() == [1_920_000_000, 375_000_000, 90_000_000]
    assert priced.without_cache_pusd.tolist() == [3_000_000_000, 300_000_000, 90_000_000]


def test_cached_audio_would_have_been_audio_input(book_of: BookOf) -> None:
    book = book_of(CARD % "input: 1, cache_read: 0.1, input_audio: 10, cache_read_audio: 2")
    assert book.price(frame(call(cache_read_audio=7))).without_cache_pusd.tolist() == [70_000_000]


def test_without_cache_is_the_total_if_plain_input_has_no_rate(book_of: BookOf) -> None:
    priced = book_of(CARD % "cache_read: 0.1, output: 1").price(frame(call(cache_read=10)))
    assert priced.without_cache_pusd.tolist() == priced.total_pusd.tolist() == [1_000_000]


def test_at_standard_tier_a_batch_call_costs_twice_as_much(book_of: BookOf) -> None:
    priced = book_of(TWO_MODELS).price(frame(call("small", tier="batch", input=10), call("small", input=10)))
    assert priced.total_pusd.tolist() == [5_000_000, 10_000_000]
    assert priced.at_standard_tier_pusd.tolist() == [10_000_000, 10_000_000]


def test_with_the_requested_model_the_same_buckets_are_priced_by_its_card(book_of: BookOf) -> None:
    rows = [
        call("small", requested="large", input=10, output=1),  # 10 + 2 µUSD, and 100 + 20 as asked
        call("small", requested="small", input=10),  # the same model
        call("small", input=10),  # none was named
        call("", requested="large", input=10),  # what served is unknown: billed as requested
        call("small", requested="nobody-knows", input=10),
        call("small", requested="deaf", input=10),  # its card has no rate for input
    ]
    priced = book_of(TWO_MODELS).price(frame(*rows))
    assert (priced.total_pusd // 10**6).tolist() == [12, 10, 10, 100, 10, 10]
    assert (priced.with_requested_model_pusd // 10**6).tolist() == [120, 10, 10, 100, 10, 10]


def test_an_unpriced_call_has_no_counterfactual_either(book_of: BookOf) -> None:
    priced = book_of(TWO_MODELS).price(frame(call("nobody-knows", requested="large", tier="batch", input=10)))
    assert priced.at_standard_tier_pusd.tolist() == [0]
    assert priced.with_requested_model_pusd.tolist() == [0]
    assert priced.without_cache_pusd.tolist() == [0]
