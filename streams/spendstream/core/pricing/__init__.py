"""Pricing: what a model call costs, in exact integers."""

from spendstream.core.pricing.book import Explanation, PriceBook
from spendstream.core.pricing.cards import Entry, RateCardError, RateCardInvalid, RateCardUnreadable, read_cards
from spendstream.core.pricing.price import PricedColumns, Unpriced
from spendstream.core.pricing.public import Exclusion
from spendstream.core.pricing.published import BookUnreadable
from spendstream.core.pricing.rates import ALL_RATES, SERVICE_TIERS, CardRef, RateSet
from spendstream.core.pricing.record import card_record, price_by, rates_of_record

__all__ = [
    "ALL_RATES",
    "SERVICE_TIERS",
    "BookUnreadable",
    "CardRef",
    "Entry",
    "Exclusion",
    "Explanation",
    "PriceBook",
    "PricedColumns",
    "RateCardError",
    "RateCardInvalid",
    "RateCardUnreadable",
    "RateSet",
    "Unpriced",
    "card_record",
    "price_by",
    "rates_of_record",
    "read_cards",
]
