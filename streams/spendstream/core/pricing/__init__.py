"""Pricing: what a model call costs, in exact integers."""

from spendstream.core.documents import Issue
from spendstream.core.pricing.book import PriceBook
from spendstream.core.pricing.errors import RateCardError, RateCardInvalid, RateCardUnreadable
from spendstream.core.pricing.explain import Explanation
from spendstream.core.pricing.priced import PricedColumns, Unpriced
from spendstream.core.pricing.public_rates import Exclusion
from spendstream.core.pricing.rate_set import CardRef

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
