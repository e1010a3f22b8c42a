"""Whose rates price a call: the most specific card of the strongest kind, contract > custom > correction > public.

A *correction* is a card of the package's own, above the price book: what that lacks or has wrong. The price book and
the corrections together are the public price. Cards relative to the public price, and multipliers of a region, are
applied here, to whichever rates are in force: the result is a rate set of its own, which says what it consists of.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, partial
from types import MappingProxyType
from typing import Final, Literal

from spendstream.core.pricing.names import Names
from spendstream.core.pricing.public import PublicPrices
from spendstream.core.pricing.rates import (
    SERVICE_TIERS,
    UNKNOWN,
    CardRef,
    Caveat,
    Multiplier,
    RateSet,
    RateTable,
    Timeline,
    UnitRate,
    instant,
    merge,
    overlay,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.measures import EXACT, SUBSTITUTED
from spendstream.schemas.usage import ServiceTier

MAX_KEYS: Final = 65_536
"""How many keys are remembered. Keys come with events, so there must be a limit."""

Aliases = Mapping[tuple[str, str], tuple[str, str]]
"""(provider, name of a model) in lower case → the provider and model that it stands for; "" for the same provider."""

CardKind = Literal["contract", "custom", "correction"]

_STRENGTH: Final[Mapping[CardKind, int]] = {"correction": 0, "custom": 1, "contract": 2}
_EXACT_NAME: Final = 1_000  # more than any glob has letters
_NOWHERE: Final = Timeline()
_ANYWHERE: Final = frozenset({"", "global", "not_available"})
"""Regions that ask for no place. A glob doesn't match them."""

_PREPAID: Final = RateSet(
    "prepaid", "*", "*", "standard", None, "", (), ((*(0 for _ in TOKEN_BUCKETS), -1, 0),), priced_as={}
)
_PREPAID_NOTE: Final = Caveat(EXACT, "prepaid capacity")


@dataclass(frozen=True, slots=True)
class Call:
    """What a card matches of a call, in lower case. A provider or a model can have several names."""

    providers: tuple[str, ...]
    models: tuple[str, ...]
    service_tier: ServiceTier
    region: str
    inference_geo: str
    is_provisioned: bool
    deployment: str


@dataclass(frozen=True, slots=True)
class OwnCard:
    """A card ready to be matched: names in lower case, timelines by service tier."""

    kind: CardKind
    provider: str
    model: str
    region: str
    inference_geo: str
    service_tier: str
    capacity: Literal["on_demand", "provisioned", "any"]
    deployment: str
    timelines: Mapping[ServiceTier, Timeline]
    """A negative index is a multiple of the public price: ``multiples[-1 - index]``."""
    multiples: tuple["Multiple", ...] = ()

    def match(self, call: Call) -> tuple[int, ...] | None:
        """Return how specific the card is for a call, greater being more so; None if it doesn't price the call."""
        if self.deployment and self.deployment != call.deployment:
            return None
        if self.service_tier and self.service_tier != call.service_tier:
            return None
        if self.capacity != "any" and call.is_provisioned != (self.capacity == "provisioned"):
            return None
        model = _likeness(self.model, call.models)
        region = _likeness(self.region, (call.region,)) if self.region else 0
        geo = _likeness(self.inference_geo, (call.inference_geo,)) if self.inference_geo else 0
        provider = _likeness(self.provider, call.providers)
        if model is None or region is None or geo is None or provider is None:
            return None
        strength, tier = _STRENGTH[self.kind], int(bool(self.service_tier))
        return strength, int(bool(self.deployment)), model, region, geo, tier, provider

    def is_elsewhere(self, call: Call, by: str) -> bool:
        """Return whether this is a correction of the call's model for another region or inference geo."""
        place, wanted = getattr(self, by), getattr(call, by)
        return (
            self.kind == "correction"
            and bool(place)
            and _likeness(place, (wanted,)) is None
            and call.service_tier in self.timelines
            and _likeness(self.model, call.models) is not None
            and _likeness(self.provider, call.providers) is not None
        )


@dataclass(frozen=True, slots=True)
class Multiple:
    """An entry of a card that is relative to the public price."""

    kind: CardKind
    provider: str
    model: str
    reference: str
    since_us: int
    multiplier: Multiplier
    of_tier: ServiceTier | None
    """The service tier of the price that it is a multiple of; None for the call's own."""
    rates: tuple[tuple[str, int], ...] = ()
    """Rates by bucket that replace those of the price, or add to them."""
    units: tuple[tuple[str, UnitRate], ...] = ()


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A multiplier for calls of a region or an inference geo, ready to be matched: names in lower case."""

    kind: CardKind
    provider: str
    model: str
    by: Literal["region", "inference_geo"]
    place: str
    since_us: int
    until_us: int | None
    multiplier: Multiplier

    def covers(self, time_us: int) -> bool:
        """Return whether it is in force at an instant."""
        return self.since_us <= time_us and (self.until_us is None or time_us < self.until_us)

    def concerns(self, call: Call) -> bool:
        """Return whether it is for the model of a call, in whatever place."""
        return _likeness(self.model, call.models) is not None and _likeness(self.provider, call.providers) is not None

    def likeness(self, call: Call) -> tuple[int, ...] | None:
        """Return how specific it is for a call, greater being more so; None if it isn't for the call."""
        wanted = call.region if self.by == "region" else call.inference_geo
        place = None if wanted in _ANYWHERE and self.place != wanted else _likeness(self.place, (wanted,))
        model, provider = _likeness(self.model, call.models), _likeness(self.provider, call.providers)
        if place is None or model is None or provider is None:
            return None
        return _STRENGTH[self.kind], place, model, provider


def _in_force(adjustments: Sequence[Adjustment]) -> Timeline:
    """Return the number, from 1, of the first adjustment in force over time; 0 for none."""
    starts = sorted({at for a in adjustments for at in (a.since_us, a.until_us) if at is not None})
    found = [next((number for number, a in enumerate(adjustments, 1) if a.covers(at)), 0) for at in starts]
    return Timeline(tuple(starts), (), (0, *found))


def _likeness(pattern: str, names: Iterable[str]) -> int | None:
    """Return how closely a pattern matches one of the names, the first being the call's own; None if it doesn't.

    A glob scores its letters. An exact name scores more, and most if it is the call's own.
    """
    wild = sum(character in "*?[" for character in pattern)
    for index, name in enumerate(names):
        if fnmatchcase(name, pattern) if wild else name == pattern:
            return len(pattern) - wild if wild else _EXACT_NAME - index
    return None


@dataclass(frozen=True, slots=True)
class Key:
    """The columns of a call that determine its card; "" where absent."""

    provider: str
    model_requested: str
    model_served: str
    service_tier: str
    region: str
    inference_geo: str
    capacity: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Rates over time for calls with one key. Timelines that can't differ are the same object."""

    billed: Timeline
    at_standard_tier: Timeline
    with_requested_model: Timeline


@dataclass(frozen=True, slots=True)
class Cards:
    """What stands above the price book: your own cards and the package's corrections, compiled."""

    cards: tuple[OwnCard, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    aliases: Aliases = field(default_factory=lambda: MappingProxyType({}))

    def over(self, below: "Cards") -> "Cards":
        """Return these cards and those below; an alias of these counts before one of those."""
        aliases = {**below.aliases, **self.aliases}
        return Cards(self.cards + below.cards, self.adjustments + below.adjustments, aliases)


class Chooser:
    """Chooses rates by key, and remembers its choices."""

    def __init__(self, table: RateTable, public: PublicPrices, above: Cards) -> None:
        self._table = table
        self._public = public
        self._above = above
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

    def keys(self) -> list[Key]:
        """Return the keys that are remembered."""
        return list(self._choices)

    def _timeline(self, key: Key, model: str, service_tier: str) -> Timeline:
        """Return the rates of calls over time: the strongest card that has any at that time, adjusted to the place."""
        tier: ServiceTier = next((known for known in SERVICE_TIERS if known == service_tier), "standard")
        names = self.names(key.provider, model)
        call = Call(
            names.providers,
            names.models,
            tier,
            key.region.strip().lower(),
            key.inference_geo.strip().lower(),
            key.capacity == "provisioned",
            key.deployment.lower(),
        )
        adjustments = [a for a in self._above.adjustments if a.concerns(call)]
        public_at = cache(partial(self._public_timeline, names, call, adjustments))
        own = [card for card in self._matching(call) if card.kind != "correction"]
        layers = [layer for card in own for layer in self._layers(card, call, adjustments, public_at)]
        if call.is_provisioned:
            layers.append(Timeline((), (), (self._table.intern(_PREPAID, (_PREPAID_NOTE,)),)))
        else:
            layers.append(public_at(tier))
        return overlay(layers).replaced(lambda index: self._at_tier(index, service_tier))

    def _public_timeline(
        self, names: Names, call: Call, adjustments: Sequence[Adjustment], tier: ServiceTier
    ) -> Timeline:
        """Return the public price at a service tier, in the place of the call: corrections above the price book."""
        call = replace(call, service_tier=tier)
        listed_at = cache(lambda tier: self._public.timeline(names, tier) or _NOWHERE)
        corrections = [card for card in self._matching(call) if card.kind == "correction"]
        layers = [layer for card in corrections for layer in self._layers(card, call, adjustments, listed_at)]
        return overlay([*layers, self._adjusted(listed_at(tier), call, adjustments, None)])

    def _layers(
        self,
        card: OwnCard,
        call: Call,
        adjustments: Sequence[Adjustment],
        price_at: Callable[[ServiceTier], Timeline],
    ) -> Iterator[Timeline]:
        """Yield the rates of a card's entries: those it states, then those relative to a price at a service tier.

        The public price is in the place of the call already; the price book's is not.
        """
        stated = card.timelines[call.service_tier].replaced(lambda index: max(index, UNKNOWN))
        yield self._adjusted(stated, call, adjustments, card)
        if card.multiples:
            relative = self._relative(card, call.service_tier, price_at)
            yield self._adjusted(relative, call, adjustments, card) if card.kind == "correction" else relative

    def _matching(self, call: Call) -> list[OwnCard]:
        """Return the cards that price a call, strongest first, equal ones as in the files."""
        matches = [(match, card) for card in self._above.cards if (match := card.match(call)) is not None]
        matches.sort(key=lambda pair: pair[0], reverse=True)
        return [card for _, card in matches if call.service_tier in card.timelines]

    def _at_tier(self, index: int, asked: str) -> int:
        """Mark rates of another service tier than the one asked for."""
        rates = self._table.sets[index]
        if rates.tier_applied == asked or rates.gpu_hour is not None or rates.source == "prepaid":
            return index
        note = f"no {asked if asked in SERVICE_TIERS else 'such'} rate for {rates.model}: {rates.tier_applied}"
        return self._table.with_caveat(index, Caveat(SUBSTITUTED, note))

    def _relative(self, card: OwnCard, tier: ServiceTier, price_at: Callable[[ServiceTier], Timeline]) -> Timeline:
        """Return the rates of those entries of a card that are multiples of a price, at this tier or another."""
        of_tiers = list(dict.fromkeys(multiple.of_tier or tier for multiple in card.multiples))

        def resolve(indices: tuple[int, ...]) -> int:
            own, *prices = indices
            if own >= UNKNOWN:
                return UNKNOWN
            multiple = card.multiples[-1 - own]
            price = prices[of_tiers.index(multiple.of_tier or tier)]
            base = self._table.sets[price]
            if price == UNKNOWN or base.gpu_hour is not None:
                return UNKNOWN
            multiplier = multiple.multiplier._replace(
                buckets=tuple(b for b in multiple.multiplier.buckets if b not in dict(multiple.rates)),
                reason=f"share of the price of {base.provider} {base.model} in {base.source}",
                reference=base.reference,
            )
            multiplied = base.multiplied(multiplier, multiple.since_us).with_rates(
                dict(multiple.rates), dict(multiple.units)
            )
            rates = replace(
                multiplied,
                source=multiple.kind,
                provider=multiple.provider,
                model=multiple.model,
                reference=multiple.reference,
                tier_applied=tier if multiple.of_tier == base.tier_applied else base.tier_applied,
            )
            return self._table.intern(rates, self._table.caveats[price])

        return merge([card.timelines[tier], *(price_at(of_tier) for of_tier in of_tiers)], resolve)

    def _adjusted(
        self, layer: Timeline, call: Call, adjustments: Sequence[Adjustment], card: OwnCard | None
    ) -> Timeline:
        """Return a layer's rates times what the region or the inference geo of the call adds.

        A card for that region has its own price already. Where other regions of the model have a multiplier or a
        correction and this one has none, public rates are marked as substituted.
        """
        is_public = card is None or card.kind == "correction"
        for by, place in (("region", call.region), ("inference_geo", call.inference_geo)):
            if not place or (card is not None and getattr(card, by)):
                continue
            of_model = [adjustment for adjustment in adjustments if adjustment.by == by]
            here = sorted(
                (a for a in of_model if a.likeness(call) is not None),
                key=lambda a: a.likeness(call) or (),
                reverse=True,
            )
            elsewhere = [_NOWHERE]
            if is_public and place not in _ANYWHERE:
                elsewhere += [_in_force(of_model)]
                elsewhere += [c.timelines[call.service_tier] for c in self._above.cards if c.is_elsewhere(call, by)]
            apply = partial(self._times, here, f"no rate of that {by} is known: the general one")
            layer = merge([layer, _in_force(here), overlay(elsewhere)], apply)
        return layer

    def _times(self, here: Sequence[Adjustment], doubt: str, indices: tuple[int, ...]) -> int:
        """Return rates times the adjustment in force; with a doubt, where there is one only elsewhere."""
        index, chosen, elsewhere = indices
        if index == UNKNOWN or self._table.sets[index].gpu_hour is not None:
            return index
        if chosen:
            adjustment = here[chosen - 1]
            rates = self._table.sets[index].multiplied(adjustment.multiplier, adjustment.since_us)
            return self._table.intern(rates, self._table.caveats[index])
        return self._table.with_caveat(index, Caveat(SUBSTITUTED, doubt)) if elsewhere else index

    def shares(self) -> tuple[CardRef, ...]:
        """Return the entries of cards that are a share of the public price, in the order of the files."""
        found = (
            CardRef("", m.kind, m.provider, m.model, card.service_tier or "", instant(m.since_us), m.reference)
            for card in self._above.cards
            if card.kind != "correction"
            for m in card.multiples
        )
        return tuple(dict.fromkeys(found))  # an entry has one for each of its hours

    def names(self, provider: str, model: str) -> Names:
        """Return who sells the model of a call and what it may be called; of an alias, what it stands for."""
        names = self._public.names(provider, model)
        for name in names.models if self._above.aliases else ():
            for seller in names.providers:
                if meaning := self._above.aliases.get((seller, name)):
                    return self._public.names(meaning[0] or names.seller, meaning[1])
        return names

    def has_relative_card(self, provider: str, model: str) -> bool:
        """Return whether a card of yours prices a model relative to the public price."""
        names = self.names(provider, model)
        return any(
            card.multiples and _likeness(card.model, names.models) is not None
            and _likeness(card.provider, names.providers) is not None
            for card in self._above.cards
        )  # fmt: skip
