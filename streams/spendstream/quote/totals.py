"""Sums over quotes: by model, by bucket, and of all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from spendstream.quote.quote import Quote


@dataclass
class ModelTotal:
    """Calls of one provider's model. ``cost_pusd`` is of the priced ones, in pico-dollars."""

    calls: int = 0
    unpriced_calls: int = 0
    tokens: int = 0
    cost_pusd: int = 0
    sources: set[str] = field(default_factory=set)


@dataclass
class Totals:
    """Exact sums, in Python integers: any number of calls fits. Amounts are pico-dollars."""

    models: dict[tuple[str, str], ModelTotal] = field(default_factory=dict)
    tokens_by_bucket: Counter[str] = field(default_factory=Counter)
    pusd_by_bucket: Counter[str] = field(default_factory=Counter)
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
        total.sources.add(quote.rate_source)
        self.pusd_by_bucket.update(quote.by_bucket)
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
