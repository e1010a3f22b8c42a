"""The price book: own rate cards over the public prices, and which rates apply to a call."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import polars as pl

from spendstream.core.pricing.cards import Entry, compile_cards, read_cards
from spendstream.core.pricing.choose import Chooser, Key
from spendstream.core.pricing.history import History
from spendstream.core.pricing.price import PricedColumns, price
from spendstream.core.pricing.public import Exclusion, PublicPrices
from spendstream.core.pricing.published import PublishedBook, read_kept
from spendstream.core.pricing.rates import (
    NO_RATE,
    RATE_BUCKETS,
    TOKENS_PER_MTOK,
    UNKNOWN,
    YOCTO_PER_PICO,
    CardRef,
    Multiplier,
    RateTable,
    Timeline,
    instant,
    since_monday,
    usd_of,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.measures import ESTIMATED

CORRECTIONS: Final = Path(__file__).with_name("corrections.yaml")

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
    usd_per_unit: dict[str, tuple[Decimal, int]]
    """By billable unit: the price, and for how many units it is. A unit without a price makes a call partly priced."""
    usd_per_gpu_hour: Decimal | None
    """Of all GPUs of the deployment together."""
    multipliers: tuple[Multiplier, ...]
    """Factors that the rates contain: a region's surcharge, a contract's share of the public price."""
    notes: tuple[str, ...]


@lru_cache(maxsize=1)
def packaged_corrections() -> tuple[Entry, ...]:
    """Return the package's corrections of the public prices."""
    return tuple(read_cards([CORRECTIONS]))


class PriceBook:
    """Prices of model calls: contract > custom > correction > public > unpriced, by the date of the call.

    Rates are compiled when first needed, then remembered; threads that price take turns.
    """

    def __init__(
        self,
        entries: Sequence[Entry] = (),
        corrections: Sequence[Entry] = (),
        history: History | None = None,
        kept: Sequence[PublishedBook] = (),
    ) -> None:
        """``entries``: your own cards. ``corrections``: those of the package, above the public prices.

        ``history``: public prices of the past; by default those in the package. ``kept``: books of public prices that
        apply over the installed one, in the order in which they were taken.
        """
        self._turn = threading.Lock()
        self._table = RateTable()
        self._public = PublicPrices(self._table, history, kept)
        own = compile_cards(entries, self._table.intern)
        corrected = compile_cards(corrections, self._table.intern, "correction")
        self._chooser = Chooser(self._table, self._public, own.over(corrected))

    @classmethod
    def load(cls, paths: Sequence[Path] = (), kept: Path | None = None) -> Self:
        """Return a price book with your own cards and aliases from YAML files, or directories of them.

        ``kept``: the folder of books of public prices that you took. Raises: RateCardError; BookUnreadable.
        """
        return cls.of(read_cards(paths), read_kept(kept))

    @classmethod
    def of(cls, entries: Sequence[Entry], kept: Sequence[PublishedBook] = ()) -> Self:
        """Return a price book with your own cards over everything that ``rate_book.package_prices`` names."""
        return cls(entries, packaged_corrections(), kept=kept)

    def price(self, calls: pl.DataFrame) -> PricedColumns:
        """Price each call at the rates in force when it was requested.

        Buckets are disjoint, so a cost is a sum: 2,000 input tokens at $3 per million, 500 visible and 1,500
        reasoning tokens at $15 cost $0.0360, which is 36,000,000,000 pico-dollars.

        Columns, none of them null: text or categorical ``provider``, ``model_requested``, ``model_served``,
        ``service_tier``, ``region``, ``inference_geo``, ``capacity``, ``deployment``, "" where absent; Int64
        ``priced_at_us`` (UTC, epoch µs), ``<bucket>_tokens`` of each token bucket and ``web_searches``, 0 where absent
        and never negative. Null where absent: Int64 ``gpu_us`` (time that the deployment was busy) and
        ``context_step``; ``units``, a JSON object of canonical names and decimal text. Other columns are ignored.
        """
        with self._turn:
            return price(calls, self._chooser, self._table)

    def prepare_like(self, other: "PriceBook") -> None:
        """Compile the rates that another book has chosen so far, so that the first calls don't wait for it."""
        for key in other.chosen():
            with self._turn:
                self._chooser.choose(key)

    def chosen(self) -> list[Key]:
        """Return the keys of the calls that were priced so far."""
        with self._turn:
            return self._chooser.keys()

    def explain(
        self,
        provider: str,
        model: str,
        *,
        at: datetime,
        service_tier: str = "standard",
        region: str = "",
        inference_geo: str = "",
        capacity: str = "on_demand",
        deployment: str = "",
        total_input_tokens: int = 0,
    ) -> Explanation:
        """Return which card prices such calls at a time, where the card is from, and its rates."""
        key = Key(provider, "", model, service_tier, region, inference_geo, capacity, deployment)
        at_us = (at - _EPOCH) // timedelta(microseconds=1)
        timeline = self._chooser.choose(key).billed
        if timeline.at(at_us) == UNKNOWN:
            why = self.why_unpriced(provider, model)
            return Explanation(None, None, None, {}, {}, 0, (), None, None, {}, None, (), (why,))
        seller = self._chooser.names(provider, model).seller
        return _explain(self._table, timeline, at_us, total_input_tokens, seller)

    def why_unpriced(self, provider: str, model: str) -> str:
        """Return why no card prices calls of a model, in a sentence without a full stop."""
        why = self._public.why_unlisted(self._chooser.names(provider, model)) or "no rates are known for that date"
        if self._chooser.has_relative_card(provider, model):
            return f"your card is a share of the public price, and there is none: {why}"
        return why

    def nearest(self, provider: str, model: str) -> tuple[str, ...]:
        """Return up to three listed names that look most like a model's, as ``provider model``: hints, not matches."""
        return self._public.nearest(self._chooser.names(provider, model))

    def cards(self) -> tuple[CardRef, ...]:
        """Return all cards, your own first, one entry for each date and service tier. Compiles all public prices."""
        self._public.compile_all()
        indices: Iterable[int] = range(len(self._table.sets))
        if self._public.before is not None:  # of several books, not all that one of them says is ever in force
            applied = self._public.in_force()
            indices = [i for i, found in enumerate(self._table.sets) if found.source != "genai-prices" or i in applied]
        return tuple(dict.fromkeys(self._table.sets[index].ref for index in indices if index != UNKNOWN))

    def shares(self) -> tuple[CardRef, ...]:
        """Return your cards' entries that are a share of the public price: without an id until there is a price."""
        return self._chooser.shares()

    def exclusions(self) -> tuple[Exclusion, ...]:
        """Return the public prices that can't be used, and why. Compiles all of them."""
        return self._public.compile_all()


def _explain(table: RateTable, timeline: Timeline, at_us: int, total_input: int, seller: str) -> Explanation:
    """Explain the rate set in force on a timeline at an instant, for calls of this much input."""
    index = timeline.at(at_us)
    chosen = table.sets[index]
    rates = {bucket: chosen.rate(bucket, total_input) for bucket in RATE_BUCKETS}
    end = timeline.end_of(at_us)
    while end is not None and timeline.within(end, since_monday(at_us)) == index:
        end = timeline.end_of(end)
    notes = [f"estimated: {c.note}" if c.quality == ESTIMATED else c.note for c in table.caveats[index]]
    if chosen.source == "genai-prices" and chosen.provider != seller and not any(chosen.provider in n for n in notes):
        notes.append(f"{seller} charges the price of {chosen.provider}")
    if timeline.slots_us:
        notes.append("the price depends on the day and the time (UTC)")
    if unrated := [bucket for bucket in TOKEN_BUCKETS if chosen.rate(bucket) == NO_RATE]:
        notes.append("calls that use these are unpriced: " + ", ".join(unrated))
    return Explanation(
        card=chosen.ref,
        valid_from=chosen.ref.valid_from,
        valid_until=None if end is None else instant(end),
        usd_per_mtok={b: usd_of(rates[b], TOKENS_PER_MTOK) for b in TOKEN_BUCKETS if rates[b] != NO_RATE},
        priced_as={bucket: rate for bucket, rate in chosen.priced_as.items() if rate != bucket},
        above_input_tokens=max((start for start in chosen.thresholds if total_input > start), default=0),
        tiers=chosen.thresholds,
        usd_per_request=usd_of(rates["request"]) if rates["request"] else None,
        usd_per_web_search=None if rates["web_search"] == NO_RATE else usd_of(rates["web_search"]),
        usd_per_unit={unit: (usd_of(rate.rate), rate.per) for unit, rate in chosen.units.items()},
        usd_per_gpu_hour=None if chosen.gpu_hour is None else usd_of(chosen.gpu_hour * YOCTO_PER_PICO),
        multipliers=chosen.multipliers,
        notes=tuple(notes),
    )
