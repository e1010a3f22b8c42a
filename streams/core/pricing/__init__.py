"""Pricing: what a model call costs, in exact integers."""

from streams.core.documents import Issue
from streams.core.pricing.book import PriceBook
from streams.core.pricing.errors import RateCardError, RateCardInvalid, RateCardUnreadable
from streams.core.pricing.explain import Explanation
from streams.core.pricing.priced import PricedColumns, Unpriced
from streams.core.pricing.public_rates import Exclusion
from streams.core.pricing.rate_set import CardRef

__all__ = [
    "CardRef",
    "Exclusion",
    "Explanation",
    "Issue",
    "PriceBook",
    "PricedColumns",
    "RateCardError",
    "RateCardInvalid",
    "RateCardUnreadable",
    "Unpriced",
]
