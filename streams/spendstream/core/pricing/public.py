"""The public price book, genai-prices, compiled into rate sets.

Its own ``calc_price`` takes 70-90 µs a call, and several times that for a model it doesn't know. Here each (model,
service tier) is compiled once, when it is first needed, by asking the price book for its prices in each period.

Its undated prices are today's; ``history`` says what applied before.

Two habits of genai-prices are not taken over. Where it has no price for a service tier it silently applies the standard
one: here such rates say ``tier_applied="standard"``. Where it has no rate for a bucket it charges 0: here a call that
uses the bucket is unpriced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from spendstream.core.pricing.history import History, Past, packaged_history
from spendstream.core.pricing.names import Names, read_names
from spendstream.core.pricing.rates import (
    DAY_US,
    NAME_OF_RATE,
    NO_RATE,
    SERVICE_TIERS,
    UNKNOWN,
    Dimensions,
    Inexact,
    Intern,
    RateSet,
    Timeline,
    instant,
    midnight_us,
    openings,
    pusd_per_token,
    rate_of_each_bucket,
    whole,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider
    from genai_prices.units import UnitDef

CONTEXT: Final = MappingProxyType(
    {
        "standard": {},
        "batch": {"processing": "batch"},
        "flex": {"service_tier": "flex"},
        "priority": {"service_tier": "priority"},
        "fast": {"speed": "fast", "service_tier": "fast"},
    }
)
"""Service tiers as the price book names them: ``fast`` is Anthropic's ``speed`` and OpenAI's ``service_tier``."""

MAX_NAMES: Final = 65_536
"""How many looked-up names are remembered, known or not. Names come with events, so there must be a limit."""

_FINE_TUNED_LISTING: Final = re.compile(r"^ft:|\.ft-")
"""The price book's ids of fine-tuned models."""

_AT_MAKERS_PRICE: Final = re.compile(
    r"^(?:anthropic/claude-|google/gemini-|openai/(?:chatgpt-|gpt-(?!oss)|o\d)|x-ai/grok-)[^:]*$"
)
"""What OpenRouter resells at its maker's price. Open weights have many sellers, and a suffix changes the price."""

_VERSION: Final = re.compile(r"[-@](?:\d{4}-\d\d-\d\d|\d{8}|\d{4})$")

_FREE: Final = {frozenset({("family", "tokens")}): Decimal(0)}
_AUDIO: Final = ("modality", "audio")


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Public prices that can't be used; calls that need them are unpriced."""

    provider: str
    model: str
    what: str
    """A bucket, or ``model`` if none of its prices can be used."""
    why: str


@dataclass(frozen=True, slots=True)
class _Listed:
    provider: Provider
    model: ModelInfo
    has_tiers: bool
    """False if it was found by fallback: service tiers have only the prices that the model's own provider offers."""


class PublicPrices:
    """The public prices, each compiled when it is first needed."""

    def __init__(self, intern: Intern, history: History | None = None) -> None:
        """``history``: the prices of the past; by default those in the package."""
        self._compiler = Compiler(intern, packaged_history() if history is None else history)
        self._found: dict[tuple[str, tuple[str, ...]], _Listed | None] = {}
        self._ids: dict[str, str | None] = {}
        self._listed_names: dict[str, dict[str, str]] = {}
        self._timelines: dict[tuple[int, str], Timeline | None] = {}

    @cached_property
    def _providers(self) -> list[Provider]:
        from genai_prices.data import providers  # takes 0.2 s: loaded when first needed

        return list(providers)

    def names(self, provider: str, model: str) -> Names:
        """Return who sells the model of a call, and what it may be called."""
        return read_names(provider, model, self._id_of)

    def timeline(self, names: Names, tier: str) -> Timeline | None:
        """Return the rate sets of a model at a service tier over time; None if the price book doesn't price it."""
        found = self._find(names)
        return None if found is None else self._timeline(found, tier)

    def why_unlisted(self, names: Names) -> str:
        """Return why the price book has no price for a model; "" if it has one."""
        if names.reason:
            return names.reason
        if (found := self._find(names)) is not None:
            return "" if self._timeline(found, "standard") else "the public price book lists it without a usable price"
        if names.is_fine_tuned:
            return "a fine-tuned model is not billed as its base, and the public price book has no price for this one"
        return f"the public price book doesn't list this model of {names.seller}"

    def nearest(self, names: Names, most: int = 3) -> tuple[str, ...]:
        """Return the names in the price book that look most like a model's, the seller's own first: never a match."""
        if not self._listed_names:
            for provider in self._providers:
                self._listed_names[provider.id] = {model.id.lower(): model.id for model in provider.models}
        wanted = names.models[-1]
        own = self._listed_names.get(names.seller, {})
        near = [f"{names.seller} {own[name]}" for name in get_close_matches(wanted, own, most, cutoff=0.7)]
        if not near:  # the same model of another seller
            tail = wanted.rpartition("/")[2]
            near = [f"{seller} {listed[tail]}" for seller, listed in self._listed_names.items() if tail in listed]
        return tuple(near[:most])

    def compile_all(self) -> tuple[Exclusion, ...]:
        """Compile each model at each service tier. Returns the prices that can't be used."""
        for provider in self._providers:
            for model in provider.models:
                for tier in SERVICE_TIERS:
                    self._timeline(_Listed(provider, model, has_tiers=True), tier)
        return tuple(self._compiler.exclusions)

    def _provider(self, name: str) -> Provider | None:
        from genai_prices.data_snapshot import find_provider_by_id

        return find_provider_by_id(self._providers, name)

    def _id_of(self, name: str) -> str | None:
        if name not in self._ids:
            if len(self._ids) >= MAX_NAMES:
                self._ids.clear()
            provider = self._provider(name)
            self._ids[name] = None if provider is None else provider.id
        return self._ids[name]

    def _find(self, names: Names) -> _Listed | None:
        """Find the model whose prices apply, and remember it."""
        key = names.seller, names.listed
        if key not in self._found:
            if len(self._found) >= MAX_NAMES:
                self._found.clear()
            self._found[key] = self._look_up(names)
        return self._found[key]

    def _look_up(self, names: Names) -> _Listed | None:
        """Look a model up at its seller, then where its seller takes prices from: Azure sells OpenAI's models."""
        owner = self._provider(names.seller) if names.listed else None
        if owner is None:
            return None
        others = [p for name in owner.fallback_model_providers or () for p in self._providers if p.id == name]
        for candidate in names.listed:
            for lister in (owner, *others):
                found = lister.find_model(candidate)
                if found is None or (owner.id == "azure" and not _is_exactly(found, candidate)):
                    continue
                if names.is_fine_tuned and (lister is not owner or not _FINE_TUNED_LISTING.search(found.id)):
                    continue
                return _Listed(lister, found, has_tiers=lister is owner)
        if owner.id == "openrouter" and _AT_MAKERS_PRICE.match(names.listed[-1]):
            maker_name, _, model = names.listed[-1].partition("/")
            maker = self._provider(maker_name)
            found = None if maker is None else maker.find_model(model)
            if maker is not None and found is not None and _is_exactly(found, model):
                return _Listed(maker, found, has_tiers=False)
        return None

    def _timeline(self, listed: _Listed, tier: str) -> Timeline | None:
        if not listed.has_tiers or not self._compiler.offers(listed.provider, listed.model, CONTEXT[tier]):
            tier = "standard"
        key = id(listed.model), tier
        if key not in self._timelines:
            self._timelines[key] = self._compiler.timeline(listed.provider, listed.model, CONTEXT[tier], tier)
        return self._timelines[key]


class Compiler:
    """Turns one model's dated, conditional and tiered prices into rate sets on a timeline; lists what can't be used."""

    def __init__(self, intern: Intern, history: History) -> None:
        self._intern = intern
        self._history = history
        self.exclusions: dict[Exclusion, None] = {}

    @cached_property
    def _units(self) -> dict[str, UnitDef]:
        from genai_prices.data_units import unit_data
        from genai_prices.units import UnitRegistry

        return {unit.price_key: unit for unit in UnitRegistry(unit_data).units.values()}

    def offers(self, provider: Provider, model: ModelInfo, context: Mapping[str, str]) -> bool:
        """Return whether a model has, or ever had, prices for the service tier that the context states."""
        special = variants(model, context)
        return bool(special) or self._history.past(provider.id, model).ever_offered(context)

    def timeline(self, provider: Provider, model: ModelInfo, context: Mapping[str, str], tier: str) -> Timeline | None:
        """Return a model's rate sets over time, at the service tier that the context states; None if it has no price.

        genai-prices is asked once for each period of whole days and each time of day in which its answer may differ.
        """
        special = variants(model, context)
        past = self._history.past(provider.id, model)
        starts, slots = _boundaries(model, special, past)
        width = len(slots) + 1
        since: list[int | None] = [None] * width
        before: list[ModelPrice | None] = [None] * width
        sets = []
        for index, time_us in enumerate(openings(starts, slots)):
            at, slot = instant(time_us), index % width
            prices = past.prices(model, at, context, special)
            if index >= width and prices != before[slot]:
                since[slot] = time_us - time_us % DAY_US
            before[slot] = prices
            listed_at = past.listed_at(at, special)
            applied = (
                tier if any(v.constraint is None or v.constraint.active(listed_at) for v in special) else "standard"
            )
            rate_set = self._rate_set(provider, model, prices, applied, since[slot])
            if rate_set is not None:
                reference = past.source(at) or rate_set.reference
                rate_set = replace(rate_set, reference=reference, estimated=past.doubt(at, special))
            sets.append(UNKNOWN if rate_set is None else self._intern(rate_set))
        return Timeline(tuple(starts), tuple(slots), tuple(sets)).compact() if any(sets) else None

    def _rate_set(
        self, provider: Provider, model: ModelInfo, prices: ModelPrice, tier: str, since_us: int | None
    ) -> RateSet | None:
        priced = [(self._units[key], value) for key, value in prices.__dict__.items() if value is not None]
        tokens: dict[Dimensions, Any] = {
            frozenset(u.dimensions.items()): v for u, v in priced if u.dimensions["family"] == "tokens"
        }
        fees = {u.usage_key: v for u, v in priced if u.usage_key in ("requests", "web_searches")}
        if not priced and model.id.endswith(":free"):  # how genai-prices marks models that cost nothing
            tokens = dict(_FREE)
        try:
            if not tokens and not fees:
                raise Inexact(_why_unusable(unit.usage_key for unit, _ in priced))
            taken = rate_of_each_bucket(tokens)
            request = _per_unit(fees.get("requests", Decimal(0)))
            web_search = _per_unit(fees["web_searches"]) if "web_searches" in fees else NO_RATE
        except ValueError as error:
            self._exclude(provider, model, "model", str(error))
            return None
        if any(unit.dimensions["family"] == "durations" for unit, _ in priced):
            for bucket in ("input_audio", "cache_read_audio", "output_audio"):
                if bucket in taken and _AUDIO not in taken[bucket]:  # not at a text rate: audio is billed by the hour
                    del taken[bucket]
                    self._exclude(provider, model, bucket, _why_unusable(["audio_seconds"]))
        starts = tuple(sorted({tier.start for value in tokens.values() for tier in getattr(value, "tiers", ())}))
        return RateSet(
            source="genai-prices",
            provider=provider.id,
            model=model.id,
            tier_applied=tier,
            valid_from_us=since_us,
            reference=(provider.pricing_urls or ("",))[0],
            thresholds=starts,
            steps=self._steps(provider, model, {b: tokens[rate] for b, rate in taken.items()}, starts),
            web_search=web_search,
            request=request,
            priced_as={bucket: NAME_OF_RATE.get(rate, "free") for bucket, rate in taken.items()},
        )

    def _steps(
        self, provider: Provider, model: ModelInfo, prices: dict[str, Any], starts: tuple[int, ...]
    ) -> tuple[tuple[int, ...], ...]:
        """Return pico-dollars per token, by step and bucket. A bucket whose price isn't exact has no rate."""
        exact: dict[str, list[int]] = {}
        for bucket, price in prices.items():
            try:
                exact[bucket] = [pusd_per_token(_at_step(price, start)) for start in (-1, *starts)]
            except Inexact as error:
                self._exclude(provider, model, bucket, str(error))
        none = [NO_RATE] * (len(starts) + 1)
        return tuple(zip(*(exact.get(bucket, none) for bucket in TOKEN_BUCKETS), strict=True))

    def _exclude(self, provider: Provider, model: ModelInfo, what: str, why: str) -> None:
        self.exclusions[Exclusion(provider.id, model.id, what, why)] = None


def _why_unusable(units: Iterable[str]) -> str:
    billed = ", ".join(units)
    return f"billed by {billed}, which events don't count" if billed else "no price is published"


def _is_exactly(model: ModelInfo, name: str) -> bool:
    """Return whether a name is the model's, whole but for a date: Azure's users name deployments, ``o4-mini-acme``."""
    words = {model.id.lower(), *_words_of(model.match)}
    return name in words or _VERSION.sub("", name) in words


def _words_of(clause: Any) -> Iterator[str]:
    for value in vars(clause).values():
        if isinstance(value, str):
            yield value.lower()
        else:
            for part in value:
                yield from _words_of(part)


def variants(model: ModelInfo, context: Mapping[str, str]) -> list[PriceVariant]:
    """Return the prices that apply in this context alone. Some variants only say that nothing differs: not those."""
    return [
        variant
        for variant in model.price_variants or ()
        if variant.prices.__dict__ and all(context.get(key) == value for key, value in variant.when.items())
    ]


def _boundaries(model: ModelInfo, special: list[PriceVariant], past: Past) -> tuple[list[int], list[int]]:
    """Return the midnights (epoch µs) and the times of day (µs) at which the prices may change."""
    starts = {midnight_us(day) for day in past.days()}
    slots = {_since_midnight_us(moment) for moment in past.times()}
    dated = model.prices if isinstance(model.prices, list) else []
    for constraint in [*(price.constraint for price in dated), *(variant.constraint for variant in special)]:
        if constraint is None:
            continue
        if hasattr(constraint, "start_date"):
            starts.add(midnight_us(constraint.start_date))
        else:
            slots |= {_since_midnight_us(constraint.start_time), _since_midnight_us(constraint.end_time)}
    return sorted(starts), sorted(slots - {0})


def _at_step(price: Any, start: int) -> Decimal:
    """Return the price of a call whose input exceeds ``start``, but not the next tier's start."""
    tiers = reversed(getattr(price, "tiers", ()))
    chosen = next((tier.price for tier in tiers if tier.start <= start), getattr(price, "base", price))
    if not isinstance(chosen, Decimal):
        raise Inexact(f"not a price: {chosen!r}")
    return chosen


def _per_unit(usd_per_thousand: Any) -> int:
    if not isinstance(usd_per_thousand, Decimal):
        raise Inexact("a fee that depends on the size of the call")
    return whole(usd_per_thousand * 10**9)


def _since_midnight_us(moment: time) -> int:
    since = datetime.combine(date(1970, 1, 1), moment.replace(tzinfo=moment.tzinfo or UTC))
    return (since - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) % DAY_US
