"""Whose rates price a call: the most specific card of the strongest kind, contract > custom > public."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from spendstream.core.pricing.names import Names
from spendstream.core.pricing.public import PublicPrices
from spendstream.core.pricing.rates import SERVICE_TIERS, Timeline, overlay
from spendstream.schemas.usage import ServiceTier

MAX_KEYS: Final = 65_536
"""How many keys are remembered. Keys come with events, so there must be a limit."""

Aliases = Mapping[tuple[str, str], tuple[str, str]]
"""(provider, name of a model) in lower case → the provider and model that it stands for; "" for the same provider."""

_EXACT: Final = 1_000  # more than any glob has letters
_NOWHERE: Final = Timeline()


@dataclass(frozen=True, slots=True)
class Call:
    """What a card matches of a call, in lower case. A provider or a model can have several names."""

    providers: tuple[str, ...]
    models: tuple[str, ...]
    service_tier: str
    region: str
    deployment: str


@dataclass(frozen=True, slots=True)
class OwnCard:
    """A card ready to be matched: names in lower case, timelines by service tier."""

    kind: str
    provider: str
    model: str
    region: str
    service_tier: str
    deployment: str
    timelines: dict[str, Timeline]

    def match(self, call: Call) -> tuple[int, ...] | None:
        """Return how specific the card is for a call, greater being more so; None if it doesn't price the call."""
        if self.deployment and self.deployment != call.deployment:
            return None
        if self.service_tier and self.service_tier != call.service_tier:
            return None
        model = _likeness(self.model, call.models)
        region = _likeness(self.region, (call.region,)) if self.region else 0
        provider = _likeness(self.provider, call.providers)
        if model is None or region is None or provider is None:
            return None
        strength = int(self.kind == "contract")
        return strength, int(bool(self.deployment)), model, region, int(bool(self.service_tier)), provider


def _likeness(pattern: str, names: Iterable[str]) -> int | None:
    """Return how closely a pattern matches one of the names, the first being the call's own; None if it doesn't.

    A glob scores its letters. An exact name scores more, and most if it is the call's own.
    """
    wild = sum(character in "*?[" for character in pattern)
    for index, name in enumerate(names):
        if fnmatchcase(name, pattern) if wild else name == pattern:
            return len(pattern) - wild if wild else _EXACT - index
    return None


def layers_for(cards: Sequence[OwnCard], call: Call) -> list[Timeline]:
    """Return the timelines of the cards that price a call, strongest first; equal ones in the order of the files."""
    matches = [(match, card) for card in cards if (match := card.match(call)) is not None]
    matches.sort(key=lambda pair: pair[0], reverse=True)
    return [card.timelines[call.service_tier] for _, card in matches if call.service_tier in card.timelines]


@dataclass(frozen=True, slots=True)
class Key:
    """The columns of a call that determine its card; "" where absent."""

    provider: str
    model_requested: str
    model_served: str
    service_tier: str
    region: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Rates over time for calls with one key. Timelines that can't differ are the same object."""

    billed: Timeline
    at_standard_tier: Timeline
    with_requested_model: Timeline


class Chooser:
    """Chooses rates by key, and remembers its choices."""

    def __init__(self, own: Sequence[OwnCard], public: PublicPrices, aliases: Aliases = MappingProxyType({})) -> None:
        self._own = own
        self._public = public
        self._aliases = aliases
        self._choices: dict[Key, Choice] = {}

    def choose(self, key: Key) -> Choice:
        """Return whose rates price the calls of a key: by the model that served, else by the one requested."""
        choice = self._choices.get(key)
        if choice is None:
            if len(self._choices) >= MAX_KEYS:
                self._choices.clear()
            served = key.model_served or key.model_requested
            billed = standard = requested = self._timeline(key, served, key.service_tier)
            if key.service_tier != "standard":
                standard = self._timeline(key, served, "standard")
            if key.model_requested and key.model_requested != served:
                requested = self._timeline(key, key.model_requested, key.service_tier)
            choice = self._choices[key] = Choice(billed, standard, requested)
        return choice

    def _timeline(self, key: Key, model: str, service_tier: str) -> Timeline:
        tier: ServiceTier = next((known for known in SERVICE_TIERS if known == service_tier), "standard")
        names = self.names(key.provider, model)
        layers: list[Timeline] = []
        if self._own:
            call = Call(names.providers, names.models, tier, key.region.lower(), key.deployment.lower())
            layers = layers_for(self._own, call)
        public = self._public.timeline(names, tier)
        return overlay([*layers, public or _NOWHERE])

    def names(self, provider: str, model: str) -> Names:
        """Return who sells the model of a call and what it may be called; of an alias, what it stands for."""
        names = self._public.names(provider, model)
        for name in names.models if self._aliases else ():
            for seller in names.providers:
                if meaning := self._aliases.get((seller, name)):
                    return self._public.names(meaning[0] or names.seller, meaning[1])
        return names
