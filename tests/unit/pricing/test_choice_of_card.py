"""Which card prices a call: kind, how specific it is, date, service tier, names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spendstream.core.pricing import PriceBook, PricedColumns
from spendstream.schemas.measures import EXACT, SUBSTITUTED
from tests.unit.pricing.conftest import MID_NOVEMBER, call, frame, price_one

BookOf = Callable[[str], PriceBook]

EXAMPLE = Path(__file__).parents[3] / "infra" / "rates" / "example.yaml"


def card_of(priced: PricedColumns, row: int = 0) -> tuple[str, str, str]:
    card = priced.cards[priced.card[row]]
    return card.source, card.provider, card.model


def card(model: str, rate: str, more: str = "", provider: str = "openai", since: str = "2026-06-01") -> str:
    rates = f"rates: [{{from: {since}, source: test, usd_per_mtok: {{input: {rate}, output: 1}}}}]"
    return f"  - {{provider: '{provider}', model: '{model}', {more} {rates}}}\n"


def test_contract_overrides_custom_overrides_public(book_of: BookOf) -> None:
    """GPT-4o costs $2.50 in public."""
    row = call("gpt-4o", provider="openai", input=10**6)
    assert price_one(book_of(""), row)[0] == 2_500_000 * 10**6
    assert price_one(book_of("cards:\n" + card("gpt-4o", "2")), row)[0] == 2 * 10**12
    both = "cards:\n" + card("gpt-4o", "2") + card("gpt-*", "1", "kind: contract,")  # although less specific
    assert price_one(book_of(both), row)[0] == 10**12


def test_before_a_contract_starts_the_next_card_applies(book_of: BookOf) -> None:
    contract = card("gpt-4o", "1", "kind: contract,", since="2026-09-01")
    book = book_of("cards:\n" + contract + card("gpt-4o", "2", since="2026-06-01"))
    costs = []
    for day in ("2026-05-31", "2026-06-01", "2026-08-31", "2026-09-01"):
        at = datetime.fromisoformat(day + "T23:59:59.999999+00:00")
        costs.append(price_one(book, call("gpt-4o", provider="openai", input=10, at=at))[0])
    assert costs == [25_000_000, 20_000_000, 20_000_000, 10_000_000]


@pytest.mark.parametrize(
    ("at", "rate"),
    [
        ("2025-12-31T23:59:59.999999Z", None),  # the day before
        ("2026-01-01T00:00:00Z", 1),  # the day of
        ("2026-02-28T23:59:59.999999Z", 1),
        ("2026-03-01T00:00:00Z", 2),
        ("2026-03-31T23:59:59.999999Z", 2),
        ("2026-04-01T00:00:00Z", None),  # until excludes its day
        ("2026-05-01T00:00:00Z", 3),
    ],
)
def test_a_rate_applies_from_its_midnight_to_the_next(book_of: BookOf, at: str, rate: int | None) -> None:
    book = book_of(
        """
cards:
  - provider: acme
    model: acme-1
    rates:
      - {from: 2026-01-01, source: a, usd_per_mtok: {input: 1}}
      - {from: 2026-03-01, until: 2026-04-01, source: b, usd_per_mtok: {input: 2}}
      - {from: 2026-05-01, source: c, usd_per_mtok: {input: 3}}
"""
    )
    # beside a call of another date, so that the price changes within the batch
    rows = frame(call(input=1, at=datetime.fromisoformat(at)), call(input=1))
    priced = book.price(rows)
    assert priced.total_pusd.tolist() == [(rate or 0) * 10**6, 3 * 10**6]
    assert priced.priced[0] == (rate is not None)


def test_the_more_specific_card_applies(book_of: BookOf) -> None:
    cards = [
        card("*", "1", provider="acme"),
        card("a*", "2", provider="acme"),
        card("acme-*", "3", provider="acme"),
        card("ACME-1", "4", provider="Acme"),
        card("acme-1", "5", "region: eu-*,", provider="acme"),
        card("acme-1", "6", "service_tier: batch,", provider="acme"),
        card("*", "7", "deployment: mine,", provider="acme"),
        card("*", "8", provider="*"),
    ]
    rows = [
        call("b", input=1),
        call("ab", input=1),
        call("acme-2", input=1),
        call("acme-1", input=1),
        call("acme-1", input=1, region="EU-west-1"),
        call("acme-1", input=1, tier="batch"),
        call("acme-1", input=1, deployment="mine"),
        call("acme-1", provider="other", input=1),
    ]
    for order in (cards, cards[::-1]):
        priced = book_of("cards:\n" + "".join(order)).price(frame(*rows))
        assert (priced.total_pusd // 10**6).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_card_for_one_service_tier_leaves_the_others_to_public_prices(book_of: BookOf) -> None:
    book = book_of("cards:\n" + card("gpt-4o", "1", "kind: contract, service_tier: batch,"))
    batch = book.price(frame(call("gpt-4o", provider="openai", tier="batch", input=10)))
    assert batch.total_pusd.tolist() == [10_000_000]
    assert batch.at_standard_tier_pusd.tolist() == [25_000_000]
    assert batch.quality[0] == EXACT


def test_batch_takes_the_public_batch_price_from_the_day_it_was_offered(public_book: PriceBook) -> None:
    """Anthropic's batch price is half of $3 since 2024-10-08, which the price book noted on 2026-10-14."""
    day = datetime(2024, 10, 8, tzinfo=UTC)
    row: dict[str, Any] = {"model": "claude-sonnet-4-5", "provider": "anthropic", "tier": "batch", "input": 1000}
    priced = public_book.price(frame(call(**row, at=day - timedelta(microseconds=1)), call(**row, at=day)))
    assert priced.total_pusd.tolist() == [3_000_000_000, 1_500_000_000]
    assert (priced.quality == SUBSTITUTED).tolist() == [True, False]
    assert [priced.cards[i].tier_applied for i in priced.card] == ["standard", "batch"]


def test_flex_and_priority_take_their_public_prices(public_book: PriceBook) -> None:
    """GPT-4.1: $2 standard, $3.50 priority; no flex price."""
    rows = [call("gpt-4.1", provider="openai", tier=t, input=1000) for t in ("standard", "priority", "flex")]
    priced = public_book.price(frame(*rows))
    assert priced.total_pusd.tolist() == [2_000_000_000, 3_500_000_000, 2_000_000_000]
    assert (priced.quality == SUBSTITUTED).tolist() == [False, False, True]


def test_azure_takes_openai_s_price_but_not_its_batch_discount(public_book: PriceBook) -> None:
    rows = [call("gpt-4o", provider=p, tier="batch", input=1000) for p in ("openai", "azure.ai.openai")]
    priced = public_book.price(frame(*rows))
    assert priced.total_pusd.tolist() == [1_250_000_000, 2_500_000_000]
    assert (priced.quality == SUBSTITUTED).tolist() == [False, True]
    assert card_of(priced, 1) == ("genai-prices", "openai", "gpt-4o")


@pytest.mark.parametrize(
    ("time", "pico_per_token"),
    [("00:29:59.999999", 135_000), ("00:30:00", 270_000), ("16:29:59.999999", 270_000), ("16:30:00", 135_000)],
)
def test_off_peak_hours_have_prices_of_their_own(public_book: PriceBook, time: str, pico_per_token: int) -> None:
    """DeepSeek: $0.27 from 00:30 to 16:30 UTC, half of it otherwise."""
    at = datetime.fromisoformat(f"2026-11-15T{time}+00:00")
    rows = [call("deepseek-chat", provider="deepseek", input=1, at=t) for t in (at, MID_NOVEMBER)]
    assert public_book.price(frame(*rows)).total_pusd.tolist() == [pico_per_token, 270_000]


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("OpenAI", "GPT-4o", ("openai", "gpt-4o")),
        ("openai", "gpt-4o-20240806", ("openai", "gpt-4o")),
        ("openai", "openai/gpt-4o", ("openai", "gpt-4o")),
        ("litellm", "anthropic/claude-sonnet-4-5", ("anthropic", "claude-sonnet-4-5")),
        ("gcp.gemini", "models/gemini-2.5-pro", ("google", "gemini-2.5-pro")),
        ("gcp.vertex_ai", "publishers/google/models/gemini-2.5-pro", ("google", "gemini-2.5-pro")),
        ("google_genai", "gemini-2.5-pro", ("google", "gemini-2.5-pro")),
        ("gcp.gen_ai", "gemini-2.5-pro", ("google", "gemini-2.5-pro")),
        ("gcp.vertex_ai", "claude-sonnet-4-5@20250929", ("google", "claude-sonnet-4-5")),
        ("mistral_ai", "mistral-large-latest", ("mistral", "mistral-large")),
        ("x_ai", "grok-4", ("x-ai", "grok-4-0709")),
        ("azure.ai.inference", "gpt-4o", ("openai", "gpt-4o")),
        ("aws.bedrock", "bedrock/us.amazon.nova-pro-v1:0", ("aws", "amazon.nova-pro-v1:0")),
        ("anthropic_bedrock", "us.amazon.nova-pro-v1:0", ("aws", "amazon.nova-pro-v1:0")),
        ("aws.bedrock", "eu.amazon.nova-pro-v1:0", ("aws", "amazon.nova-pro-v1:0")),
        (
            "aws.bedrock",
            "apac.anthropic.claude-sonnet-4-5-20250929-v1:0",
            ("aws", "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ),
        (
            "aws.bedrock",
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            ("aws", "global.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ),
    ],
)
def test_names_are_understood_as_services_write_them(
    public_book: PriceBook, provider: str, model: str, expected: tuple[str, str]
) -> None:
    priced = public_book.price(frame(call(model, provider=provider, input=1)))
    assert priced.priced[0]
    assert card_of(priced)[1:] == expected


def test_own_cards_match_the_same_names(book_of: BookOf) -> None:
    book = book_of(
        "cards:\n" + card("anthropic.claude-x", "4", provider="aws") + card("gemini-x", "5", provider="google")
    )
    rows = [
        call("us.anthropic.claude-x", provider="aws.bedrock", input=1),
        call("models/gemini-x", provider="gcp.gen_ai", input=1),
    ]
    assert (book.price(frame(*rows)).total_pusd // 10**6).tolist() == [4, 5]


def test_a_provider_s_own_name_overrides_its_usual_one(book_of: BookOf) -> None:
    cards = [card("m", "1", provider="azure"), card("m", "2", provider="my-azure-gateway")]
    rows = [call("m", provider=p, input=1) for p in ("azure", "az.ai.openai", "my-azure-gateway")]
    for order in (cards, cards[::-1]):
        assert (book_of("cards:\n" + "".join(order)).price(frame(*rows)).total_pusd // 10**6).tolist() == [1, 1, 2]


def test_names_that_come_with_events_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spendstream.core.pricing.choose.MAX_KEYS", 3)
    monkeypatch.setattr("spendstream.core.pricing.public.MAX_NAMES", 3)
    book = PriceBook()
    for number in range(10):
        book.price(frame(call(f"made-up-{number}", provider="openai"), call("gpt-4o", provider="openai")))
        assert len(book._chooser._choices) <= 3
        assert len(book._public._found) <= 3


def test_a_free_model_costs_nothing_and_is_priced(public_book: PriceBook) -> None:
    priced = public_book.price(frame(call("openai/gpt-oss-20b:free", provider="openrouter", input=5, reasoning=5)))
    assert priced.priced[0]
    assert priced.total_pusd[0] == 0


def test_categorical_columns_are_priced_like_text(public_book: PriceBook) -> None:
    calls = frame(call("gpt-4o", provider="openai", input=5), call("gpt-5", provider="openai", output=5))
    text = public_book.price(calls)
    categorical = public_book.price(calls.with_columns(pl.col(pl.String).cast(pl.Categorical)))
    assert text.total_pusd.tolist() == categorical.total_pusd.tolist() == [12_500_000, 50_000_000]


def test_a_card_id_depends_only_on_rates_origin_and_date(book_of: BookOf) -> None:
    def id_of(text: str, at: datetime = MID_NOVEMBER) -> str:
        priced = book_of(text).price(frame(call("gpt-4o", provider="openai", input=1, at=at)))
        return priced.cards[0].id

    one = card("gpt-4o", "1")
    assert id_of("cards:\n" + one) == id_of("cards:\n" + card("other", "3") + one.replace("input: 1,", "input: 1.00,"))
    assert id_of("cards:\n" + one) != id_of("cards:\n" + card("gpt-4o", "2"))
    assert id_of("cards:\n" + one) != id_of("cards:\n" + card("gpt-4o", "1", since="2026-06-02"))
    assert id_of("cards:\n" + one) != id_of("cards:\n" + card("gpt-4o", "1", "kind: contract,"))
    # appending an entry does not touch what was priced before
    appended = one.replace("]", ", {from: 2026-12-01, source: test, usd_per_mtok: {input: 9, output: 9}}]")
    assert id_of("cards:\n" + one) == id_of("cards:\n" + appended)


def test_explain_says_which_card_and_which_rates() -> None:
    book = PriceBook.load([EXAMPLE])
    explained = book.explain(
        "anthropic",
        "claude-sonnet-4-5",
        at=datetime(2026, 3, 1, tzinfo=UTC),
        service_tier="batch",
        total_input_tokens=200_001,
    )
    assert explained.card is not None
    assert (explained.card.source, explained.card.model, explained.card.tier_applied) == (
        "contract",
        "claude-sonnet-4-5*",
        "batch",
    )
    assert explained.card.reference == "Order form 2026-117, schedule B"
    assert (explained.above_input_tokens, explained.tiers) == (200_000, (200_000,))
    assert {bucket: str(rate) for bucket, rate in explained.usd_per_mtok.items()}["input"] == "2.4"
    assert explained.priced_as["reasoning"] == "output"
    assert explained.valid_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert explained.valid_until == datetime(2026, 7, 1, tzinfo=UTC)
    assert str(explained.usd_per_web_search) == "0.01"


def test_explain_says_if_a_service_tier_or_a_model_has_no_price() -> None:
    book = PriceBook.load([])
    flex = book.explain("openai", "gpt-4.1", at=MID_NOVEMBER, service_tier="flex")
    assert flex.card is not None
    assert flex.card.tier_applied == "standard"
    assert "no flex rate for gpt-4.1: standard" in flex.notes
    assert book.explain("openai", "no-such-model", at=MID_NOVEMBER).card is None


def test_the_example_cards_load_and_price_as_their_comments_say() -> None:
    book = PriceBook.load([EXAMPLE])
    gpu = call(
        "meta-llama/Llama-3.3-70B-Instruct",
        provider="vllm",
        deployment="llama-70b-fp8-h100x4",
        gpu_us=1_500_000,
        at=datetime(2026, 2, 1, tzinfo=UTC),
    )
    assert price_one(book, gpu)[0] == 4_150_000_000
    listed = book.cards()
    assert [c.source for c in listed][:1] == ["contract"]
    assert len({c.id for c in listed}) == len(listed) > 2_000
