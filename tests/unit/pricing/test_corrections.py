"""The package's corrections of the public prices: each has a source, says something new, and changes nothing else."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

import pytest
from genai_prices.data import providers

from spendstream.core.pricing import PriceBook
from spendstream.core.pricing.book import packaged_corrections
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rate_card import RegionAdjustment, TokenCard
from tests.unit.pricing.conftest import call, frame

BOOK = PriceBook.load()
UNCORRECTED = PriceBook()
THE_20TH = datetime(2026, 11, 20, 12, tzinfo=UTC)
LISTED = [(provider.id, model.id) for provider in providers for model in provider.models]
CARDS = [entry for entry in packaged_corrections() if isinstance(entry, TokenCard)]


def usd(book: PriceBook, row: dict[str, Any]) -> tuple[Decimal | None, str]:
    priced = book.price(frame(row))
    cost = Decimal(int(priced.total_pusd[0])).scaleb(-12) if priced.priced[0] else None
    return cost, priced.cards[priced.card[0]].source if priced.card[0] >= 0 else ""


@pytest.mark.parametrize(
    ("expected", "row"),
    [
        # https://platform.claude.com/docs/en/manage-claude/data-residency: 1.1 x on all tokens
        ("0.0002409", call("claude-sonnet-4-6", provider="anthropic", geo="us", input=8, output=13)),
        ("0.000219", call("claude-sonnet-4-6", provider="anthropic", geo="global", input=8, output=13)),
        ("0.000219", call("claude-sonnet-4-5", provider="anthropic", geo="us", input=8, output=13)),  # before 4.6
        ("0.0033", call("claude-opus-5", provider="anthropic", geo="us", cache_read=1_000, output=100)),
        # https://developers.openai.com/api/docs/guides/data-residency: 1.1 x for models since 2026-03-05
        ("0.00275", call("gpt-5.4", provider="openai", geo="eu", input=1_000)),
        ("0.0025", call("gpt-5.4", provider="openai", input=1_000, region="us-east-1")),  # the service's own region
        ("0.00125", call("gpt-5", provider="openai", geo="eu", input=1_000)),
        # Vertex AI beside its global endpoint
        ("0.00264", call("gemini-3.5-flash", provider="vertex_ai", region="us-central1", input=1_000, output=100)),
        ("0.0024", call("gemini-3.5-flash", provider="vertex_ai", region="global", input=1_000, output=100)),
        ("0.0003", call("gemini-2.5-flash", provider="vertex_ai", region="us-central1", input=1_000)),
        ("0.0033", call("claude-sonnet-4-6", provider="vertex_ai", region="europe-west1", input=1_000)),
        ("0.003", call("claude-sonnet-4@20250514", provider="vertex_ai", region="europe-west1", input=1_000)),
        # Gemini's tiers
        ("0.00092775", call("gemini-3.5-flash", provider="vertex_ai", tier="flex", input=7, output=205)),
        ("0.00333990", call("gemini-3.5-flash", provider="google", tier="priority", input=7, output=205)),
        ("0.00103", call("gemini-2.5-flash", provider="google", tier="flex", cache_read=1_000, output=800)),
        # Azure's own list
        ("0.0748", call("DeepSeek-V3.2", provider="azure", input=100_000, output=10_000)),
        ("0.026312", call("DeepSeek-V3.2", provider="deepseek", input=100_000, output=10_000)),
        # Bedrock
        ("0.005", call("openai.gpt-oss-20b-1:0", provider="aws", tier="flex", input=100_000, output=10_000)),
        ("0.00000552", call("qwen.qwen3-next-80b-a3b", provider="aws", region="eu-west-1", input=15, output=2)),
        ("0.00000465", call("qwen.qwen3-next-80b-a3b", provider="aws", region="us-west-2", input=15, output=2)),
        ("0.00000465", call("qwen.qwen3-next-80b-a3b", provider="aws", input=15, output=2)),
        ("0.0055005", call("global.anthropic.claude-sonnet-4-6", provider="aws", tier="batch", input=667, output=600)),
        # 1.1 x in xAI's US region and Azure's data zones, 1.25 x in one country at Together; Groq's flex is standard
        ("0.0022", call("grok-4.6", provider="x-ai", geo="us", input=1_000)),
        ("0.001375", call("gpt-5", provider="azure", geo="eu", input=1_000)),
        ("0.00015", call("openai/gpt-oss-120b", provider="groq", tier="flex", input=1_000)),
        # Databricks, Voyage behind another name, and an alias of xAI's
        ("0.00003", call("databricks-claude-sonnet-4-5", provider="databricks", input=10)),
        ("0.00006", call("voyage-4", provider="openai-compatible", input=1_000)),
        ("0.0128", call("grok-4-latest", provider="x-ai", input=2_240, units={"social_searches": 2})),
        # Rerankings, by the search and by the token
        ("0.006", call("rerank-v3.5", provider="cohere", units={"search_units": 3})),
        ("0.0025", call("rerank-v4.0-pro", provider="cohere", units={"search_units": 1})),
        ("0.002", call("cohere.rerank-v3-5:0", provider="aws", units={"search_units": 1})),
        ("0.001", call("amazon.rerank-v1:0", provider="aws", units={"search_units": 1})),
        ("0.00005", call("rerank-2.5", provider="voyage", input=1_000)),
    ],
)
def test_a_correction_gives_the_sellers_amount(expected: str, row: dict[str, Any]) -> None:
    assert usd(BOOK, row | {"priced_at_us": int(THE_20TH.timestamp()) * 1_000_000})[0] == Decimal(expected)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-09-11T00:59:59", "0.021"),  # Friday, a second before the peak
        ("2026-09-11T01:00:00", "0.042"),
        ("2026-09-11T04:00:00", "0.021"),
        ("2026-09-11T09:59:59", "0.042"),
        ("2026-09-12T02:00:00", "0.021"),  # Saturday
        ("2026-09-13T07:00:00", "0.021"),  # Sunday
        ("2026-09-14T07:00:00", "0.042"),  # Monday
        ("2026-08-21T02:00:00", "0.0572"),  # Friday, at the rates of August
        ("2026-08-22T02:00:00", "0.0572"),  # Saturday, before the rule
        ("2026-08-23T02:00:00", "0.0286"),  # Sunday, its first day
        ("2026-10-01T02:00:00", "0.021"),  # Thursday, national day
        ("2026-10-08T02:00:00", "0.042"),
    ],
)
def test_deepseek_has_no_peak_at_the_weekend_or_on_a_holiday(at: str, expected: str) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    row = call("deepseek-v4-flash", provider="deepseek", at=moment, input=100_000, output=10_000)
    assert usd(BOOK, row)[0] == Decimal(expected)


def test_every_correction_names_a_source_that_can_be_looked_up() -> None:
    for entry in packaged_corrections():
        dated = [entry] if isinstance(entry, RegionAdjustment) else getattr(entry, "rates", [])
        for each in dated:
            assert "https://" in each.source or each.source.startswith("AWS price list, offers/"), entry


def test_no_correction_says_what_the_price_book_says() -> None:
    """One that does can go. On a Friday noon and a Saturday night: hours may be all that a correction is about."""
    same = []
    for card in CARDS:
        if card.region is not None:  # the book has no prices of single regions
            continue
        tier = card.service_tier or "standard"
        usage: dict[str, Any] = {"input": 1_000, "output": 1_000, "cache_read": 1_000}
        if card.provider in ("cohere", "voyageai") or "rerank" in card.model:
            usage = {bucket: 1_000 for entry in card.rates for bucket in entry.usd_per_mtok or {}}
            usage["units"] = {unit: 1 for entry in card.rates for unit in entry.usd_per_unit or {}}
        like = [m for p, m in LISTED if p == card.provider and fnmatchcase(m.lower(), card.model.lower())]
        noon = [
            call(model, provider=card.provider, tier=tier, at=THE_20TH, **usage)
            for model in (like if "*" in card.model else [card.model])
        ]
        rows = frame(*noon, *(row | {"priced_at_us": row["priced_at_us"] + 14 * 3_600_000_000} for row in noon))
        ours, book = BOOK.price(rows), UNCORRECTED.price(rows)
        if all((ours.total_pusd == book.total_pusd) & (ours.quality == book.quality)):
            same.append((card.provider, card.model, tier))
    assert same == []


def test_only_calls_that_a_correction_is_for_cost_something_else() -> None:
    rng = random.Random(5)
    rows = []
    for provider, model in rng.choices(LISTED, k=4_000):
        tokens = {bucket: rng.choice((0, 0, 7, 1_000)) for bucket in TOKEN_BUCKETS} | {"input": 100}
        at = datetime(2025, 6, 1, tzinfo=UTC) + timedelta(hours=rng.randrange(12_000))
        tier = rng.choice(("standard", "standard", "batch", "flex", "priority"))
        place = {"region": rng.choice(("", "eu-west-1", "us-central1", "global")), "geo": rng.choice(("", "us"))}
        rows.append(call(model, provider=provider, tier=tier, at=at, **place, **tokens))
    ours, book = BOOK.price(frame(*rows)), UNCORRECTED.price(frame(*rows))
    changed = 0
    for n, row in enumerate(rows):
        if (ours.priced[n], ours.total_pusd[n]) == (book.priced[n], book.total_pusd[n]):
            continue
        changed += 1
        rates = ours.sets[ours.card[n]]
        assert rates.source == "correction" or rates.multipliers, row
    assert changed > 20
