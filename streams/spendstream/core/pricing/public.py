"""The public price book, genai-prices, compiled into rate sets.

Its own ``calc_price`` takes 70-90 µs a call, and several times that for a model it doesn't know. Here each (model,
service tier) is compiled once, when it is first needed, by asking the price book for its prices in each period.

Its undated prices are today's; ``history`` says what applied before.

Two habits of genai-prices are not taken over. Where it has no price for a service tier it silently applies the standard
one: here such rates say ``tier_applied="standard"``. Where it has no rate for a bucket it charges 0: here a call that
uses the bucket is unpriced. Nor does a price found by a likeness pass for the model's own: a seller without a price of
its own, and a name that only begins like a listed one, are marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property, partial
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from spendstream.core.pricing.history import History, Past, packaged_history
from spendstream.core.pricing.names import Names, read_names
from spendstream.core.pricing.published import PACKAGE, PublishedBook
from spendstream.core.pricing.rates import (
    DAY_US,
    NAME_OF_RATE,
    NO_RATE,
    RATE_BUCKETS,
    SERVICE_TIERS,
    UNKNOWN,
    Caveat,
    Dimensions,
    Inexact,
    RateSet,
    RateTable,
    Timeline,
    UnitRate,
    bit,
    every_day,
    instant,
    merge,
    midnight_us,
    openings,
    rate_of,
    rate_of_each_bucket,
    rate_per_token,
)
from spendstream.schemas.measures import ESTIMATED, SUBSTITUTED
from spendstream.schemas.units import canonical_unit

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

_SAME_PRICE: Final = frozenset(
    {
        # https://azure.microsoft.com/en-us/pricing/details/cognitive-services/openai-service: OpenAI's list price,
        # on global deployments
        ("azure", "openai"),
        # https://platform.claude.com/docs/en/build-with-claude/claude-in-microsoft-foundry: standard API pricing
        ("azure", "anthropic"),
        # https://cloud.google.com/vertex-ai/generative-ai/pricing#claude-models: Anthropic's, on the global endpoint
        ("google", "anthropic"),
        # https://openrouter.ai/docs/faq: no markup on what the provider charges
        *(("openrouter", maker) for maker in ("anthropic", "google", "openai", "x-ai")),
    }
)
"""Sellers that charge what the maker does, by their own word. Others' prices are taken for want of a better one."""

_VERSION: Final = re.compile(r"[-@](?:\d{4}-\d\d-\d\d|\d{8}|\d{4})$")

_SAME_MODEL: Final = re.compile(
    r"(?:[-@:](?:\d{4}-\d\d-\d\d|\d\d-\d\d|\d\d-20\d\d|20\d{6}|20\d\d|\d{3,4}|default))?(?:-v\d+)?(?::\d+)?(?::\d+k)?$"
)
"""What may follow a model's name: a date, a version, Bedrock's ``-v1:0``."""

_BEGUN_VERSION: Final = re.compile(r"[-@](?:20\d*)?$")
"""How a name's beginning may leave off: ``claude-sonnet-4-2025``, ``claude-opus-4@``."""

_MINIMUM_SECONDS: Final = 10
_HAS_MINIMUM: Final = frozenset({("groq", "whisper-large-v3"), ("groq", "whisper-large-v3-turbo")})
"""Billed for at least 10 s a request, which only genai-prices' code says: https://console.groq.com/docs/speech-to-text."""

_FEES: Final = MappingProxyType({"requests": "request", "web_searches": "web_search"})
"""The price book's units that are cost buckets of their own, priced per thousand."""

MAX_INPUT: Final = 10**18
"""More input tokens than any call has."""

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
    caveats: tuple[Caveat, ...] = ()
    """Why the price may be another model's or another seller's."""


class PublicPrices:
    """The public prices, each compiled when it is first needed.

    Those of a book that was published later apply from its day on. It keeps the price of the books before for what it
    has no price for, or only another model's: such a price is estimated from then on.
    """

    def __init__(self, table: RateTable, history: History | None = None, kept: Sequence[PublishedBook] = ()) -> None:
        """``history``: the prices of the past; by default those in the package. ``kept``: in the order of taking."""
        self._table = table
        self._book = kept[-1] if kept else None
        self.before = PublicPrices(table, history, kept[:-1]) if kept else None
        """The prices without the newest book."""
        self._compiler = Compiler(table, packaged_history() if history is None else history)
        self._found: dict[tuple[str, tuple[str, ...]], _Listed | None] = {}
        self._ids: dict[str, str | None] = {}
        self._listed_names: dict[str, dict[str, str]] = {}
        self._timelines: dict[tuple[int, str], Timeline | None] = {}

    @cached_property
    def _providers(self) -> list[Provider]:
        if self._book is not None:
            return self._book.providers
        from genai_prices.data import providers  # takes 0.2 s: loaded when first needed

        return list(providers)

    def names(self, provider: str, model: str) -> Names:
        """Return who sells the model of a call, and what it may be called."""
        return read_names(provider, model, self._id_of)

    def timeline(self, names: Names, tier: str) -> Timeline | None:
        """Return the rate sets of a model at a service tier over time; None if the price book doesn't price it."""
        found = self._find(names)
        timeline = None if found is None else self._timeline(found, tier)
        if found is not None and timeline is not None:
            for caveat in found.caveats:
                timeline = timeline.replaced(partial(self._table.with_caveat, caveat=caveat))
        if self._book is None or self.before is None:
            return timeline
        former = self.before.read_again(names)
        before = self.before.timeline(former, tier)
        if found is not None and found.caveats and self.before.lists_itself(former):
            timeline = None
        if timeline is None and before is None:
            return None
        begun = Timeline((midnight_us(self._book.since),), (), (0, 1))
        return merge((begun, timeline or Timeline(), before or Timeline()), self._succeeded).compact()

    def read_again(self, names: Names) -> Names:
        """Return names of a call as this book reads them, which may know other providers than the one that did."""
        return self.names(names.providers[0], names.models[0])

    def lists_itself(self, names: Names) -> bool:
        """Return whether the price book has a model's own price, not only one like it."""
        found = self._find(names)
        return found is not None and not found.caveats

    def _succeeded(self, sets: tuple[int, ...]) -> int:
        """Choose between the rates of the newest book and of those before, at an instant."""
        has_begun, newer, older = sets
        assert self._book is not None
        if not has_begun or newer == older:
            return older
        if newer == UNKNOWN:
            note = f"{PACKAGE} {self._book.version} has no price for it: the one before applies still"
            return UNKNOWN if older == UNKNOWN else self._table.with_caveat(older, Caveat(ESTIMATED, note))
        rates, former = self._table.sets[newer], self._table.sets[older]
        if not rates.reference:  # the short form of the published JSON has none
            rates = replace(rates, reference=former.reference)
        if former == replace(rates, valid_from_us=former.valid_from_us):
            rates = former
        elif rates.valid_from_us is None or rates.valid_from_us < midnight_us(self._book.since):
            rates = replace(rates, valid_from_us=midnight_us(self._book.since))
        return self._table.intern(rates, self._table.caveats[newer])

    def why_unlisted(self, names: Names) -> str:
        """Return why the price book has no price for a model; "" if it has one."""
        if self.before is not None and not self.before.why_unlisted(self.before.read_again(names)):
            return ""
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

    def listed(self) -> dict[tuple[str, str], ModelInfo]:
        """Return the models that the newest book lists, by the ids of provider and model."""
        return {(provider.id, model.id): model for provider in self._providers for model in provider.models}

    def in_force(self) -> set[int]:
        """Return the rate sets that apply at some time to a model that any of the books lists."""
        listed, prices = self.listed(), self.before
        while prices is not None:
            listed, prices = {**listed, **prices.listed()}, prices.before
        timelines = [self.timeline(self.names(*key), tier) for key in listed for tier in SERVICE_TIERS]
        return {index for timeline in timelines if timeline is not None for index in timeline.sets}

    def excluded(self) -> tuple[Exclusion, ...]:
        """Return the prices of the newest book that can't be used, of the models that were asked for so far."""
        return tuple(self._compiler.exclusions)

    def compile_all(self) -> tuple[Exclusion, ...]:
        """Compile each model at each service tier. Returns the prices that can't be used."""
        for provider in self._providers:
            for model in provider.models:
                for tier in SERVICE_TIERS:
                    self._timeline(_Listed(provider, model, has_tiers=True), tier)
        before = () if self.before is None else self.before.compile_all()
        return tuple(dict.fromkeys((*self._compiler.exclusions, *before)))

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
                return _Listed(lister, found, lister is owner, tuple(_caveats(owner, lister, found, candidate)))
        if owner.id == "openrouter" and _AT_MAKERS_PRICE.match(names.listed[-1]):
            maker_name, _, model = names.listed[-1].partition("/")
            maker = self._provider(maker_name)
            found = None if maker is None else maker.find_model(model)
            if maker is not None and found is not None and _is_exactly(found, model):
                return _Listed(maker, found, has_tiers=False, caveats=tuple(_caveats(owner, maker, found, model)))
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

    def __init__(self, table: RateTable, history: History) -> None:
        self._table = table
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
        for index, (start_us, slot_us) in enumerate(openings(starts, slots)):
            at, slot = instant(start_us + slot_us % DAY_US), index % width
            prices = past.prices(model, at, context, special)
            if index >= width and prices != before[slot]:
                since[slot] = start_us
            before[slot] = prices
            listed_at = past.listed_at(at, special)
            applied = (
                tier if any(v.constraint is None or v.constraint.active(listed_at) for v in special) else "standard"
            )
            rate_set = self._rate_set(provider, model, prices, applied, since[slot])
            if rate_set is None:
                sets.append(UNKNOWN)
                continue
            rate_set = replace(rate_set, reference=past.source(at) or rate_set.reference)
            caveats = []
            for note, other_at in past.doubts(at, special):
                rates: tuple[tuple[int, int], ...] = ()
                if other_at is not None:
                    prices = past.prices(model, other_at, context, special)
                    rates = differing(rate_set, self._rate_set(provider, model, prices, applied, None))
                if other_at is None or any(mask for _, mask in rates):
                    caveats.append(Caveat(ESTIMATED, note, rates))
            sets.append(self._table.intern(rate_set, tuple(dict.fromkeys(caveats))))
        return Timeline(tuple(starts), tuple(slots), tuple(sets)).compact() if any(sets) else None

    def _rate_set(
        self, provider: Provider, model: ModelInfo, prices: ModelPrice, tier: str, since_us: int | None
    ) -> RateSet | None:
        priced = [(self._units[key], value) for key, value in prices.__dict__.items() if value is not None]
        tokens: dict[Dimensions, Any] = {
            frozenset(u.dimensions.items()): v for u, v in priced if u.dimensions["family"] == "tokens"
        }
        fees = {_FEES[u.usage_key]: v for u, v in priced if u.usage_key in _FEES}
        if not priced and model.id.endswith(":free"):  # how genai-prices marks models that cost nothing
            tokens = dict(_FREE)
        units = self._unit_rates(provider, model, priced)
        try:
            if not tokens and not fees and not units:
                raise Inexact("no price is published")
            taken = rate_of_each_bucket(tokens)
            by_hour = any(unit.dimensions["family"] == "durations" for unit, _ in priced)
            for bucket in ("input_audio", "cache_read_audio", "output_audio") if by_hour else ():
                if bucket in taken and _AUDIO not in taken[bucket]:  # not at a text rate
                    del taken[bucket]
                    self._exclude(provider, model, bucket, "billed by audio_seconds, not by the token")
            by_bucket = {**{bucket: tokens[rate] for bucket, rate in taken.items()}, **fees}
            starts = tuple(sorted({t.start for value in by_bucket.values() for t in getattr(value, "tiers", ())}))
            steps = self._steps(provider, model, by_bucket, starts)
        except ValueError as error:
            self._exclude(provider, model, "model", str(error))
            return None
        return RateSet(
            source="genai-prices",
            provider=provider.id,
            model=model.id,
            tier_applied=tier,
            valid_from_us=since_us,
            reference=(provider.pricing_urls or ("",))[0],
            thresholds=starts,
            steps=steps,
            units=units,
            priced_as={bucket: NAME_OF_RATE.get(rate, "free") for bucket, rate in taken.items()},
        )

    def _unit_rates(
        self, provider: Provider, model: ModelInfo, priced: Iterable[tuple[UnitDef, Any]]
    ) -> dict[str, UnitRate]:
        """Return what units beside tokens cost. One whose price depends on the size of the call has no rate."""
        rates: dict[str, UnitRate] = {}
        for variant in model.price_variants or ():
            if variant.when == {"search_type": "fast"} and "web_searches_kcount" in variant.prices.__dict__:
                rates["fast_web_searches"] = UnitRate(rate_of(_at_step(variant.prices.web_searches_kcount, -1)), 1000)
        for unit, value in priced:
            is_token = unit.dimensions["family"] == "tokens" and unit.dimensions.get("token_type") != "citation"
            if is_token or unit.usage_key in _FEES:
                continue
            name = canonical_unit(unit.usage_key)
            minimum = _MINIMUM_SECONDS if (provider.id, model.id) in _HAS_MINIMUM and unit.per == 3600 else 0
            try:
                rates[name] = UnitRate(rate_of(_at_step(value, -1)), unit.per, minimum)
                if getattr(value, "tiers", ()):
                    del rates[name]
                    raise Inexact("a price per unit that depends on the size of the call")
            except Inexact as error:
                self._exclude(provider, model, name, str(error))
        return rates

    def _steps(
        self, provider: Provider, model: ModelInfo, prices: dict[str, Any], starts: tuple[int, ...]
    ) -> tuple[tuple[int, ...], ...]:
        """Return rates by step and bucket. A bucket whose price can't be used has none. Raises: Inexact."""
        usable: dict[str, list[int]] = {}
        for bucket, price in prices.items():
            rate = partial(rate_of, per=1000) if bucket in _FEES.values() else rate_per_token
            try:
                usable[bucket] = [rate(_at_step(price, start)) for start in (-1, *starts)]
            except Inexact as error:
                if bucket == "request":  # every call pays it: without it no cost would be right
                    raise
                self._exclude(provider, model, bucket, str(error))
        none = [NO_RATE] * (len(starts) + 1)
        usable.setdefault("request", [0] * (len(starts) + 1))
        return tuple(zip(*(usable.get(bucket, none) for bucket in RATE_BUCKETS), strict=True))

    def _exclude(self, provider: Provider, model: ModelInfo, what: str, why: str) -> None:
        self.exclusions[Exclusion(provider.id, model.id, what, why)] = None


def _caveats(owner: Provider, lister: Provider, found: ModelInfo, name: str) -> Iterator[Caveat]:
    """Say where a price was found that isn't the seller's own, or not the model's."""
    if lister is not owner and (owner.id, lister.id) not in _SAME_PRICE:
        note = f"no price of {owner.id}'s own is known: the price of {lister.id} applies"
        yield Caveat(SUBSTITUTED, note)
    is_own = name.startswith(found.id.lower()) and _SAME_MODEL.match(name[len(found.id) :])
    if not is_own and not _FINE_TUNED_LISTING.search(found.id) and not _is_named(found.match, name):
        yield Caveat(SUBSTITUTED, f"the name only begins like {found.id}, whose price applies")


def _is_named(clause: Any, name: str) -> bool:
    """Return whether a clause means this name itself, or a dated version of it; not one that only begins like it."""
    kind = type(clause).__name__
    if kind == "ClauseOr":
        return any(_is_named(part, name) for part in clause.or_ if part.is_match(name))
    if kind == "ClauseAnd":
        return any(_is_named(part, name) for part in clause.and_ if type(part).__name__ != "ClauseRegex")
    if kind == "ClauseStartsWith":
        return bool(_SAME_MODEL.match(name[len(_BEGUN_VERSION.sub("", clause.starts_with)) :]))
    if kind == "ClauseContains":
        before, _, after = name.rpartition(_BEGUN_VERSION.sub("", clause.contains.lower()))
        return bool(_SAME_MODEL.match(after)) and (not before or before[-1] in "./")
    if kind == "ClauseEndsWith":
        return bool(re.search(r"(?:^|[./])$", name.removesuffix(clause.ends_with.lower())))
    return True  # equal, or by a pattern that says what it means


def differing(applied: RateSet, other: RateSet | None) -> tuple[tuple[int, int], ...]:
    """Return, for each step of rates, where it starts and which buckets, as a mask, have another rate at others."""
    steps = []
    for at, (start, end) in enumerate(pairwise((0, *applied.thresholds, MAX_INPUT))):
        mask = 0
        for bucket in RATE_BUCKETS:
            others = {NO_RATE}
            if other is not None:
                inside = (start, *(above for above in other.thresholds if start < above < end))
                others = {other.rate(bucket, above + 1) for above in inside}
            if others != {applied.steps[at][RATE_BUCKETS.index(bucket)]}:
                mask |= bit(bucket)
        steps.append((start, mask))
    return tuple(steps)


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
    return sorted(starts), every_day(slots | {0}) if slots - {0} else []


def _at_step(price: Any, start: int) -> Decimal:
    """Return the price of a call whose input exceeds ``start``, but not the next tier's start."""
    tiers = reversed(getattr(price, "tiers", ()))
    chosen = next((tier.price for tier in tiers if tier.start <= start), getattr(price, "base", price))
    if not isinstance(chosen, Decimal):
        raise Inexact(f"not a price: {chosen!r}")
    return chosen


def _since_midnight_us(moment: time) -> int:
    since = datetime.combine(date(1970, 1, 1), moment.replace(tzinfo=moment.tzinfo or UTC))
    return (since - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) % DAY_US
