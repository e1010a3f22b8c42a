"""What calls cost, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from spendstream.core.pricing import PriceBook, Unpriced
from spendstream.schemas.measures import EXACT, SUBSTITUTED
from tests.unit.pricing.conftest import CARD, call, frame, price_one

BookOf = Callable[[str], PriceBook]

SONNET = "input: 3, cache_read: 0.30, cache_write: 3.75, cache_write_1h: 6, output: 15"


def test_reasoning_is_billed_as_output(book_of: BookOf) -> None:
    """2,000 x $3 + 500 x $15 + 1,500 x $15, per million: 6,000 + 7,500 + 22,500 = 36,000 µUSD = $0.0360."""
    total, by_bucket = price_one(book_of(CARD % "input: 3, output: 15"), call(input=2000, output=500, reasoning=1500))
    assert total == 36_000_000_000
    assert by_bucket == {"input": 6_000_000_000, "output": 7_500_000_000, "reasoning": 22_500_000_000}


def test_cached_input_is_billed_at_the_cache_rate(book_of: BookOf) -> None:
    """600 x $3 + 400 x $0.30, per million: 1,800 + 120 = 1,920 µUSD."""
    total, by_bucket = price_one(book_of(CARD % SONNET), call(input=600, cache_read=400))
    assert total == 1_920_000_000
    assert by_bucket == {"input": 1_800_000_000, "cache_read": 120_000_000}


def test_cache_writes_are_billed_by_lifetime_and_the_remainder_as_unstated(book_of: BookOf) -> None:
    """100 written for 5 minutes, 200 for an hour, 50 for who knows: 375 + 1,200 + 187.5 = 1,762.5 µUSD."""
    book = book_of(CARD % SONNET)
    total, by_bucket = price_one(book, call(cache_write_5m=100, cache_write_1h=200, cache_write=50))
    assert by_bucket == {"cache_write_5m": 375_000_000, "cache_write_1h": 1_200_000_000, "cache_write": 187_500_000}
    assert total == 1_762_500_000


def test_anthropic_writes_take_the_public_rates(public_book: PriceBook) -> None:
    """Claude Sonnet 4.5: 1,000 tokens each at $3.75 (5 minutes), $6 (1 hour), $3.75 (unstated): 13,500 µUSD."""
    row = call("claude-sonnet-4-5", provider="anthropic", cache_write_5m=1000, cache_write_1h=1000, cache_write=1000)
    assert price_one(public_book, row)[0] == 13_500_000_000


@pytest.mark.parametrize(
    ("cache_read", "expected_pusd"),
    [
        (199_000, 62_700_000_000),  # 1,000 x $3 + 199,000 x $0.30 = 3,000 + 59,700 µUSD
        (199_001, 125_400_600_000),  # 1,000 x $6 + 199,001 x $0.60 = 6,000 + 119,400.6 µUSD
    ],
)
def test_a_tier_is_a_cliff_on_the_whole_input(public_book: PriceBook, cache_read: int, expected_pusd: int) -> None:
    """200,000 input tokens, cached ones among them, are still below Claude Sonnet 4.5's tier; 200,001 are above it."""
    row = call("claude-sonnet-4-5", provider="anthropic", input=1_000, cache_read=cache_read)
    assert price_one(public_book, row)[0] == expected_pusd


TIERED = """
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2026-01-01
        source: test
        usd_per_mtok: {input: 1, input_audio: 10, output: 4}
        tiers:
          - {above_input_tokens: 100, usd_per_mtok: {input: 2}}
          - {above_input_tokens: 200, usd_per_mtok: {input: 3, output: 5}}
        service_tiers:
          batch: {multiplier: 0.5}
          priority: {usd_per_mtok: {input: 7, output: 9}}
        usd_per_request: 0.001
        usd_per_web_search: 0.01
"""


@pytest.mark.parametrize(
    ("tokens", "micro_usd"),
    [
        ({"input": 100, "output": 1}, 100 * 1 + 4),
        ({"input": 101, "output": 1}, 101 * 2 + 4),
        ({"input": 200, "output": 1}, 200 * 2 + 4),
        ({"input": 201, "output": 1}, 201 * 3 + 5),
        ({"input": 190, "input_audio": 11, "output": 1}, 190 * 3 + 11 * 10 + 5),  # audio counts as input
        ({"input": 100, "output": 500}, 100 * 1 + 500 * 4),  # output does not
    ],
)
def test_own_tiers_keep_the_rates_that_they_omit(book_of: BookOf, tokens: dict[str, Any], micro_usd: int) -> None:
    assert price_one(book_of(TIERED), call(**tokens))[0] == (micro_usd + 1_000) * 10**6  # and the request's fee


@pytest.mark.parametrize(
    ("tier", "tokens", "nano_usd"),
    [
        ("standard", {"input": 10, "output": 10}, 10 * 1000 + 10 * 4000),
        ("batch", {"input": 10, "output": 10}, 10 * 500 + 10 * 2000),
        ("batch", {"input": 101}, 101 * 1000),  # the multiplier takes the tiers along
        ("priority", {"input": 10, "output": 10}, 10 * 7000 + 10 * 9000),
        ("priority", {"input": 300}, 300 * 7000),  # rates of its own have no tiers but their own
        ("flex", {"input": 10, "output": 10}, 10 * 1000 + 10 * 4000),  # not named: standard, and marked
    ],
)
def test_a_service_tier_has_a_multiple_or_rates_of_its_own(
    book_of: BookOf, tier: str, tokens: dict[str, Any], nano_usd: int
) -> None:
    priced = book_of(TIERED).price(frame(call(tier=tier, **tokens)))
    assert priced.total_pusd[0] == nano_usd * 1000 + 10**9
    assert (priced.quality[0] == SUBSTITUTED) == (tier == "flex")
    assert priced.cards[priced.card[0]].tier_applied == ("standard" if tier == "flex" else tier)


def test_fees_are_billed_by_request_and_by_search(book_of: BookOf) -> None:
    """$0.001 for the request, 3 x $0.01 for searches; batch halves neither."""
    book = book_of(TIERED)
    for tier in ("standard", "batch"):
        total, by_bucket = price_one(book, call(tier=tier, web_searches=3))
        assert by_bucket == {"request": 10**9, "web_search": 3 * 10**10}
        assert total == 31 * 10**9


def test_a_public_fee_per_request_is_billed_once_a_call(public_book: PriceBook) -> None:
    """Perplexity Sonar: $12 per 1,000 requests, and $1 per million tokens."""
    total, by_bucket = price_one(public_book, call("sonar", provider="perplexity", input=1000, output=1000))
    assert by_bucket["request"] == 12 * 10**9
    assert total == 14 * 10**9


def test_audio_and_images_have_rates_of_their_own_or_take_the_general_one(book_of: BookOf) -> None:
    book = book_of(CARD % "input: 1, input_audio: 10, output: 4, output_image: 40")
    row = call(input_audio=1, cache_read_audio=2, input_image=3, output_audio=4, output_image=5)
    assert price_one(book, row)[1] == {
        "input_audio": 10 * 10**6,
        "cache_read_audio": 20 * 10**6,  # no rate for cached audio: that of audio
        "input_image": 3 * 10**6,
        "output_audio": 16 * 10**6,
        "output_image": 200 * 10**6,
    }


GPUS = """
deployments:
  - deployment: llama-h100x4
    model: llama-*
    gpus: 4
    rates:
      - {from: 2026-01-01, source: test, usd_per_gpu_hour: 2.40}
      - {from: 2026-06-01, source: test, usd_per_gpu_hour: 0.000000009}
"""


def test_gpu_time_is_billed_on_all_gpus_and_pays_for_the_tokens(book_of: BookOf) -> None:
    """1.5 s x 4 GPUs x $2.40 / 3,600 = $0.004."""
    row = call("Llama-3", provider="vllm", deployment="llama-h100x4", gpu_us=1_500_000, input=9, output=9)
    row["priced_at_us"] = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert price_one(book_of(GPUS), row) == (4_000_000_000, {"gpu": 4_000_000_000})


@pytest.mark.parametrize(("gpu_us", "pusd"), [(50_000, 0), (50_001, 1), (150_000, 2), (250_000, 2), (250_001, 3)])
def test_gpu_cost_is_rounded_half_to_even(book_of: BookOf, gpu_us: int, pusd: int) -> None:
    """At 36,000 pico-dollars an hour (4 x 9,000), 100,000 µs cost 1 pico-dollar: 50,000 µs cost a half."""
    total, _ = price_one(book_of(GPUS), call("llama-3", provider="vllm", deployment="llama-h100x4", gpu_us=gpu_us))
    assert total == pusd


def test_a_call_that_a_deployment_refused_used_no_gpu_time_and_costs_nothing(book_of: BookOf) -> None:
    refused = call("llama-3", provider="vllm", deployment="llama-h100x4", gpu_us=0, input=9)
    untimed = call("llama-3", provider="vllm", deployment="llama-h100x4", gpu_us=None, input=9)
    priced = book_of(GPUS).price(frame(refused, untimed))
    assert priced.priced.tolist() == [True, False]
    assert priced.total_pusd.tolist() == [0, 0]


def test_a_deployment_without_gpu_time_is_unpriced(book_of: BookOf) -> None:
    priced = book_of(GPUS).price(frame(call("llama-3", provider="vllm", deployment="llama-h100x4", input=9)))
    assert priced.unpriced_reason[0] == Unpriced.NO_RATE
    assert priced.missing_buckets(0) == ("gpu",)
    assert not priced.priced[0]
    assert priced.total_pusd[0] == 0


def test_gpu_time_costs_the_same_at_every_service_tier(book_of: BookOf) -> None:
    row = call("llama-3", provider="vllm", deployment="llama-h100x4", gpu_us=10**6, tier="batch")
    priced = book_of(GPUS).price(frame(row))
    assert priced.priced[0]
    assert priced.quality[0] == EXACT
    assert priced.at_standard_tier_pusd[0] == priced.total_pusd[0] == 10


def test_gpu_time_on_a_card_billed_by_the_token_costs_nothing_more(book_of: BookOf) -> None:
    assert price_one(book_of(CARD % "input: 1"), call(input=5, gpu_us=10**6))[0] == 5 * 10**6


def test_an_unknown_model_is_unpriced_rather_than_free(public_book: PriceBook) -> None:
    priced = public_book.price(frame(call("no-such-model", provider="openai", input=5), call("x", provider="nobody")))
    assert priced.unpriced_reason.tolist() == [Unpriced.UNKNOWN_MODEL] * 2
    assert priced.card.tolist() == [-1, -1]
    assert priced.cards == ()
    assert not priced.priced.any()


def test_a_call_that_uses_tokens_without_a_rate_is_unpriced_as_a_whole(book_of: BookOf) -> None:
    book = book_of(CARD % "input: 1")
    priced = book.price(frame(call(input=5, output=1, web_searches=1), call(input=5)))
    assert priced.priced.tolist() == [False, True]
    assert priced.unpriced_reason.tolist() == [Unpriced.NO_RATE, Unpriced.PRICED]
    assert priced.missing_buckets(0) == ("output", "web_search")
    assert priced.missing_buckets(1) == ()
    assert priced.total_pusd.tolist() == [0, 5_000_000]
    assert priced.by_bucket["input"].tolist() == [0, 5_000_000]
    assert priced.card[0] == priced.card[1] == 0
    assert priced.quality.tolist() == [0, EXACT]


def test_a_rate_finer_than_a_pico_dollar_is_rounded_half_even_once_a_bucket(public_book: PriceBook) -> None:
    """OpenRouter's cache write for Gemini 2.5 Flash is $0.0833333333333333 per million: 83,333.3333333333 pusd."""
    row: dict[str, Any] = {"provider": "openrouter", "model": "google/gemini-2.5-flash"}
    counts = (1, 2, 3, 10**8)
    priced = public_book.price(frame(*(call(**row, cache_write=count) for count in counts)))
    assert priced.total_pusd.tolist() == [83_333, 166_667, 250_000, 8_333_333_333_333]


@pytest.mark.parametrize(
    ("rate", "count", "pusd"),
    [
        ("0.0000005", 1, 0),  # half a pico-dollar a token
        ("0.0000005", 3, 2),
        ("0.0000005", 5, 2),
        ("0.0000015", 1, 2),
        ("0.000000500000000001", 1, 1),  # just above the half
        ("0.000000499999999999", 1, 0),
        ("0.000000000000000001", 10**8, 0),
        ("9999.999999999999999999", 10**8, 10**18),
        ("9999.999999500000000001", 99_999_999, 999_999_989_950_000_001),
    ],
)
def test_halves_of_a_pico_dollar_go_to_the_even_one(book_of: BookOf, rate: str, count: int, pusd: int) -> None:
    assert price_one(book_of(CARD % f"input: {rate}"), call(input=count))[0] == pusd


def test_a_cost_beyond_64_bits_is_unpriced_and_the_rest_of_the_batch_stays_exact(book_of: BookOf) -> None:
    """10^8 tokens in each bucket at $10,000 are $15m; 9 buckets' worth ($9m) still fit."""
    every = "input: 10000, output: 10000"
    buckets = ["input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "input_audio", "input_image"]
    nine: dict[str, Any] = dict.fromkeys([*buckets, "output", "reasoning"], 10**8)
    ten = {**nine, "output_audio": 10**8}
    priced = book_of(CARD % every).price(frame(call(**ten), call(**nine), call(input=1)))
    assert priced.unpriced_reason.tolist() == [Unpriced.TOO_LARGE, Unpriced.PRICED, Unpriced.PRICED]
    assert priced.total_pusd.tolist() == [0, 9 * 10**18, 10**10]
    assert priced.total_pusd.dtype == priced.without_cache_pusd.dtype == "int64"
    assert priced.without_cache_pusd.tolist() == [0, 9 * 10**18, 10**10]


def test_an_empty_batch_is_priced_as_nothing(public_book: PriceBook) -> None:
    priced = public_book.price(frame(call(input=1)).clear())
    assert len(priced.total_pusd) == len(priced.priced) == len(priced.card) == 0
