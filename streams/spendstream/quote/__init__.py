"""Quoting: rows of usage in, what they cost out; without Kafka, by the meter's own decoder and price book."""

from spendstream.quote.quote import Quote, quote_rows
from spendstream.quote.totals import Totals

__all__ = ["Quote", "Totals", "quote_rows"]
