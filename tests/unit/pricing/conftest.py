"""The world of the pricing tests: calls as rows, cards as YAML text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spendstream.core.pricing import PriceBook
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from spendstream.schemas.units import units_text

MID_NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)

CARD = """
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2026-01-01
        source: test
        usd_per_mtok: {%s}
"""


def call(
    model: str = "acme-1",
    *,
    provider: str = "acme",
    requested: str = "",
    tier: str = "standard",
    region: str = "",
    geo: str = "",
    capacity: str = "on_demand",
    context_step: int | None = None,
    units: Mapping[str, object] | None = None,
    deployment: str = "",
    at: datetime = MID_NOVEMBER,
    web_searches: int = 0,
    gpu_us: int | None = None,
    **tokens: int,
) -> dict[str, Any]:
    """Return one call as a row; ``tokens`` by bucket: ``call(input=600, cache_read=400)``."""
    assert tokens.keys() <= set(TOKEN_BUCKETS), tokens
    return {
        "provider": provider,
        "model_requested": requested,
        "model_served": model,
        "service_tier": tier,
        "region": region,
        "inference_geo": geo,
        "capacity": capacity,
        "context_step": context_step,
        "units": units_text({unit: Decimal(str(quantity)) for unit, quantity in (units or {}).items()}),
        "deployment": deployment,
        "priced_at_us": int(at.timestamp()) * 1_000_000 + at.microsecond,
        **{tokens_field(bucket): tokens.get(bucket, 0) for bucket in TOKEN_BUCKETS},
        "web_searches": web_searches,
        "gpu_us": gpu_us,
    }


def frame(*calls: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(
        [dict(row) for row in calls],
        schema_overrides={"context_step": pl.Int64, "units": pl.String, "gpu_us": pl.Int64},
        infer_schema_length=None,
    )


def price_one(book: PriceBook, row: Mapping[str, Any]) -> tuple[int | None, dict[str, int]]:
    """Return (pico-dollars or None if unpriced, pico-dollars by bucket) of a single call."""
    priced = book.price(frame(row))
    by_bucket = {bucket: int(amounts[0]) for bucket, amounts in priced.by_bucket.items() if amounts[0]}
    return (int(priced.total_pusd[0]) if priced.priced[0] else None), by_bucket


@pytest.fixture
def book_of(tmp_path: Path) -> Callable[[str], PriceBook]:
    """Return a maker of price books with own cards from YAML text."""

    def make(text: str) -> PriceBook:
        file = tmp_path / "cards.yaml"
        file.write_text(text)
        return PriceBook.load([file])

    return make


@pytest.fixture(scope="session")
def public_book() -> PriceBook:
    return PriceBook.load([])
