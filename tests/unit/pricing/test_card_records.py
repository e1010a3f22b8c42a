"""A published card prices calls as the book did: nothing that decides on a price is left out of its record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from spendstream.core.pricing import PriceBook, PricedColumns, RateSet, card_record, price_by, rates_of_record
from spendstream.schemas.buckets import INPUT_BUCKETS, TOKEN_BUCKETS
from spendstream.schemas.rate_card_record import Rate, RateCardRecord
from tests.unit.pricing.conftest import MID_NOVEMBER, call, frame

ONE = Decimal(1)
OWN = """
cards:
  - provider: acme
    model: acme-1
    region: eu-*
    kind: contract
    rates:
      - from: 2026-01-01
        source: "contract 7, clause 3"
        usd_per_mtok: {input: 3, cache_read: 0.000002, output: 15}
        usd_per_web_search: 0.01
        usd_per_request: 0.000000000001
        tiers:
          - {above_input_tokens: 1000, usd_per_mtok: {input: 6}}
          - {above_input_tokens: 200000, usd_per_mtok: {input: 7, output: 22.5}}
        service_tiers:
          batch: {multiplier: 0.5}
  - provider: acme
    model: acme-scan
    rates:
      - from: 2026-01-01
        source: price list
        usd_per_mtok: {input: 0.0833333333333333, output: 0.1}
        usd_per_unit: {pages: 0.002, audio_seconds: 0.000000000000000001}
        hours: [{from: "06:30", until: "14:00", multiplier: 1.5}]
  - provider: openai
    model: gpt-4o
    kind: contract
    rates: [{from: 2026-01-01, source: "contract 8", discount_percent: 12.5}]
adjustments:
  - {provider: acme, model: acme-*, region: us-gov, from: 2026-01-01, multiplier: 1.1, source: "price list, page 2"}
deployments:
  - deployment: llama-h100
    model: llama-3
    hardware: h100
    gpus: 4
    rates:
      - {from: 2026-01-01, source: invoice 12, usd_per_gpu_hour: 2.49}
"""


def published(rates: RateSet) -> RateCardRecord:
    """The record as a reader gets it."""
    return RateCardRecord.model_validate_json(card_record(rates).model_dump_json())


def sets_of(book: PriceBook) -> list[RateSet]:
    book.cards()
    return book._table.sets[1:]


def test_every_public_card_survives_the_wire(public_book: PriceBook) -> None:
    cards = sets_of(public_book)
    assert len(cards) > 2000
    for rates in cards:
        record = published(rates)
        assert rates_of_record(record) == rates
        assert rates_of_record(record).ref.id == record.rate_card_id == rates.ref.id


def test_every_own_card_survives_the_wire(book_of: Callable[[str], PriceBook]) -> None:
    cards = [rates for rates in sets_of(book_of(OWN)) if rates.source not in ("genai-prices", "correction")]
    assert {rates.tier_applied for rates in cards} == {"standard", "batch"}
    assert {len(rates.multipliers) for rates in cards} == {0}
    book = book_of(OWN)
    for row in (
        call("acme-scan", region="us-gov", input=1, at=MID_NOVEMBER.replace(hour=7)),
        call("gpt-4o", provider="openai", input=1),
        call("gpt-4o", provider="openai", capacity="provisioned", input=1),
    ):
        cards += book.price(frame(row)).sets
    assert {len(rates.multipliers) for rates in cards} == {0, 1}
    for rates in cards:
        assert rates_of_record(published(rates)) == rates
        assert rates_of_record(published(rates)).ref == rates.ref


def test_a_rate_says_which_factor_it_contains(book_of: Callable[[str], PriceBook]) -> None:
    book = book_of(OWN)
    record = published(book.price(frame(call("acme-scan", region="us-gov", input=1))).sets[0])
    rates = {rate.item: rate for rate in record.rates()}
    assert rates["output"][3:] == (Decimal("0.165"), 1_000_000, "tokens", 0, "output", Decimal("1.1"))
    assert rates["pages"][3:] == (Decimal("0.002"), 1, "pages", 0, "pages", ONE)
    assert rates["annotated_pages"].priced_as == "pages"
    assert rates["input_audio_seconds"].priced_as == "audio_seconds"
    share = published(book.price(frame(call("gpt-4o", provider="openai", input=1))).sets[0])
    assert next(share.rates())[3:] == (Decimal("2.1875"), 1_000_000, "tokens", 0, "input", Decimal("0.875"))


@pytest.mark.parametrize("total_input", [0, 1, 1_000, 1_001, 200_000, 200_001])
def test_a_published_card_prices_a_call_as_the_book_does(book_of: Callable[[str], PriceBook], total_input: int) -> None:
    book = book_of(OWN)
    for row in (
        call(region="eu-west-1", input=total_input, output=7, reasoning=5, web_searches=2),
        call(region="eu-west-1", tier="batch", input=total_input // 2, cache_read=total_input - total_input // 2),
        call("llama-3", provider="vllm", deployment="llama-h100", gpu_us=1_234_567, input=total_input),
        call("acme-scan", region="us-gov", input=total_input, units={"annotated_pages": 3, "pages": 12, "other": 1}),
        call("gpt-4o", provider="openai", input=total_input, cache_read=7, output=1_003),
        call("gpt-4o", provider="openai", capacity="provisioned", input=total_input, web_searches=1),
    ):
        assert_priced_alike(book, row)


def test_a_public_card_prices_a_call_as_the_book_does(public_book: PriceBook) -> None:
    found = 0
    for ref in [rates.ref for rates in sets_of(public_book)][::30]:
        at = ref.valid_from or datetime(2026, 11, 15, 12, tzinfo=UTC)
        tokens = dict.fromkeys(INPUT_BUCKETS, 123_457) | {"output": 1_003, "reasoning": 77}
        tokens |= dict.fromkeys(("input_audio", "cache_read_audio"), 0)  # few have a rate for it
        row = call(ref.model, provider=ref.provider, tier=ref.tier_applied, at=at, **tokens)
        if public_book.price(frame(row)).card[0] == 0:  # some names are patterns, and match no call of that name
            assert_priced_alike(public_book, row)
            found += 1
    assert found > 60


def assert_priced_alike(book: PriceBook, row: dict[str, Any]) -> None:
    priced = book.price(frame(row))
    assert priced.card[0] == 0, row
    again = price_by(published(priced.sets[0]), frame(row))
    assert priced.sets[0].ref == priced.cards[0]
    assert again.total_pusd.tolist() == priced.total_pusd.tolist()
    assert again.unpriced_reason.tolist() == priced.unpriced_reason.tolist()
    assert again.unit_costs == priced.unit_costs
    assert again.context_step.tolist() == priced.context_step.tolist()
    assert again.missing_buckets(0) == priced.missing_buckets(0)
    assert by_bucket(again) == by_bucket(priced)


def by_bucket(priced: PricedColumns) -> dict[str, int]:
    return {bucket: int(amounts[0]) for bucket, amounts in priced.by_bucket.items() if amounts[0]}


def test_the_rates_of_a_card_say_where_each_holds_and_whose_it_is(book_of: Callable[[str], PriceBook]) -> None:
    record = published(book_of(OWN).price(frame(call(region="eu-west-1", input=1))).sets[0])
    rates = {(rate.item, rate.above_input_tokens): rate for rate in record.rates()}
    assert rates["input", 0] == Rate("input", 0, 1_000, Decimal(3), 1_000_000, "tokens", 0, "input", ONE)
    assert rates["input", 1_000] == Rate("input", 1_000, 200_000, Decimal(6), 1_000_000, "tokens", 0, "input", ONE)
    assert rates["reasoning", 200_000] == Rate(
        "reasoning", 200_000, None, Decimal("22.5"), 1_000_000, "tokens", 0, "output", ONE
    )
    assert rates["web_search", 1_000] == Rate(
        "web_search", 1_000, 200_000, Decimal("0.01"), 1, "searches", 0, "web_search", ONE
    )
    assert rates["request", 0].usd == Decimal("0.000000000001")
    assert len(rates) == 3 * (len(TOKEN_BUCKETS) + 2)


def test_with_a_card_by_the_gpu_hour_its_time_pays_for_the_tokens(book_of: Callable[[str], PriceBook]) -> None:
    row = call("llama-3", provider="vllm", deployment="llama-h100", gpu_us=1, input=1)
    record = published(book_of(OWN).price(frame(row)).sets[0])
    *tokens, gpu = record.rates()
    assert gpu == Rate("gpu", 0, None, Decimal("9.96"), 3_600, "seconds", 0, "gpu", ONE)
    assert {(rate.usd, rate.priced_as) for rate in tokens} == {(Decimal(0), "gpu")}
    assert record.deployment == "llama-h100"


def test_a_record_of_a_later_release_is_read(book_of: Callable[[str], PriceBook]) -> None:
    record = published(book_of(OWN).price(frame(call(region="eu-west-1", input=1))).sets[0])
    later = record.model_dump_json().replace("{", '{"added_later": 1, ', 1)
    assert RateCardRecord.model_validate_json(later) == record
