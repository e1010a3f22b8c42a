"""Whose rates price a call: contract > custom > public, and what would price it otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from spendstream.core.pricing.names import model_names
from spendstream.core.pricing.own import Call, OwnCard, layers_for
from spendstream.core.pricing.public import PublicPrices
from spendstream.core.pricing.rate_set import SERVICE_TIERS
from spendstream.core.pricing.timeline import Timeline, overlay
from spendstream.schemas.usage import ServiceTier

KEPT: Final = 65_536
"""Keys come with events, so there must be a limit to how many are remembered."""

_NOWHERE: Final = Timeline()


@dataclass(frozen=True, slots=True)
class Key:
    """What of a call chooses its card, as the columns have it: "" where absent."""

    provider: str
    model_requested: str
    model_served: str
    service_tier: str
    region: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The rates over time of the calls of one key. What can't differ is the same object."""

    billed: Timeline
    at_standard_tier: Timeline
    with_requested_model: Timeline


class Chooser:
    """Choices by key, remembered."""

    def __init__(self, own: Sequence[OwnCard], public: PublicPrices) -> None:
        self._own = own
        self._public = public
        self._choices: dict[Key, Choice] = {}

    def choose(self, key: Key) -> Choice:
        """Return whose rates price the calls of a key: by the model that served, else the one requested."""
        choice = self._choices.get(key)
        if choice is None:
            if len(self._choices) >= KEPT:
                self._choices.clear()
            choice = self._choices[key] = self._choice(key)
        return choice

    def _choice(self, key: Key) -> Choice:
        served = key.model_served or key.model_requested
        billed = self._timeline(key, served, key.service_tier)
        standard = billed if key.service_tier == "standard" else self._timeline(key, served, "standard")
        requested = billed
        if key.model_requested and key.model_requested != served:
            requested = self._timeline(key, key.model_requested, key.service_tier)
        return Choice(billed, standard, requested)

    def _timeline(self, key: Key, model: str, service_tier: str) -> Timeline:
        tier: ServiceTier = next((known for known in SERVICE_TIERS if known == service_tier), "standard")
        layers = layers_for(self._own, self._call(key, model, tier)) if self._own else []
        public = self._public.timeline(key.provider, model, tier)
        return overlay([*layers, public or _NOWHERE])

    def _call(self, key: Key, model: str, tier: ServiceTier) -> Call:
        providers = self._public.provider_names(key.provider)
        models = tuple(model_names(providers[-1], frozenset(providers), model))
        return Call(providers, models, tier, key.region.lower(), key.deployment.lower())
