"""Own rate cards as timelines, and which of them prices a call: the most specific one of the strongest kind."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Final

from spendstream.core.pricing.dimensions import NAME_OF_RATE, RATE_DIMENSIONS, rate_of_each_bucket
from spendstream.core.pricing.names import PROVIDER_ALIASES
from spendstream.core.pricing.rate_set import (
    NO_RATE,
    PICO_PER_USD,
    SERVICE_TIERS,
    Intern,
    RateSet,
    pusd_per_token,
    whole,
)
from spendstream.core.pricing.timeline import UNKNOWN, Timeline, midnight_us
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rate_card import Dated, DeploymentCard, GpuRates, TokenCard, TokenRates
from spendstream.schemas.usage import ServiceTier

_EXACT: Final = 1_000  # more than any glob has letters


@dataclass(frozen=True, slots=True)
class Call:
    """What a card can tell calls apart by, in lower case. Several names may mean one provider or one model."""

    providers: tuple[str, ...]
    models: tuple[str, ...]
    service_tier: str
    region: str
    deployment: str


@dataclass(frozen=True, slots=True)
class OwnCard:
    """A card ready to be matched: its words in lower case, its timelines by service tier."""

    kind: str
    provider: str
    model: str
    region: str
    service_tier: str
    deployment: str
    timelines: dict[str, Timeline]

    def match(self, call: Call) -> tuple[int, ...] | None:
        """Return how specific the card is for a call, the greater the more; None if it doesn't price it."""
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
    """Return how closely a pattern fits one of the names, of which the first is the call's own; None if it doesn't.

    A glob counts its letters. No glob counts more, and most where it is the call's own name.
    """
    wild = sum(character in "*?[" for character in pattern)
    for index, name in enumerate(names):
        if fnmatchcase(name, pattern) if wild else name == pattern:
            return len(pattern) - wild if wild else _EXACT - index
    return None


def compile_cards(cards: Sequence[TokenCard | DeploymentCard], intern: Intern) -> tuple[OwnCard, ...]:
    """Compile cards into matchable ones. All their rate sets are interned, whether or not a call ever needs them."""
    return tuple(_gpu(c, intern) if isinstance(c, DeploymentCard) else _token(c, intern) for c in cards)


def layers_for(cards: Sequence[OwnCard], call: Call) -> list[Timeline]:
    """Return the timelines of the cards that price a call, strongest first; among equals the one declared first."""
    matches = [(match, card) for card in cards if (match := card.match(call)) is not None]
    matches.sort(key=lambda pair: pair[0], reverse=True)
    return [card.timelines[call.service_tier] for _, card in matches if call.service_tier in card.timelines]


def _token(card: TokenCard, intern: Intern) -> OwnCard:
    tiers = SERVICE_TIERS if card.service_tier is None else (card.service_tier,)
    timelines: dict[str, Timeline] = {
        tier: _timeline(card.rates, [intern(_token_rates(card, entry, tier)) for entry in card.rates]) for tier in tiers
    }
    provider = card.provider.lower()
    provider = PROVIDER_ALIASES.get(provider, provider)
    scope = (card.region or "").lower(), card.service_tier or "", (card.deployment or "").lower()
    return OwnCard(card.kind, provider, card.model.lower(), *scope, timelines)


def _gpu(card: DeploymentCard, intern: Intern) -> OwnCard:
    sets = [intern(_gpu_rates(card, entry)) for entry in card.rates]
    timelines: dict[str, Timeline] = dict.fromkeys(SERVICE_TIERS, _timeline(card.rates, sets))
    return OwnCard(card.kind, "*", card.model.lower(), "", "", card.deployment.lower(), timelines)


def _token_rates(card: TokenCard, entry: TokenRates, tier: ServiceTier) -> RateSet:
    block = entry.at_service_tier(tier)
    taken = rate_of_each_bucket(RATE_DIMENSIONS[bucket] for bucket in block.usd_per_mtok)
    priced_as = {bucket: NAME_OF_RATE[rate] for bucket, rate in taken.items()}
    steps = block.steps()
    own_tier = card.service_tier or (tier if tier in entry.service_tiers else "standard")
    return RateSet(
        source=card.kind,
        provider=card.provider,
        model=card.model,
        tier_applied=own_tier,
        valid_from_us=midnight_us(entry.from_),
        reference=entry.source,
        thresholds=tuple(start for start, _ in steps[1:]),
        steps=tuple(_row(priced_as, rates) for _, rates in steps),
        web_search=NO_RATE if entry.usd_per_web_search is None else _pusd(entry.usd_per_web_search),
        request=0 if entry.usd_per_request is None else _pusd(entry.usd_per_request),
        deployment=card.deployment or "",
        priced_as=priced_as,
    )


def _row(priced_as: dict[str, str], rates: dict[str, Decimal]) -> tuple[int, ...]:
    return tuple(pusd_per_token(rates[priced_as[b]]) if b in priced_as else NO_RATE for b in TOKEN_BUCKETS)


def _gpu_rates(card: DeploymentCard, entry: GpuRates) -> RateSet:
    hardware = " ".join(filter(None, (card.precision, card.engine, card.hardware)))
    return RateSet(
        source=card.kind,
        provider=hardware or "self-hosted",
        model=card.model,
        tier_applied="standard",
        valid_from_us=midnight_us(entry.from_),
        reference=entry.source,
        thresholds=(),
        steps=((0,) * len(TOKEN_BUCKETS),),  # the GPU's time pays for the tokens
        gpu_hour=_pusd(entry.usd_per_gpu_hour) * card.gpus,
        deployment=card.deployment,
        priced_as=dict.fromkeys(TOKEN_BUCKETS, "gpu"),
    )


def _timeline(entries: Sequence[Dated], sets: Sequence[int]) -> Timeline:
    """Return the timeline of dated entries: unknown before the first, and wherever one ends before the next."""
    starts, in_force = [], [UNKNOWN]
    for index, (entry, rate_set) in enumerate(zip(entries, sets, strict=True)):
        starts.append(midnight_us(entry.from_))
        in_force.append(rate_set)
        following = entries[index + 1].from_ if index + 1 < len(entries) else None
        if entry.until is not None and entry.until != following:
            starts.append(midnight_us(entry.until))
            in_force.append(UNKNOWN)
    return Timeline(tuple(starts), (), tuple(in_force))


def _pusd(usd: Decimal) -> int:
    return whole(usd * PICO_PER_USD)
