"""The price book: own rate cards over the public prices, and which rates apply to a call."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, Self

import polars as pl

from spendstream.core.pricing.cards import Entry, aliases_of, compile_cards, read_cards
from spendstream.core.pricing.choose import Chooser, Key
from spendstream.core.pricing.history import History
from spendstream.core.pricing.price import PricedColumns, price
from spendstream.core.pricing.public import Exclusion, PublicPrices
from spendstream.core.pricing.rates import (
    DAY_US,
    NO_RATE,
    PICO_PER_USD,
    TOKENS_PER_MTOK,
    UNKNOWN,
    CardRef,
    RateSet,
    RateTable,
    Timeline,
    instant,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The rates in force for a model at a time: what ``spendstream rates show`` prints. Amounts are exact, in USD."""

    card: CardRef | None
    """None if no card prices the model; its calls are unpriced."""
    valid_from: datetime | None
    valid_until: datetime | None
    """When the next known rates replace these."""
    usd_per_mtok: dict[str, Decimal]
    """By token bucket, per million tokens. A call that uses an absent bucket is unpriced."""
    priced_as: dict[str, str]
    """Buckets without a rate of their own → the rate they take: ``{"reasoning": "output"}``."""
    above_input_tokens: int
    """The rates apply to calls with more input than this; 0 if to all."""
    tiers: tuple[int, ...]
    """All sizes of input above which other rates apply."""
    usd_per_request: Decimal | None
    usd_per_web_search: Decimal | None
    usd_per_gpu_hour: Decimal | None
    """Of all GPUs of the deployment together."""
    notes: tuple[str, ...]


class PriceBook:
    """Prices of model calls: contract > custom > public > unpriced, by the date of the call.

    Rates are compiled when first needed, then remembered; threads that price take turns.
    """

    def __init__(self, entries: Sequence[Entry] = (), history: History | None = None) -> None:
        """``history``: public prices of the past; by default those in the package."""
        self._turn = threading.Lock()
        self._table = RateTable()
        self._public = PublicPrices(self._table.intern, history)
        self._chooser = Chooser(compile_cards(entries, self._table.intern), self._public, aliases_of(entries))

    @classmethod
    def load(cls, paths: Sequence[Path] = ()) -> Self:
        """Return a price book with your own cards and aliases from YAML files, or directories of them.

        Raises: RateCardError.
        """
        return cls(read_cards(paths))

    def price(self, calls: pl.DataFrame) -> PricedColumns:
        """Price each call at the rates in force when it was requested.

        Buckets are disjoint, so a cost is a sum: 2,000 input tokens at $3 per million, 500 visible and 1,500
        reasoning tokens at $15 cost $0.0360, which is 36,000,000,000 pico-dollars.

        Columns, none of them null: text or categorical ``provider``, ``model_requested``, ``model_served``,
        ``service_tier``, ``region``, ``deployment``, "" where absent; Int64 ``priced_at_us`` (UTC, epoch µs),
        ``<bucket>_tokens`` of each token bucket, ``web_searches`` and ``gpu_us`` (time that the deployment was busy),
        0 where absent and never negative. Other columns are ignored.
        """
        with self._turn:
            return price(calls, self._chooser, self._table)

    def explain(
        self,
        provider: str,
        model: str,
        *,
        at: datetime,
        service_tier: str = "standard",
        region: str = "",
        deployment: str = "",
        total_input_tokens: int = 0,
    ) -> Explanation:
        """Return which card prices such calls at a time, where the card is from, and its rates."""
        key = Key(provider, "", model, service_tier, region, deployment)
        at_us = (at - _EPOCH) // timedelta(microseconds=1)
        timeline = self._chooser.choose(key).billed
        if timeline.at(at_us) == UNKNOWN:
            return Explanation(None, None, None, {}, {}, 0, (), None, None, None, (self.why_unpriced(provider, model),))
        return _explain(
            self._table.sets,
            timeline,
            at_us,
            service_tier,
            total_input_tokens,
            self._chooser.names(provider, model).seller,
        )

    def why_unpriced(self, provider: str, model: str) -> str:
        """Return why no card prices calls of a model, in a sentence without a full stop."""
        why = self._public.why_unlisted(self._chooser.names(provider, model))
        return why or "no rates are known for that date"

    def nearest(self, provider: str, model: str) -> tuple[str, ...]:
        """Return up to three listed names that look most like a model's, as ``provider model``: hints, not matches."""
        return self._public.nearest(self._chooser.names(provider, model))

    def cards(self) -> tuple[CardRef, ...]:
        """Return all cards, your own first, one entry for each date and service tier. Compiles all public prices."""
        self._public.compile_all()
        return tuple(dict.fromkeys(rate_set.ref for rate_set in self._table.sets[UNKNOWN + 1 :]))

    def exclusions(self) -> tuple[Exclusion, ...]:
        """Return the public prices that can't be used, and why. Compiles all of them."""
        return self._public.compile_all()


def _explain(
    sets: list[RateSet], timeline: Timeline, at_us: int, tier: str, total_input: int, seller: str
) -> Explanation:
    """Explain the rate set in force on a timeline at an instant, for calls of this much input."""
    index = timeline.at(at_us)
    chosen = sets[index]
    rates = {bucket: chosen.rate(bucket, total_input) for bucket in TOKEN_BUCKETS}
    end = timeline.end_of(at_us)
    while end is not None and timeline.at(end + at_us % DAY_US) == index:
        end = timeline.end_of(end)
    notes = [f"estimated: {chosen.estimated}"] if chosen.estimated else []
    if chosen.gpu_hour is None and tier != chosen.tier_applied:
        notes.append(f"no {tier} price is known: the {chosen.tier_applied} rates apply")
    if chosen.source == "genai-prices" and chosen.provider != seller:
        notes.append(f"no price of {seller}'s own is known: the price of {chosen.provider} applies")
    if timeline.slots_us:
        notes.append("the price depends on the time of day (UTC)")
    if unrated := [bucket for bucket in TOKEN_BUCKETS if chosen.rate(bucket) == NO_RATE]:
        notes.append("calls that use these are unpriced: " + ", ".join(unrated))
    return Explanation(
        card=chosen.ref,
        valid_from=chosen.ref.valid_from,
        valid_until=None if end is None else instant(end),
        usd_per_mtok={bucket: _usd(rate * TOKENS_PER_MTOK) for bucket, rate in rates.items() if rate != NO_RATE},
        priced_as={bucket: rate for bucket, rate in chosen.priced_as.items() if rate != bucket},
        above_input_tokens=max((start for start in chosen.thresholds if total_input > start), default=0),
        tiers=chosen.thresholds,
        usd_per_request=_usd(chosen.request) if chosen.request else None,
        usd_per_web_search=None if chosen.web_search == NO_RATE else _usd(chosen.web_search),
        usd_per_gpu_hour=None if chosen.gpu_hour is None else _usd(chosen.gpu_hour),
        notes=tuple(notes),
    )


def _usd(pusd: int) -> Decimal:
    return (Decimal(pusd) / PICO_PER_USD).normalize() + Decimal(0)
