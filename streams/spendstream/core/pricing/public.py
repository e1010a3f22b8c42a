"""The public price book, genai-prices, as rate sets.

Its own ``calc_price`` takes 70-90 µs a call, and a model that it doesn't know several times that. Here each (model,
service tier) that is met is compiled once, by asking the price book for the prices of each of its periods.
"""

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from spendstream.core.pricing.names import model_names, provider_alias
from spendstream.core.pricing.public_rates import Compiler, Exclusion, variants
from spendstream.core.pricing.rate_set import SERVICE_TIERS, Intern
from spendstream.core.pricing.timeline import Timeline

CONTEXT: Final = MappingProxyType(
    {
        "standard": {},
        "batch": {"processing": "batch"},
        "flex": {"service_tier": "flex"},
        "priority": {"service_tier": "priority"},
    }
)
"""A service tier in the price book's words: Anthropic's ``service_tier=batch`` is its ``processing=batch``."""

NAMES_KEPT: Final = 65_536
"""Names looked up are remembered, known or not. Names come with events, so there must be a limit."""


@dataclass(frozen=True, slots=True)
class _Listed:
    provider: Any
    model: Any
    has_tiers: bool
    """Not so where it was found by fallback: a service tier's price is what its own provider offers."""


class PublicPrices:
    """The price book, compiled as it is asked."""

    def __init__(self, intern: Intern) -> None:
        self._intern = intern
        self._found: dict[tuple[str, str], _Listed | None] = {}
        self._timelines: dict[tuple[int, str], Timeline | None] = {}

    @cached_property
    def _providers(self) -> list[Any]:
        from genai_prices.data import providers  # 0.2 s: not before it is needed

        return list(providers)

    @cached_property
    def _compiler(self) -> Compiler:
        return Compiler(self._intern)

    def provider_names(self, name: str) -> tuple[str, ...]:
        """Return the names of a provider in lower case: as given, its usual one, the price book's (last)."""
        alias = provider_alias(name)
        provider = self._provider(alias)
        return tuple(dict.fromkeys((name.strip().lower(), alias, *([provider.id] if provider else []))))

    def timeline(self, provider: str, model: str, tier: str) -> Timeline | None:
        """Return the rate sets of a model at a service tier over time; None if the price book doesn't price it."""
        key = provider, model
        if key not in self._found:
            if len(self._found) >= NAMES_KEPT:
                self._found.clear()
            self._found[key] = self._find(provider, model)
        found = self._found[key]
        return None if found is None else self._timeline(found, tier)

    def compile_all(self) -> tuple[Exclusion, ...]:
        """Compile each model at each service tier. Returns what can't be used."""
        for provider in self._providers:
            for model in provider.models:
                for tier in SERVICE_TIERS:
                    self._timeline(_Listed(provider, model, has_tiers=True), tier)
        return tuple(self._compiler.exclusions)

    def _provider(self, name: str) -> Any:
        from genai_prices.data_snapshot import find_provider_by_id

        return find_provider_by_id(self._providers, name)

    def _find(self, provider: str, model: str) -> _Listed | None:
        """Find the model whose prices hold. Fallbacks are followed: Azure sells OpenAI's models."""
        name = provider_alias(provider)
        if name == "litellm" and "/" in model:  # a gateway: the model's name says through whom
            name, _, model = model.partition("/")
            name = provider_alias(name)
        owner = self._provider(name)
        if owner is None:
            return None
        for candidate in model_names(owner.id, frozenset({owner.id, name, provider.lower()}), model):
            found = owner.find_model(candidate, all_providers=self._providers)
            if found is not None:
                lister = next(p for p in self._providers if any(m is found for m in p.models))
                return _Listed(lister, found, has_tiers=lister is owner)
        return None

    def _timeline(self, listed: _Listed, tier: str) -> Timeline | None:
        if not listed.has_tiers or not variants(listed.model, CONTEXT[tier]):
            tier = "standard"
        key = id(listed.model), tier
        if key not in self._timelines:
            self._timelines[key] = self._compiler.timeline(listed.provider, listed.model, CONTEXT[tier], tier)
        return self._timelines[key]
