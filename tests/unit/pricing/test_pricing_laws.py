"""Laws: calls cost what the price book calculates, however they are batched."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from genai_prices import Usage
from genai_prices.data import providers
from genai_prices.units import _get_registry
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.pricing import PriceBook
from spendstream.core.pricing.history import History, packaged_history
from spendstream.core.pricing.public import CONTEXT, variants
from spendstream.core.pricing.rates import BUCKET_DIMENSIONS, RATE_DIMENSIONS
from spendstream.schemas.buckets import COST_BUCKETS, INPUT_BUCKETS, TOKEN_BUCKETS, tokens_field
from tests.unit.pricing.conftest import MID_NOVEMBER, call, frame

SEED = 20261123
CASES = 12_000
SIZES = (0, 0, 0, 1, 7, 999, 31_999, 32_000, 99_999, 128_000, 200_000, 200_001, 1_000_003)

UNITS = {
    "cache_read": "cache_read_tokens",
    "cache_write_5m": "cache_write_5m_tokens",
    "cache_write_1h": "cache_write_1h_tokens",
    "cache_read_audio": "cache_audio_read_tokens",
    "cache_read_image": "cache_image_read_tokens",
    "input_video": "input_video_tokens",
    "reasoning": "output_reasoning_tokens",
    "output_audio": "output_audio_tokens",
    "output_image": "output_image_tokens",
    "output_video": "output_video_tokens",
}


BILLABLE = {
    "audio_seconds": "audio_seconds",
    "input_audio_seconds": "input_audio_seconds",
    "characters": "input_characters",
    "pages": "input_document_pages",
    "annotated_pages": "input_annotated_document_pages",
    "text_messages": "input_text_messages",
    "file_searches": "storage_searches",
    "citation_tokens": "output_citation_tokens",
}
"""Our units → the price book's."""


def usage_of(tokens: dict[str, int], web_searches: int, units: dict[str, Decimal]) -> Usage:
    """Return the same usage in the price book's words, where a whole contains its parts."""
    nothing = {unit: 0 for unit in _get_registry().units if unit.endswith("_tokens")}
    billable = {name: units.get(unit, Decimal(0)) for unit, name in BILLABLE.items()}
    billable["audio_seconds"] += units.get("input_audio_seconds", Decimal(0))
    billable["input_document_pages"] += units.get("annotated_pages", Decimal(0))
    citations = billable.pop("output_citation_tokens")
    inside: dict[str, int] = {unit: tokens[bucket] for bucket, unit in UNITS.items()}
    whole_input = sum(tokens[bucket] for bucket in INPUT_BUCKETS)
    writes = sum(tokens[bucket] for bucket in ("cache_write", "cache_write_5m", "cache_write_1h"))
    return Usage(
        **{
            **nothing,
            **inside,
            **billable,
            "input_tokens": whole_input,
            "output_tokens": sum(tokens.values()) - whole_input + citations,
            "output_citation_tokens": citations,
            "cache_read_tokens": tokens["cache_read"] + tokens["cache_read_audio"] + tokens["cache_read_image"],
            "input_image_tokens": tokens["input_image"] + tokens["cache_read_image"],
            "input_audio_tokens": tokens["input_audio"] + tokens["cache_read_audio"],
            "cache_write_tokens": writes,
        },
        web_searches=web_searches,
    )


BY_UNIT = [
    (provider, model)
    for provider in providers
    for model in provider.models
    for price in (model.prices if isinstance(model.prices, list) else [model])
    if any(not key.endswith("_mtok") and not key.endswith("_kcount") for key in price.prices.__dict__)
]


FAST = [
    (provider, model)
    for provider in providers
    for model in provider.models
    if any("fast" in variant.when.values() for variant in model.price_variants or ())
]


def random_case(rng: random.Random) -> tuple[Any, Any, dict[str, Any], Usage]:
    provider = rng.choice(providers)
    model = rng.choice([m for m in provider.models if m.price_variants] or provider.models)
    if rng.random() < 0.7:
        model = rng.choice(provider.models)
    if rng.random() < 0.05:
        provider, model = rng.choice(BY_UNIT)
    elif rng.random() < 0.03:
        provider, model = rng.choice(FAST)
    tokens: dict[str, Any] = {bucket: rng.choice(SIZES) * rng.randint(0, 1) for bucket in TOKEN_BUCKETS}
    tokens["input"] = rng.choice(SIZES)
    if (provider, model) in BY_UNIT and rng.random() < 0.7:
        tokens = dict.fromkeys(TOKEN_BUCKETS, 0)
    searches = rng.choice((0, 0, 0, 3))
    at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(2 * 365 * 86_400))
    tier = rng.choice(("standard", "standard", "batch", "flex", "priority", "fast"))
    units = random_units(rng, model)
    row = call(model.id, provider=provider.id, tier=tier, at=at, web_searches=searches, units=units, **tokens)
    return provider, model, row, usage_of(tokens, searches, units)


def random_units(rng: random.Random, model: Any) -> dict[str, Decimal]:
    """Draw a unit that the model is billed by, if any; now and then one that it may not be billed by."""
    prices = [*(model.prices if isinstance(model.prices, list) else [model]), *(model.price_variants or ())]
    priced = {key for price in prices for key in price.prices.__dict__}
    known = [unit for unit, name in BILLABLE.items() if _get_registry().units[name].price_key in priced]
    if rng.random() < 0.03:
        known = [
            unit for unit in BILLABLE if unit != "citation_tokens"
        ]  # where free, the price book takes them for output
    if not known or rng.random() < 0.2:
        return {}
    unit = rng.choice(known)
    whole = rng.choice((1, 7, 11, 3600, 100_003))
    return {unit: whole + (Decimal(rng.randrange(1000)) / 1000 if unit.endswith("_seconds") else 0)}


def rounding_of(found: Any, row: dict[str, Any]) -> Decimal:
    """Return by how much a sum of rounded costs may differ from the exact sum: 0 at rates of whole pico-dollars."""
    prices = found.get_prices(at_of(row), CONTEXT[row["service_tier"]] or None).__dict__
    of_unit = {unit.price_key: unit for unit in _get_registry().units.values()}
    is_fine = False
    for key, price in prices.items():
        for rate in [price] if isinstance(price, Decimal) else [price.base, *(tier.price for tier in price.tiers)]:
            unit = of_unit[key]
            scale = 1 if unit.dimensions["family"] in ("tokens", "requests", "tool_calls") else 1000  # seconds have 3
            is_fine |= (rate * 10**12) % (unit.per * scale) != 0
    return Decimal("0.5e-12") * (len(TOKEN_BUCKETS) + 3) if is_fine else Decimal(0)


def listed_prices(cases: list[tuple[Any, Any, dict[str, Any], Usage]]) -> Iterator[tuple[Any, Any, Decimal]]:
    """Yield who lists the model of each case, the model, and the book's own amount; the model is None if unknown."""
    for provider, _, row, usage in cases:
        found = provider.find_model(row["model_served"], all_providers=providers)
        if found is None:
            yield provider, None, Decimal(0)
            continue
        expected = found.calc_price(
            usage, provider, genai_request_timestamp=at_of(row), price_context=CONTEXT[row["service_tier"]] or None
        ).total_price
        yield next(p for p in providers if any(m is found for m in p.models)), found, expected


def at_of(row: dict[str, Any]) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row["priced_at_us"])


def test_every_priced_call_costs_what_the_price_book_calculates() -> None:
    """Exact equality of Decimals, but for the rounding of rates finer than a pico-dollar.

    Models are found by id; an id can also match another model's pattern. A call that is partly priced costs what the
    price book calculates too: it charges nothing for what has no price.
    """
    rng = random.Random(SEED)
    cases = [random_case(rng) for _ in range(CASES)]
    priced = PriceBook(history=History()).price(frame(*(row for *_, row, _ in cases)))
    compared = rounded = with_units = fast = 0
    for index, (_, found, expected) in enumerate(listed_prices(cases)):
        if found is None or not priced.priced[index]:
            continue
        rounding = rounding_of(found, cases[index][2])
        actual = Decimal(int(priced.total_pusd[index])) / 10**12
        assert abs(actual - expected) <= rounding, cases[index]
        compared += rounding == 0
        rounded += rounding != 0
        with_units += bool(priced.unit_costs.get(index))
        fast += bool(priced.cards[priced.card[index]].tier_applied == "fast")
    assert compared > 6_000
    assert rounded > 50
    assert with_units > 200
    assert fast > 15


def test_a_call_costs_something_else_only_where_the_history_says_so() -> None:
    """Otherwise it costs what the book calculates: on every day, and today for every model with a history."""
    rng = random.Random(SEED + 2)
    cases = [random_case(rng) for _ in range(CASES)]
    history = packaged_history()
    for provider, model in dict.fromkeys([*history.periods, *history.series]):
        tokens: dict[str, Any] = dict.fromkeys(TOKEN_BUCKETS, 0) | {"input": 1_000, "output": 7}
        row = call(model, provider=provider, at=MID_NOVEMBER, **tokens)
        cases.append((next(p for p in providers if p.id == provider), None, row, usage_of(tokens, 0, {})))
    priced = PriceBook().price(frame(*(row for *_, row, _ in cases)))
    compared = other = 0
    for index, (lister, found, expected) in enumerate(listed_prices(cases)):
        if found is None or not priced.priced[index]:
            continue
        row = cases[index][2]
        context = CONTEXT[row["service_tier"]]
        if history.past(lister.id, found).differs(at_of(row), context, variants(found, context)):
            other += 1
            continue
        actual = Decimal(int(priced.total_pusd[index])) / 10**12
        assert abs(actual - expected) <= rounding_of(found, row), cases[index]
        compared += 1
    assert compared > 6_000
    assert other > 200


def test_a_call_is_unpriced_only_if_the_price_book_has_no_exact_rate_for_what_it_uses(
    public_book: PriceBook,
) -> None:
    """Without the buckets that have no rate, the same calls are priced; there are no other reasons."""
    rng = random.Random(SEED + 1)
    rows = [row for *_, row, _ in (random_case(rng) for _ in range(2_000))]
    first = public_book.price(frame(*rows))
    fixed = []
    for index, row in enumerate(rows):
        absent = set(first.missing_buckets(index))
        none = {tokens_field(bucket): 0 for bucket in absent & set(TOKEN_BUCKETS)}
        fixed.append({**row, **none})
    second = public_book.price(frame(*fixed))
    excluded = {(e.provider, e.model) for e in public_book.exclusions() if e.what == "model"}
    for index, row in enumerate(rows):
        if not second.priced[index]:
            provider = next(p for p in providers if p.id == row["provider"])
            found = provider.find_model(row["model_served"], all_providers=providers)
            is_by_units = "units" in second.missing_buckets(index)
            assert found is None or is_by_units or any(found.id == model for _, model in excluded), row
    assert second.priced.mean() > 0.85


def test_a_rate_covers_what_the_price_book_s_unit_covers() -> None:
    units = {frozenset(unit.dimensions.items()) for unit in _get_registry().units.values()}
    assert set(RATE_DIMENSIONS) == set(BUCKET_DIMENSIONS) == set(TOKEN_BUCKETS)
    assert set(RATE_DIMENSIONS.values()) <= units


CALLS = st.builds(
    call,
    st.sampled_from(["claude-sonnet-4-5", "gpt-4o", "gpt-4.1", "deepseek-chat", "sonar", "whisper-1", "nobody"]),
    provider=st.sampled_from(["anthropic", "openai", "azure", "deepseek", "perplexity"]),
    requested=st.sampled_from(["", "gpt-4o", "gpt-4.1-mini", "claude-haiku-4-5"]),
    tier=st.sampled_from(["standard", "batch", "priority", "fast"]),
    region=st.sampled_from(["", "eu-west-1"]),
    at=st.integers(0, 70 * 86_400).map(lambda s: datetime(2026, 9, 1, tzinfo=UTC) + timedelta(seconds=s)),
    geo=st.sampled_from(["", "us", "global"]),
    capacity=st.sampled_from(["on_demand", "on_demand", "provisioned"]),
    context_step=st.sampled_from([None, None, 0, 200_000]),
    units=st.sampled_from([None, None, {"file_searches": 2}, {"audio_seconds": Decimal("7.25"), "pages": 1}]),
    web_searches=st.integers(0, 3),
    input=st.sampled_from([0, 1, 199_000, 200_000, 200_001, 10**8]),
    cache_read=st.integers(0, 2_000),
    cache_write=st.integers(0, 2),
    output=st.integers(0, 10**5),
    reasoning=st.integers(0, 10**5),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(CALLS, min_size=1, max_size=12), order=st.randoms(use_true_random=False))
def test_pricing_a_batch_is_pricing_its_calls_one_by_one_in_any_order(rows: list[dict[str, Any]], order: Any) -> None:
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    alone = PriceBook()
    together = PriceBook().price(frame(*(rows[index] for index in shuffled)))
    for position, index in enumerate(shuffled):
        one = alone.price(frame(rows[index]))
        for column in ("total_pusd", "priced", "unpriced_reason", "missing", "quality", "context_step"):
            assert getattr(together, column)[position] == getattr(one, column)[0], column
        assert together.note_texts[together.notes[position]] == one.note_texts[one.notes[0]]
        assert together.unit_costs.get(position) == one.unit_costs.get(0)
        for column in ("without_cache_pusd", "at_standard_tier_pusd", "with_requested_model_pusd"):
            assert getattr(together, column)[position] == getattr(one, column)[0], column
        together_card = together.cards[together.card[position]] if together.card[position] >= 0 else None
        assert together_card == (one.cards[one.card[0]] if one.card[0] >= 0 else None)
    parts = [together.by_bucket[bucket] for bucket in COST_BUCKETS if bucket in together.by_bucket]
    assert sum(parts, start=together.total_pusd * 0).tolist() == together.total_pusd.tolist()
