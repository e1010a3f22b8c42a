"""What changes a price beside the model and the day: tier, capacity, place, hours, size, units, a share of the list.

Each amount is worked out by hand. Each says how exact it is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from spendstream.core.pricing import PriceBook, PricedColumns, Unpriced
from spendstream.schemas.measures import PRICE_QUALITIES
from tests.unit.pricing.conftest import CARD, MID_NOVEMBER, call, frame

BookOf = Callable[[str], PriceBook]

USD = 10**12


def priced_one(book: PriceBook, row: dict[str, Any]) -> tuple[Decimal | None, str, str]:
    """Return (USD, or None if unpriced, quality, notes) of a single call."""
    priced = book.price(frame(row))
    usd = Decimal(int(priced.total_pusd[0])) / USD if priced.priced[0] else None
    return usd, PRICE_QUALITIES[priced.quality[0]], priced.note_texts[priced.notes[0]]


def exact(usd: str) -> tuple[Decimal, str, str]:
    return Decimal(usd), "exact", ""


# service tiers


def test_fast_mode_of_claude_has_its_own_rates_and_cache_multiples(public_book: PriceBook) -> None:
    """Opus 4.8: $10 and $50, a cache read a tenth of the input: 0.010 + 0.010 + 0.005.

    https://platform.claude.com/docs/en/about-claude/pricing#fast-mode-pricing
    """
    row = call("claude-opus-4-8", provider="anthropic", tier="fast", input=1000, cache_read=10_000, output=100)
    assert priced_one(public_book, row) == exact("0.025")


def test_openai_s_fast_tier_has_its_own_rates(public_book: PriceBook) -> None:
    """GPT-6 Astra: $20 and $100, twice the standard rates. https://developers.openai.com/api/docs/pricing"""
    row = call("gpt-6-astra", provider="openai", tier="fast", input=1000, output=100)
    assert priced_one(public_book, row) == exact("0.03")


def test_fast_without_a_known_rate_is_standard_and_says_so(public_book: PriceBook) -> None:
    row = call("claude-haiku-4-5", provider="anthropic", tier="fast", input=1000)
    assert priced_one(public_book, row) == (
        Decimal("0.001"),
        "substituted",
        "no fast rate for claude-haiku-4-5: standard",
    )


def test_an_unknown_tier_is_standard_and_says_so(book_of: BookOf) -> None:
    usd, quality, note = priced_one(book_of(CARD % "input: 1"), call(tier="turbo", input=10**6))
    assert (usd, quality, note) == (1, "substituted", "no such rate for acme-1: standard")


def test_own_cards_have_fast_rates(book_of: BookOf) -> None:
    card = CARD % "input: 1" + "        service_tiers: {fast: {multiplier: 6}}\n"
    assert priced_one(book_of(card), call(tier="fast", input=10**6)) == exact("6")


# capacity

PROVISIONED = """
cards:
  - provider: acme
    model: acme-1
    capacity: provisioned
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 0.5}}]
  - provider: acme
    model: "*"
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 2}, usd_per_web_search: 0.01}]
deployments:
  - deployment: mine
    gpus: 1
    rates: [{from: 2026-01-01, source: test, usd_per_gpu_hour: 3.6}]
"""


def test_a_call_on_prepaid_capacity_is_never_billed_at_list(public_book: PriceBook) -> None:
    row = call("gemini-2.5-flash", provider="google", capacity="provisioned", input=100_000, output=10_000)
    priced = public_book.price(frame(row, {**row, "capacity": "on_demand"}))
    assert priced.total_pusd.tolist() == [0, 55 * USD // 1000]
    assert [priced.cards[index].source for index in priced.card] == ["prepaid", "genai-prices"]
    assert priced_one(public_book, row) == (0, "exact", "prepaid capacity")


def test_prepaid_capacity_of_an_unknown_model_is_prepaid_all_the_same(public_book: PriceBook) -> None:
    row = call("no-such-model", provider="nobody", capacity="provisioned", tier="batch", input=1)
    assert priced_one(public_book, row) == (0, "exact", "prepaid capacity")


def test_a_fee_of_a_call_on_prepaid_capacity_is_not_prepaid(public_book: PriceBook) -> None:
    row = call("gemini-2.5-flash", provider="google", capacity="provisioned", input=1, web_searches=2)
    assert priced_one(public_book, row) == (0, "partial", "prepaid capacity; no rate for web_searches")


def test_own_cards_price_provisioned_capacity_and_on_demand_apart(book_of: BookOf) -> None:
    book = book_of(PROVISIONED)
    assert priced_one(book, call(capacity="provisioned", input=10**6)) == exact("0.5")
    assert priced_one(book, call(input=10**6)) == exact("2")
    assert priced_one(book, call("other", capacity="provisioned", input=10**6)) == (0, "exact", "prepaid capacity")
    row = call("other", capacity="provisioned", deployment="mine", gpu_us=10**6, input=10**6)
    assert priced_one(book, row) == exact("0.001")


# units


@pytest.mark.parametrize(
    ("provider", "model", "units", "usd"),
    [
        ("openai", "whisper-1", {"audio_seconds": 11}, "0.0011"),  # $0.36 an hour
        ("openai", "whisper-1", {"input_audio_seconds": "0.5"}, "0.00005"),  # contained in seconds of audio
        ("mistral", "mistral-ocr-latest", {"pages": 10}, "0.04"),  # $4 per 1,000
        ("openai", "gpt-4.1", {"file_searches": 1}, "0.0025"),  # $2.50 per 1,000
        ("groq", "whisper-large-v3", {"audio_seconds": 3}, "0.000308333333"),  # at least 10 s, at $0.111 an hour
        ("groq", "whisper-large-v3", {"audio_seconds": 3600}, "0.111"),
        ("perplexity", "sonar-deep-research", {"citation_tokens": 7299}, "0.014598"),  # $2 per million
        ("perplexity", "perplexity/sonar", {"fast_web_searches": 3}, "0.003"),  # $1 per 1,000, and $2.50 otherwise
    ],
)
def test_units_take_their_public_price(
    public_book: PriceBook, provider: str, model: str, units: dict[str, Any], usd: str
) -> None:
    row = call(model, provider=provider, units=units)
    assert priced_one(public_book, row) == exact(usd)
    priced = public_book.price(frame(row))
    assert priced.by_bucket["units"].tolist() == priced.total_pusd.tolist()
    assert priced.unit_costs == {0: {next(iter(units)): int(priced.total_pusd[0])}}


UNITS = CARD % "input: 1" + "        usd_per_unit: {pages: 0.004, audio_seconds: 0.0000000000005}\n"


def test_units_of_own_cards_are_priced_one_by_one_and_add_up(book_of: BookOf) -> None:
    """12 pages at $0.004; 3 s at half a pico-dollar are 1.5, rounded to 2, and 5 s are 2.5, also 2; $1 for tokens."""
    units = {"annotated_pages": 2, "input_audio_seconds": 3, "output_audio_seconds": 5, "pages": 10}
    priced = book_of(UNITS).price(frame(call(input=5), call(input=10**6, units=units)))
    assert priced.unit_costs == {
        1: {
            "annotated_pages": 8 * USD // 1000,
            "input_audio_seconds": 2,
            "output_audio_seconds": 2,
            "pages": 40 * USD // 1000,
        }
    }
    assert priced.total_pusd.tolist() == [5_000_000, USD + 48 * USD // 1000 + 4]


def test_a_unit_without_a_price_is_named_and_the_rest_is_the_amount(book_of: BookOf) -> None:
    units = {"images": 1, "pages": 1, "widgets": "0.5"}
    row = call(input=10**6, units=units, web_searches=1)
    assert priced_one(book_of(UNITS), row) == (
        Decimal("1.004"),
        "partial",
        "no rate for web_searches; no rate for images, widgets",
    )
    priced = book_of(UNITS).price(frame(row))
    assert priced.unit_costs == {0: {"pages": 4 * USD // 1000}}
    assert priced.missing_buckets(0) == ("web_search", "units")


def test_units_do_not_help_a_call_whose_tokens_have_no_price(book_of: BookOf) -> None:
    priced = book_of(UNITS).price(frame(call(output=1, units={"pages": 1}), call("other", units={"pages": 1})))
    assert priced.unpriced_reason.tolist() == [Unpriced.NO_RATE, Unpriced.UNKNOWN_MODEL]
    assert priced.unit_costs == {}
    assert priced.total_pusd.tolist() == [0, 0]


def test_a_model_billed_by_units_alone_is_not_free_for_a_call_that_states_none(public_book: PriceBook) -> None:
    """Whisper is billed by the hour of audio: a call that doesn't state its seconds has no price, and not $0."""
    priced = public_book.price(
        frame(call("whisper-1", provider="openai"), call("whisper-1", provider="openai", input=1))
    )
    assert priced.unpriced_reason.tolist() == [Unpriced.NO_RATE] * 2
    assert priced.missing_buckets(0) == ("units",)
    assert priced.missing_buckets(1) == ("input",)


def test_a_quantity_of_any_size_is_exact_or_refused(book_of: BookOf) -> None:
    book = book_of(CARD % "input: 1" + "        usd_per_unit: {pages: 0.000001}\n")
    rows = [call(units={"pages": q}) for q in ("1000000000000", "9223372036854.775807", "0.000000000001", "0.0000005")]
    priced = book.price(frame(*rows))
    assert priced.total_pusd.tolist() == [10**18, MAX_PUSD := 2**63 - 1, 0, 0]
    assert priced.priced.all()
    assert MAX_PUSD
    dear = book_of(CARD % "input: 1" + "        usd_per_unit: {pages: 100}\n")
    priced = dear.price(frame(call(units={"pages": 10**12}), call(units={"pages": 1})))
    assert priced.unpriced_reason.tolist() == [Unpriced.TOO_LARGE, Unpriced.PRICED]
    assert priced.total_pusd.tolist() == [0, 100 * USD]


# places

PLACES = """
cards:
  - provider: acme
    model: acme-1
    region: eu-*
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 7}}]
  - provider: acme
    model: acme-*
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 2, output: 0.000003}, usd_per_web_search: 0.01}]
adjustments:
  - {provider: acme, model: acme-*, region: "*", from: 2026-02-01, until: 2026-12-01, multiplier: 1.1, source: a}
  - {provider: acme, model: acme-*, region: us-*, from: 2026-02-01, multiplier: 1.2, source: b}
  - {provider: acme, model: acme-1, region: us-*, from: 2026-02-01, multiplier: 1.3, buckets: [input, web_search],
     source: c}
  - {provider: acme, inference_geo: us, from: 2026-02-01, multiplier: 1.5, source: d}
"""


@pytest.mark.parametrize(
    ("row", "usd"),
    [
        (call("acme-2", input=10**6), "2"),  # no region is stated
        (call("acme-2", region="global", input=10**6), "2"),  # no glob means everywhere
        (call("acme-2", region="ap-1", input=10**6), "2.2"),
        (call("acme-2", region="US-east-1", input=10**6), "2.4"),  # the more specific region
        (call("acme-1", region="us-east-1", input=10**6, web_searches=1), "2.613"),  # the model; on the fee too
        (call("acme-1", region="us-east-1", output=10**6), "0.000003"),  # not on the output
        (call("acme-1", region="us-east-1", cache_read=10**6), "2.6"),  # which takes the rate of input
        (call("acme-1", region="eu-west-1", input=10**6), "7"),  # the card is for the region
        (call("acme-1", region="eu-west-1", geo="us", input=10**6), "10.5"),
        (call("acme-2", region="ap-1", geo="us", input=10**6), "3.3"),  # 2 x 1.1 x 1.5
        (call("acme-2", region="ap-1", input=10**6, at=datetime(2026, 1, 31, 23, 59, tzinfo=UTC)), "2"),
        (call("acme-2", region="ap-1", input=10**6, at=datetime(2026, 2, 1, tzinfo=UTC)), "2.2"),
        (call("acme-2", region="ap-1", input=10**6, at=datetime(2026, 12, 1, tzinfo=UTC)), "2"),
        (call("acme-2", region="ap-1", output=1), "0.000000000003"),  # 3 x 1.1 = 3.3 pico-dollars
        (call("acme-2", region="ap-1", output=5), "0.000000000016"),  # 16.5, halves to even
    ],
)
def test_a_region_multiplies_the_rates_in_force(book_of: BookOf, row: dict[str, Any], usd: str) -> None:
    assert priced_one(book_of(PLACES), row) == exact(usd)


def test_an_amount_in_a_region_stays_explainable(book_of: BookOf) -> None:
    book = book_of(PLACES)
    explained = book.explain("acme", "acme-1", at=MID_NOVEMBER, region="us-east-1", inference_geo="us")
    found = [(m.factor, m.buckets, m.reason, m.reference) for m in explained.multipliers]
    assert found[0] == (Decimal("1.3"), ("input", "web_search"), "region us-*", "c")
    assert (found[1][0], found[1][2], found[1][3]) == (Decimal("1.5"), "inference_geo us", "d")
    assert explained.usd_per_mtok["input"] == Decimal("3.9")
    assert explained.valid_from == datetime(2026, 2, 1, tzinfo=UTC)
    ids = {
        book.price(frame(call("acme-1", region=region, input=1))).cards[0].id
        for region in ("", "us-east-1", "us-west-2", "ap-1")
    }
    assert len(ids) == 3  # two regions at one multiplier share a card


def corrected(text: str, own: str = "") -> PriceBook:
    """Return a book whose corrections are these cards."""
    return PriceBook(entries_of(own), entries_of(text))


def entries_of(text: str) -> list[Any]:
    from ruamel.yaml import YAML

    from spendstream.core.documents import plain
    from spendstream.schemas.rate_card import RateCards

    cards = RateCards.model_validate(plain(YAML(typ="rt").compose(text)) if text else {})
    return [*cards.cards, *cards.deployments, *cards.adjustments, *cards.aliases]


GEO = """
adjustments:
  - {provider: anthropic, model: claude-sonnet-4-6*, inference_geo: us, from: 2026-02-01, multiplier: 1.1, source: d}
"""


def test_a_public_price_takes_the_uplift_of_a_correction() -> None:
    """$3 and $15, times 1.1: (8 x 3.3 + 13 x 16.5) / 10^6."""
    row = call("claude-sonnet-4-6", provider="anthropic", geo="us", input=8, output=13)
    assert priced_one(corrected(GEO), row) == exact("0.0002409")


NO_PLACE = [("global", "claude-sonnet-4-6"), ("not_available", "claude-sonnet-4-6"), ("eu", "claude-sonnet-4-5")]


@pytest.mark.parametrize(("geo", "model"), NO_PLACE)
def test_a_place_that_does_not_matter_leaves_the_price_exact(geo: str, model: str) -> None:
    """Sonnet 4.5 has no rates by place at all."""
    row = call(model, provider="anthropic", geo=geo, input=10**6)
    assert priced_one(corrected(GEO), row) == exact("3" if model.endswith("6") else "6")


def test_a_place_without_a_rate_is_substituted_where_others_have_one() -> None:
    row = call("claude-sonnet-4-6", provider="anthropic", geo="eu", input=10**6)
    note = "no rate of that inference_geo is known: the general one"
    assert priced_one(corrected(GEO), row) == (3, "substituted", note)
    before = {**row, "priced_at_us": int(datetime(2026, 1, 31, tzinfo=UTC).timestamp()) * 10**6}
    assert priced_one(corrected(GEO), before)[1] == "exact"  # no place had one then


def test_a_correction_for_one_region_puts_the_others_in_doubt() -> None:
    rates = "[{from: 2026-01-01, source: t, usd_per_mtok: {input: 9}}]"
    book = corrected(f"cards: [{{provider: openai, model: gpt-4o, region: eu-1, rates: {rates}}}]")
    row = call("gpt-4o", provider="openai", input=10**6)
    found = {region: priced_one(book, {**row, "region": region}) for region in ("eu-1", "us-1", "")}
    assert found["eu-1"] == exact("9")
    assert found["us-1"] == (Decimal("2.5"), "substituted", "no rate of that region is known: the general one")
    assert found[""] == exact("2.5")


def test_corrections_stand_above_the_price_book_and_below_own_cards() -> None:
    card = "cards: [{provider: openai, model: '%s', rates: [{from: 2026-06-01, source: t, usd_per_mtok: {input: %s}}]}]"
    row = call("gpt-4o", provider="openai", input=10**6)
    assert priced_one(corrected(card % ("gpt-4o", 9)), row) == exact("9")
    assert priced_one(corrected(card % ("gpt-4o", 9), card % ("gpt-*", 8)), row) == exact("8")
    early = {**row, "priced_at_us": int(datetime(2026, 5, 31, tzinfo=UTC).timestamp()) * 10**6}
    assert priced_one(corrected(card % ("gpt-4o", 9)), early) == exact("2.5")
    found = corrected(card % ("gpt-4o", 9)).price(frame(row))
    assert found.cards[0].source == "correction"


# hours of the week

HOURS = """
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2026-01-01
        source: test
        usd_per_mtok: {input: 1, output: 4}
        service_tiers: {batch: {multiplier: 0.5}, priority: {usd_per_mtok: {input: 9}}}
        hours:
          - {weekdays: [mon, tue, wed, thu, fri], from: "01:00", until: "04:00", multiplier: 2}
          - {weekdays: [sun], from: "22:00", until: "02:00", usd_per_mtok: {input: 3}}
      - from: 2026-11-18
        source: test
        usd_per_mtok: {input: 5, output: 4}
"""


@pytest.mark.parametrize(
    ("at", "input_usd", "output_usd"),
    [
        ("2026-11-13T00:59:59.999999", 1, 4),  # a Friday
        ("2026-11-13T01:00:00", 2, 8),
        ("2026-11-13T03:59:59.999999", 2, 8),
        ("2026-11-13T04:00:00", 1, 4),
        ("2026-11-14T02:00:00", 1, 4),  # Saturday
        ("2026-11-15T21:59:59.999999", 1, 4),  # Sunday
        ("2026-11-15T22:00:00", 3, 4),
        ("2026-11-15T23:59:59.999999", 3, 4),
        ("2026-11-17T00:59:00", 1, 4),  # Tuesday
        ("2026-11-18T01:00:00", 5, 4),  # the next entry has no hours
    ],
)
def test_hours_of_the_week_have_rates_of_their_own(book_of: BookOf, at: str, input_usd: int, output_usd: int) -> None:
    text = HOURS.replace('until: "02:00"', 'until: "24:00"')
    instant = datetime.fromisoformat(at + "+00:00")
    rows = [call(input=10**6, at=instant), call(output=10**6, at=instant), call(input=10**6, at=MID_NOVEMBER)]
    assert (book_of(text).price(frame(*rows)).total_pusd // USD).tolist() == [input_usd, output_usd, 1]


def test_hours_may_pass_midnight_and_the_end_of_the_week(book_of: BookOf) -> None:
    text = HOURS.replace('from: "01:00"', 'from: "02:00"')
    usd = {
        at: priced_one(book_of(text), call(input=10**6, at=datetime.fromisoformat(at + "+00:00")))[0]
        for at in ("2026-11-16T00:00:00", "2026-11-16T01:59:59", "2026-11-16T02:00:00", "2026-11-17T01:00:00")
    }
    assert list(usd.values()) == [3, 3, 2, 1]


def test_hours_multiply_a_tier_s_share_but_not_rates_of_its_own(book_of: BookOf) -> None:
    text = HOURS.replace('until: "02:00"', 'until: "24:00"')
    at = datetime(2026, 11, 13, 2, tzinfo=UTC)
    found = [priced_one(book_of(text), call(tier=tier, input=10**6, at=at))[0] for tier in ("batch", "priority")]
    assert found == [1, 9]


def test_the_price_book_s_hours_are_those_of_every_day() -> None:
    """DeepSeek V4.1 Flash, 06:00 to 10:00 UTC: $0.30, else $0.15, as the price book has it."""
    for day in range(14, 21):
        rows = [
            call("deepseek-flash", provider="deepseek", input=10**6, at=datetime(2026, 11, day, hour, tzinfo=UTC))
            for hour in (5, 6, 9, 10)
        ]
        assert (PriceBook().price(frame(*rows)).total_pusd * 100 // USD).tolist() == [15, 30, 30, 15]


# size of input


def stepped(book_of: BookOf) -> PriceBook:
    return book_of(
        CARD % "input: 1"
        + """        usd_per_request: 0.01
        tiers:
          - {above_input_tokens: 1000, usd_per_request: 0.02, usd_per_web_search: 0.5}
          - {above_input_tokens: 199999, usd_per_mtok: {input: 2}}
"""
    )


@pytest.mark.parametrize(
    ("tokens", "usd", "step"),
    [(1000, "0.011", 0), (1001, "0.021001", 1000), (199_999, "0.219999", 1000), (200_000, "0.42", 199_999)],
)
def test_a_fee_can_depend_on_the_size_of_the_input(book_of: BookOf, tokens: int, usd: str, step: int) -> None:
    row = call(input=tokens)
    assert priced_one(stepped(book_of), row) == exact(usd)
    assert stepped(book_of).price(frame(row)).context_step.tolist() == [step]


def test_a_fee_that_exists_only_above_a_size_is_missing_below(book_of: BookOf) -> None:
    assert priced_one(stepped(book_of), call(input=1000, web_searches=1))[1:] == ("partial", "no rate for web_searches")
    assert priced_one(stepped(book_of), call(input=1001, web_searches=1)) == exact("0.521001")


@pytest.mark.parametrize(
    ("stated", "usd", "step"),
    [
        (0, "0.0101", 0),
        (1000, "0.0201", 1000),
        (199_999, "0.0202", 199_999),
        (200_000, "0.0202", 199_999),  # "at least 200,000" is "more than 199,999"
    ],
)
def test_the_step_that_the_provider_billed_overrides_the_call_s_own_input(
    book_of: BookOf, stated: int, usd: str, step: int
) -> None:
    row = call(input=100, context_step=stated)
    assert priced_one(stepped(book_of), row) == exact(usd)
    assert stepped(book_of).price(frame(row)).context_step.tolist() == [step]


def test_a_stated_step_that_the_rates_do_not_have_is_substituted_by_the_input_s(book_of: BookOf) -> None:
    row = call(input=1001, context_step=272_000)
    found = priced_one(stepped(book_of), row)
    assert found == (Decimal("0.021001"), "substituted", "no step above 272,000 input tokens is known")
    assert stepped(book_of).price(frame(row)).context_step.tolist() == [1000]


# shares of the public price


def share(more: str, model: str = "claude-sonnet-4-5", top: str = "kind: contract,") -> str:
    entry = f"{{from: 2026-03-01, source: 'order form 7', {more}}}"
    return f"cards: [{{provider: anthropic, model: '{model}', {top} rates: [{entry}]}}]"


@pytest.mark.parametrize(
    ("more", "row", "usd"),
    [
        ("discount_percent: 15", {"input": 10**5}, "0.255"),
        ("multiplier: 0.85", {"input": 10**5}, "0.255"),
        ("multiplier: 1.05", {"input": 10**5}, "0.315"),  # a markup
        ("discount_percent: 15", {"input": 10**6}, "5.1"),  # above 200,000: $6
        ("discount_percent: 12.5", {"input": 1000, "tier": "batch"}, "0.0013125"),  # $1.50 x 0.875
        ("discount_percent: 15", {"input": 1000, "web_searches": 1}, "0.01105"),  # fees too
        ("discount_percent: 15, buckets: [input]", {"input": 1000, "web_searches": 1, "output": 1000}, "0.02755"),
        ("discount_percent: 10, buckets: [output]", {"cache_read": 1000, "reasoning": 1000}, "0.0138"),
        ("discount_percent: 100", {"input": 1000}, "0"),
        ("discount_percent: 15", {"input": 1000, "at": datetime(2026, 2, 28, tzinfo=UTC)}, "0.003"),
        ("discount_percent: 10, hours: [{weekdays: [sun], multiplier: 0.5}]", {"input": 1000}, "0.00135"),
    ],
)
def test_a_card_can_be_a_share_of_the_public_price(book_of: BookOf, more: str, row: dict[str, Any], usd: str) -> None:
    """Claude Sonnet 4.5: $3, $6 above 200,000 input tokens, $15 out, $10 per 1,000 searches; batch is half."""
    assert priced_one(book_of(share(more)), call("claude-sonnet-4-5", provider="anthropic", **row)) == exact(usd)


def test_a_share_follows_the_public_price_as_it_changes(book_of: BookOf) -> None:
    """GPT-5.6 Luna cost $1 until 2026-07-29, and $0.20 from the next day on."""
    book = book_of(
        "cards: [{provider: openai, model: gpt-5.6-*, rates: [{from: 2026-01-01, source: t, multiplier: 0.9}]}]"
    )
    rows = [
        call("gpt-5.6-luna", provider="openai", input=1000, at=datetime(2026, 7, day, tzinfo=UTC)) for day in (29, 30)
    ]
    priced = book.price(frame(*rows))
    assert priced.total_pusd.tolist() == [9 * USD // 10_000, 18 * USD // 100_000]
    assert [priced.cards[index].source for index in priced.card] == ["custom", "custom"]
    assert priced.cards[0].id != priced.cards[1].id


def test_a_share_says_of_which_price(book_of: BookOf) -> None:
    explained = book_of(share("discount_percent: 15")).explain("anthropic", "claude-sonnet-4-5", at=MID_NOVEMBER)
    assert explained.card is not None
    assert (explained.card.source, explained.card.reference) == ("contract", "order form 7")
    assert [(m.factor, m.reason) for m in explained.multipliers] == [
        (Decimal("0.85"), "share of the price of anthropic claude-sonnet-4-5 in genai-prices")
    ]


def test_a_share_is_of_the_price_in_that_region() -> None:
    own = share("discount_percent: 50", "claude-*", "region: us-*,")
    text = "adjustments: [{provider: anthropic, region: us-*, from: 2026-01-01, multiplier: 1.1, source: d}]"
    row = call("claude-sonnet-4-5", provider="anthropic", region="us-1", input=1000)
    assert priced_one(corrected(text, own), row) == exact("0.00165")


def test_a_share_keeps_the_doubts_of_the_price(book_of: BookOf) -> None:
    text = "cards: [{provider: azure, model: deepseek*, rates: [{from: 2026-01-01, source: t, multiplier: 0.5}]}]"
    usd, quality, note = priced_one(book_of(text), call("DeepSeek-Reasoner", provider="azure", input=10**6))
    assert (usd, quality) == (Decimal("0.275"), "substituted")
    assert note == "no price of azure's own is known: the price of deepseek applies"


def test_shares_do_not_stack(book_of: BookOf) -> None:
    contract = (
        "{provider: openai, model: gpt-4o, kind: contract, rates: [{from: 2026-01-01, source: t, multiplier: 0.9}]}"
    )
    custom = "{provider: openai, model: gpt-4o, rates: [{from: 2026-01-01, source: t, multiplier: 0.5}]}"
    row = call("gpt-4o", provider="openai", input=10**6)
    assert priced_one(book_of(f"cards: [{custom}, {contract}]"), row) == exact("2.25")


@pytest.mark.parametrize(
    ("more", "row", "usd"),
    [
        ("usd_per_mtok: {input_image: 5}", {"input": 1000, "input_image": 1000}, "0.0077"),  # else it takes input's
        ("usd_per_mtok: {output: 5}", {"input": 1000, "reasoning": 1000}, "0.0077"),  # which takes output's
        ("usd_per_mtok: {input_image: 5}", {"input_image": 300_000}, "1.5"),  # at every step
        ("usd_per_web_search: 0.008", {"input": 1000, "web_searches": 1}, "0.0107"),  # instead of $0.01 less 10 %
        ("usd_per_request: 0.1", {"input": 1000}, "0.1027"),
        ("usd_per_unit: {code_execution_sessions: 0.03}", {"units": {"code_execution_sessions": 2}}, "0.06"),
    ],
)
def test_a_share_can_have_rates_of_its_own_beside_it(book_of: BookOf, more: str, row: dict[str, Any], usd: str) -> None:
    text = share(f"discount_percent: 10, {more}", top="service_tier: standard,")
    assert priced_one(book_of(text), call("claude-sonnet-4-5", provider="anthropic", **row)) == exact(usd)
    assert priced_one(corrected(text), call("claude-sonnet-4-5", provider="anthropic", **row)) == exact(usd)


FLEX = """
cards:
  - provider: google
    model: gemini-3.5-flash
    service_tier: flex
    rates: [{from: 2026-01-01, source: a page, multiplier: 0.5, of_service_tier: standard, buckets: [input, output]}]
"""


@pytest.mark.parametrize("book", [PriceBook(), None], ids=["without", "with"])
def test_a_tier_can_be_a_share_of_another_tier_s_price(book: PriceBook | None) -> None:
    """Gemini 3.5 Flash: $1.50, and flex half of it. The cache keeps its price of $0.15."""
    row = call("gemini-3.5-flash", provider="google", tier="flex", input=10**6, cache_read=10**6)
    if book is not None:
        assert priced_one(book, row)[:2] == (Decimal("1.65"), "substituted")
        return
    assert priced_one(corrected(FLEX), row) == exact("0.9")
    assert priced_one(PriceBook(entries_of(FLEX)), row) == exact("0.9")
    discount = FLEX.replace("service_tier: flex", "kind: contract").replace("of_service_tier: standard, ", "")
    assert priced_one(corrected(FLEX, discount), row) == exact("0.525")  # half of the corrected flex price


def test_a_share_of_no_price_is_no_price(book_of: BookOf) -> None:
    book = book_of(share("discount_percent: 15", "*"))
    row = call("no-such-model", provider="anthropic", input=1)
    assert priced_one(book, row) == (None, "", "")
    why = book.why_unpriced("anthropic", "no-such-model")
    assert why.startswith("your card is a share of the public price, and there is none: ")


# names and sellers


@pytest.mark.parametrize(
    ("provider", "model", "note"),
    [
        ("azure", "DeepSeek-Reasoner", "no price of azure's own is known: the price of deepseek applies"),
        ("azure", "gpt-4o", ""),  # https://azure.microsoft.com/pricing/details/azure-openai: OpenAI's list price
        ("openrouter", "x-ai/grok-4", ""),  # https://openrouter.ai/docs/faq: no markup
        ("anthropic", "claude-opus-4-8-future", "the name only begins like claude-opus-4-8, whose price applies"),
        ("anthropic", "claude-3-5-sonnet-latest", "the name only begins like claude-3-5-sonnet, whose price applies"),
        ("anthropic", "claude-opus-4-8-20260101", ""),
        ("anthropic", "claude-opus-4-8@20260101", ""),
        ("anthropic", "claude-3-5-haiku-latest", ""),  # listed under that very name
        ("anthropic", "claude-sonnet-4-20250514", ""),  # listed as claude-sonnet-4-2025…
        ("google", "claude-opus-4@20250514", ""),  # listed as …claude-opus-4@…
        ("google", "gemini-1.5-flash-8b-001", "the name only begins like gemini-1.5-flash, whose price applies"),
        ("openai", "gpt-5-nano-2025-08-07", ""),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", ""),
        ("google", "gemini-2.5-flash-preview-09-2025", ""),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", ""),
    ],
)
def test_a_price_that_is_another_s_says_so(public_book: PriceBook, provider: str, model: str, note: str) -> None:
    usd, quality, found = priced_one(public_book, call(model, provider=provider, input=10**3))
    assert usd
    assert (quality, found) == ("substituted" if note else "exact", note)


def test_the_worst_of_several_doubts_is_the_quality(public_book: PriceBook) -> None:
    row = call("claude-opus-4-8-new", provider="anthropic", tier="flex", input=1, units={"pages": 1}, context_step=9)
    usd, quality, note = priced_one(public_book, row)
    assert (usd, quality) == (Decimal("0.000005"), "partial")
    assert note.split("; ") == [
        "the name only begins like claude-opus-4-8, whose price applies",
        "no flex rate for claude-opus-4-8: standard",
        "no step above 9 input tokens is known",
        "no rate for pages",
    ]


def test_notes_of_a_batch_stay_with_their_calls(public_book: PriceBook) -> None:
    rows = [
        call("gpt-4o", provider="openai", input=1),
        call("claude-opus-4-8-new", provider="anthropic", input=1, web_searches=1),
        call("gpt-4o", provider="openai", tier="flex", input=1, context_step=5),
        call("no-such", provider="openai", tier="flex", input=1, context_step=5),
        call("gpt-4o", provider="openai", input=1, context_step=5, units={"pages": 1}),
    ]
    batch: PricedColumns = public_book.price(frame(*rows))
    alone = [priced_one(public_book, row) for row in rows]
    found = [(PRICE_QUALITIES[q], batch.note_texts[n]) for q, n in zip(batch.quality, batch.notes, strict=True)]
    assert found == [(quality, note) for _, quality, note in alone]
    assert found[0] == ("exact", "")
    assert found[3] == ("", "")
