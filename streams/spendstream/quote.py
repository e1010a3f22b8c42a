"""What the rows of a file of usage cost, without Kafka: by the meter's own decoder and price book."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import polars as pl

from spendstream.core.decode import decode
from spendstream.core.money import usd_text
from spendstream.core.pricing import CardRef, PriceBook, Unpriced
from spendstream.intake import MAX_LINE_BYTES, Row, RowError, UsageRow
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from spendstream.schemas.measures import PRICE_QUALITIES

_BATCH_ROWS: Final = 10_000

_REASONS: Final = {
    Unpriced.PRICED: "",
    Unpriced.UNKNOWN_MODEL: "unknown_model",
    Unpriced.NO_RATE: "no_rate_for_bucket",
    Unpriced.TOO_LARGE: "too_large",
}


@dataclass(frozen=True, slots=True)
class Quote:
    """One call and what it costs. Amounts are integer pico-dollars (1e-12 USD), None if it has no price.

    ``by_bucket`` omits zeros. The counterfactuals are the cost of the same call without a cache, at the standard
    service tier, and with the requested model. ``file``, ``line`` and ``place`` are where the row stands, see ``Line``.
    """

    line: int
    file: str
    place: str
    event_id: str
    provider: str
    model: str
    tokens: dict[str, int]
    cost_pusd: int | None
    by_bucket: dict[str, int]
    without_cache_pusd: int | None
    at_standard_tier_pusd: int | None
    with_requested_model_pusd: int | None
    card: CardRef | None
    """What priced the call, or lacked a rate for it; None if no card prices the model."""
    price_quality: str
    """One of ``PRICE_QUALITIES``; "" if it has no price."""
    price_notes: tuple[str, ...]
    by_unit: dict[str, int]
    unpriced_reason: str
    missing_buckets: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the quote as JSON values: amounts as decimal text in USD, ``"0.036"``, null where unpriced."""
        return {
            "event_id": self.event_id,
            "provider": self.provider,
            "model": self.model,
            "cost_usd": _usd(self.cost_pusd),
            "cost_usd_by_bucket": {bucket: usd_text(cost) for bucket, cost in self.by_bucket.items()},
            "cost_usd_by_unit": {unit: usd_text(cost) for unit, cost in self.by_unit.items()},
            "cost_without_cache_usd": _usd(self.without_cache_pusd),
            "cost_at_standard_tier_usd": _usd(self.at_standard_tier_pusd),
            "cost_with_requested_model_usd": _usd(self.with_requested_model_pusd),
            "rate_card_id": self.card.id if self.card else "",
            "rate_source": self.card.source if self.card else "",
            "price_quality": self.price_quality or None,
            "price_notes": list(self.price_notes),
            "unpriced_reason": self.unpriced_reason,
            "missing_buckets": list(self.missing_buckets),
            "file": self.file,
            "line": self.line,
            "place": self.place or None,
        }


@dataclass
class ModelTotal:
    """Calls of one provider's model. ``cost_pusd`` is the cost of the priced ones, in pico-dollars."""

    calls: int = 0
    unpriced_calls: int = 0
    tokens: int = 0
    cost_pusd: int = 0
    sources: set[str] = field(default_factory=set)


@dataclass
class Totals:
    """Sums over quotes, by model and by bucket. Exact Python integers, in pico-dollars, for any number of calls."""

    models: dict[tuple[str, str], ModelTotal] = field(default_factory=dict)
    tokens_by_bucket: Counter[str] = field(default_factory=Counter)
    pusd_by_bucket: Counter[str] = field(default_factory=Counter)
    pusd_by_unit: Counter[str] = field(default_factory=Counter)
    inexact_calls: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    """Priced calls whose price isn't exact, by its quality and notes."""
    saved_by_cache_pusd: int = 0

    def add(self, quote: Quote) -> None:
        """Count a quote."""
        total = self.models.setdefault((quote.provider, quote.model), ModelTotal())
        total.calls += 1
        total.tokens += sum(quote.tokens.values())
        self.tokens_by_bucket.update(quote.tokens)
        if quote.cost_pusd is None:
            total.unpriced_calls += 1
            return
        total.cost_pusd += quote.cost_pusd
        total.sources.add(quote.card.source if quote.card else "")
        if quote.price_quality != "exact":
            self.inexact_calls[quote.price_quality, quote.price_notes] += 1
        self.pusd_by_bucket.update(quote.by_bucket)
        self.pusd_by_unit.update(quote.by_unit)
        self.saved_by_cache_pusd += (quote.without_cache_pusd or 0) - quote.cost_pusd

    @property
    def calls(self) -> int:
        return sum(total.calls for total in self.models.values())

    @property
    def unpriced_calls(self) -> int:
        return sum(total.unpriced_calls for total in self.models.values())

    @property
    def cost_pusd(self) -> int:
        return sum(total.cost_pusd for total in self.models.values())


@dataclass
class Covered:
    """Calls of one provider's model that were priced alike: by the same card, or not at all for the same reason."""

    provider: str
    model: str
    priced_as: str
    """Source, provider and model of the card; "" if no card prices the model."""
    unpriced_reason: str
    """"" if the calls have a price."""
    missing_buckets: tuple[str, ...]
    price_quality: str
    price_notes: tuple[str, ...]
    calls: int = 0
    tokens: int = 0


@dataclass
class Coverage:
    """Which models of a file have a price."""

    groups: dict[tuple[Any, ...], Covered] = field(default_factory=dict)

    def add(self, quote: Quote) -> None:
        """Count a quote."""
        card = quote.card
        priced_as = f"{card.source} {card.provider} {card.model}" if card else ""
        missing = quote.missing_buckets if quote.unpriced_reason else ()
        reasons = quote.unpriced_reason, missing, quote.price_quality, quote.price_notes
        group = Covered(quote.provider, quote.model, priced_as, *reasons)
        group = self.groups.setdefault((quote.provider, quote.model, priced_as, *reasons), group)
        group.calls += 1
        group.tokens += sum(quote.tokens.values())

    def listed(self) -> list[Covered]:
        """Return the groups without a price first, then by tokens, most first."""
        return sorted(self.groups.values(), key=lambda group: (not group.unpriced_reason, -group.tokens, -group.calls))


def quote_rows(rows: Iterable[Row], book: PriceBook) -> Iterator[Quote | RowError]:
    """Yield a quote for each event, and each error unchanged, in order within batches of 10,000 rows.

    Errors of a batch come before its quotes.
    """
    stream = iter(rows)
    while batch := list(islice(stream, _BATCH_ROWS)):
        yield from (row for row in batch if isinstance(row, RowError))
        events = [row for row in batch if isinstance(row, UsageRow)]
        if events:
            yield from _quotes(events, book)


def _quotes(events: list[UsageRow], book: PriceBook) -> Iterator[Quote]:
    decoded = decode([event.value for event in events], MAX_LINE_BYTES)
    assert not decoded.rejected, "a row was checked by the same contract"
    asked = pl.coalesce("requested_at_us", "occurred_at_us").alias("priced_at_us")
    calls = decoded.calls.with_columns(asked)
    costs = book.price(calls)
    shown = calls.select(
        "id_hi",
        "id_lo",
        "provider",
        model=pl.when(pl.col("model_served") == "").then("model_requested").otherwise("model_served"),
    )
    tokens = calls.select(map(tokens_field, TOKEN_BUCKETS)).rows()
    buckets = [(bucket, amounts.tolist()) for bucket, amounts in costs.by_bucket.items() if amounts.any()]
    for i, (hi, lo, provider, model) in enumerate(shown.iter_rows()):
        priced, card = bool(costs.priced[i]), int(costs.card[i])
        yield Quote(
            line=events[i].line,
            file=events[i].file,
            place=events[i].place,
            event_id=str(uuid.UUID(int=(hi << 64) | lo)),
            provider=provider,
            model=model,
            tokens={bucket: count for bucket, count in zip(TOKEN_BUCKETS, tokens[i], strict=True) if count},
            cost_pusd=int(costs.total_pusd[i]) if priced else None,
            by_bucket={bucket: amounts[i] for bucket, amounts in buckets if amounts[i]},
            without_cache_pusd=int(costs.without_cache_pusd[i]) if priced else None,
            at_standard_tier_pusd=int(costs.at_standard_tier_pusd[i]) if priced else None,
            with_requested_model_pusd=int(costs.with_requested_model_pusd[i]) if priced else None,
            card=costs.cards[card] if card >= 0 else None,
            price_quality=PRICE_QUALITIES[costs.quality[i]],
            price_notes=tuple(filter(None, costs.note_texts[costs.notes[i]].split("; "))),
            by_unit=costs.unit_costs.get(i, {}),
            unpriced_reason=_REASONS[Unpriced(int(costs.unpriced_reason[i]))],
            missing_buckets=costs.missing_buckets(i),
        )


def _usd(pusd: int | None) -> str | None:
    return None if pusd is None else usd_text(pusd)
