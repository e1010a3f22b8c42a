"""The price book: own cards over the public prices."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import polars as pl

from spendstream.core.pricing.choose import Chooser, Key
from spendstream.core.pricing.explain import Explanation, explain
from spendstream.core.pricing.own import compile_cards
from spendstream.core.pricing.price import price
from spendstream.core.pricing.priced import PricedColumns
from spendstream.core.pricing.public import PublicPrices
from spendstream.core.pricing.public_rates import Exclusion
from spendstream.core.pricing.rate_set import CardRef
from spendstream.core.pricing.read import read_cards
from spendstream.core.pricing.table import RateTable
from spendstream.core.pricing.timeline import UNKNOWN
from spendstream.schemas.rate_card import DeploymentCard, TokenCard

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PriceBook:
    """Prices of model calls: contract > custom > public > unpriced, by the date of the call.

    What is asked for the first time is compiled and remembered, so threads that price take turns.
    """

    def __init__(self, cards: Sequence[TokenCard | DeploymentCard] = ()) -> None:
        self._turn = threading.Lock()
        self._table = RateTable()
        self._public = PublicPrices(self._table.intern)
        self._chooser = Chooser(compile_cards(cards, self._table.intern), self._public)

    @classmethod
    def load(cls, paths: Sequence[Path] = ()) -> Self:
        """Return a price book with the own cards of YAML files, or of directories of them. Raises: RateCardError."""
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
        """Return which card prices such calls at a time, where it is from, and its rates."""
        key = Key(provider, "", model, service_tier, region, deployment)
        at_us = (at - _EPOCH) // timedelta(microseconds=1)
        timeline = self._chooser.choose(key).billed
        return explain(self._table.sets, timeline, at_us, service_tier, total_input_tokens)

    def cards(self) -> tuple[CardRef, ...]:
        """Return all cards, own ones first, one entry for each date and service tier. Compiles all public prices."""
        self._public.compile_all()
        return tuple(rate_set.ref for rate_set in self._table.sets[UNKNOWN + 1 :])

    def exclusions(self) -> tuple[Exclusion, ...]:
        """Return what of the public prices can't be used, and why. Compiles all of them."""
        return self._public.compile_all()
