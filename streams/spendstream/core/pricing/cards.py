"""Your own rate cards: read from YAML, and compiled into timelines of rate sets.

Everything that is wrong is found before the first call is priced, with its line and column.

RateCardError
├── RateCardUnreadable   a file can't be opened, or isn't YAML
└── RateCardInvalid      a card breaks a rule, or contradicts another
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal

from ruamel.yaml.nodes import Node

from spendstream.core.documents import DocumentError, Issue, Unreadable, compose, position, repeated_keys, validate
from spendstream.core.pricing.choose import Adjustment, CardKind, Cards, Multiple, OwnCard
from spendstream.core.pricing.names import PROVIDER_ALIASES
from spendstream.core.pricing.rates import (
    ALL_RATES,
    NAME_OF_RATE,
    NO_RATE,
    PICO_PER_USD,
    RATE_DIMENSIONS,
    SERVICE_TIERS,
    UNKNOWN,
    WEEK_US,
    Intern,
    Multiplier,
    RateSet,
    Timeline,
    UnitRate,
    midnight_us,
    rate_of,
    rate_of_each_bucket,
    rate_per_token,
    whole,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rate_card import (
    Dated,
    DeploymentCard,
    GpuRates,
    HoursRates,
    ModelAlias,
    RateCards,
    RegionAdjustment,
    TokenCard,
    TokenRates,
)
from spendstream.schemas.usage import ServiceTier

_MINUTE_US: Final = 60_000_000


class RateCardError(DocumentError):
    """Rate cards can't be used. ``issues`` holds every issue in order; the text has one line for each."""


class RateCardUnreadable(RateCardError):
    """A file can't be opened, or isn't YAML."""


class RateCardInvalid(RateCardError):
    """A card breaks a rule, or contradicts another."""


Card = TokenCard | DeploymentCard
Entry = Card | RegionAdjustment | ModelAlias


def read_cards(paths: Sequence[Path]) -> list[Entry]:
    """Read the cards and aliases of files, and of the ``.yaml`` and ``.yml`` files of directories, in the order given.

    Raises: RateCardUnreadable, RateCardInvalid; each with every issue of its kind in all files.
    """
    documents = _compose_all(paths)
    issues: list[Issue] = []
    found: list[tuple[Entry, Issue]] = []
    for file, root in documents:
        repeated = list(repeated_keys(file, root))
        issues += repeated
        if not repeated:
            found += _validate(file, root, issues)
    issues += _contradictions(found)
    if issues:
        raise RateCardInvalid(issues)
    return [card for card, _ in found]


def card_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of ``paths``, in the order given; of a directory its ``.yaml`` and ``.yml`` files by name."""
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml")) if path.is_dir() else [path]
    return files


def _compose_all(paths: Sequence[Path]) -> list[tuple[Path, Node]]:
    documents, issues = [], []
    for file in card_files(paths):
        try:
            root = compose(file)
        except Unreadable as error:
            issues.append(error.issue)
        else:
            if root is not None:  # an empty file has no cards
                documents.append((file, root))
    if issues:
        raise RateCardUnreadable(issues)
    return documents


def _validate(file: Path, root: Node, issues: list[Issue]) -> list[tuple[Entry, Issue]]:
    """Return the file's cards and aliases with their positions; append what is wrong with them to ``issues``."""
    cards, wrong = validate(RateCards, file, root)
    issues += wrong
    if cards is None:
        return []
    by_key: dict[str, Sequence[Entry]] = {
        "cards": cards.cards,
        "deployments": cards.deployments,
        "adjustments": cards.adjustments,
        "aliases": cards.aliases,
    }
    return [
        (card, Issue(file, *position(root, (key, index)), ""))
        for key, listed in by_key.items()
        for index, card in enumerate(listed)
    ]


def _contradictions(found: list[tuple[Entry, Issue]]) -> Iterator[Issue]:
    """Find cards that price the same calls with the same precedence, and names that aliases make ambiguous."""
    first: dict[object, Issue] = {}
    for card, place in found:
        if isinstance(card, ModelAlias | RegionAdjustment):
            continue
        scope = _scope(card)
        if scope in first:
            other = first[scope]
            message = (
                f"the same calls are priced in {other.file}:{other.line}: merge the two into one card with dated rates"
            )
            yield Issue(place.file, place.line, place.column, message)
        first.setdefault(scope, place)
    by_gpu_hour = {(card.kind, card.deployment.lower()) for card, _ in found if isinstance(card, DeploymentCard)}
    for card, place in found:
        if isinstance(card, TokenCard) and card.deployment and (card.kind, card.deployment.lower()) in by_gpu_hour:
            message = f"{card.deployment} is also priced by the GPU-hour: remove one, a deployment is billed one way"
            yield Issue(place.file, place.line, place.column, message)

    yield from _overlapping_adjustments(found)
    yield from _ambiguous_aliases(found)


def _overlapping_adjustments(found: list[tuple[Entry, Issue]]) -> Iterator[Issue]:
    """Find adjustments of the same calls at the same time."""
    seen: dict[object, list[tuple[RegionAdjustment, Issue]]] = {}
    for entry, place in found:
        if isinstance(entry, RegionAdjustment):
            names = entry.model, entry.region or "", entry.inference_geo or ""
            scope = entry.kind, _usual_provider(entry.provider), *(name.lower() for name in names)
            for other, where in seen.setdefault(scope, []):
                if (other.until is None or entry.from_ < other.until) and (
                    entry.until is None or other.from_ < entry.until
                ):
                    message = f"the same calls are adjusted in {where.file}:{where.line}: end one of them with until"
                    yield Issue(place.file, place.line, place.column, message)
            seen[scope].append((entry, place))


def _ambiguous_aliases(found: list[tuple[Entry, Issue]]) -> Iterator[Issue]:
    """Find aliases with two meanings, aliases of aliases, and cards that an alias would hide."""
    aliases: dict[tuple[str, str], Issue] = {}
    for entry, place in found:
        if isinstance(entry, ModelAlias):
            other = aliases.setdefault(_alias_key(entry.provider, entry.model), place)
            if other is not place:
                message = f"{entry.model} already has an alias in {other.file}:{other.line}: remove one"
                yield Issue(place.file, place.line, place.column, message)
    for entry, place in found:
        if isinstance(entry, ModelAlias):
            other_name = _alias_key(entry.means.provider or entry.provider, entry.means.model)
            if other_name in aliases:
                message = f"{entry.means.model} is an alias itself: name the model that it stands for"
                yield Issue(place.file, place.line, place.column, message)
        elif isinstance(entry, TokenCard) and (hidden_by := aliases.get(_alias_key(entry.provider, entry.model))):
            message = f"{entry.model} is an alias in {hidden_by.file}:{hidden_by.line}: remove the alias or this card"
            yield Issue(place.file, place.line, place.column, message)


def _usual_provider(provider: str) -> str:
    """Return the name by which a provider's cards are found, so that ``x_ai`` and ``x-ai`` are one."""
    return PROVIDER_ALIASES.get(provider.lower(), provider.lower())


def _alias_key(provider: str, model: str) -> tuple[str, str]:
    return _usual_provider(provider), model.lower()


def _scope(card: Card) -> tuple[str, ...]:
    """Return which calls a card prices, in a form that two cards can be compared by."""
    if isinstance(card, DeploymentCard):
        return card.kind, "*", card.model.lower(), "", "", "", "", card.deployment.lower()
    places = (card.region or "").lower(), (card.inference_geo or "").lower()
    rest = card.service_tier or "", card.capacity, (card.deployment or "").lower()
    return card.kind, _usual_provider(card.provider), card.model.lower(), *places, *rest


def compile_cards(entries: Sequence[Entry], intern: Intern, kind: Literal["correction"] | None = None) -> Cards:
    """Compile cards into matchable ones. All their rate sets are interned, whether or not a call ever needs them.

    ``kind``: what all of them are, whatever they say; by default each is what it says.
    """
    cards, adjustments, aliases = [], [], {}
    for entry in entries:
        if isinstance(entry, DeploymentCard):
            cards.append(_deployment(entry, intern))
        elif isinstance(entry, TokenCard):
            cards.append(_token_card(entry, intern, kind or entry.kind))
        elif isinstance(entry, RegionAdjustment):
            adjustments.append(_adjustment(entry, kind or entry.kind))
        else:
            aliases[_alias_key(entry.provider, entry.model)] = (
                (entry.means.provider or "").lower(),
                entry.means.model.lower(),
            )
    return Cards(tuple(cards), tuple(adjustments), aliases)


def _deployment(card: DeploymentCard, intern: Intern) -> OwnCard:
    sets = [intern(_gpu_rates(card, entry)) for entry in card.rates]
    timeline = _timeline(card.rates, (), [(index,) for index in sets])
    timelines = dict.fromkeys(SERVICE_TIERS, timeline)
    return OwnCard(card.kind, "*", card.model.lower(), "", "", "", "any", card.deployment.lower(), timelines)


def _token_card(card: TokenCard, intern: Intern, kind: CardKind) -> OwnCard:
    slots = sorted({at for entry in card.rates for block in entry.hours for at in _edges(block)} - {0})
    multiples: list[Multiple] = []

    def index_of(entry: TokenRates, tier: ServiceTier, hours: HoursRates | None) -> int:
        if entry.share is None:
            return intern(_token_rates(card, entry, tier, hours, kind))
        multiple = _multiple(card, entry, hours, kind)
        if multiple not in multiples:
            multiples.append(multiple)
        return -1 - multiples.index(multiple)

    timelines = {
        tier: _timeline(
            card.rates,
            slots,
            [[index_of(entry, tier, _hours_at(entry, slot)) for slot in (0, *slots)] for entry in card.rates],
        )
        for tier in (SERVICE_TIERS if card.service_tier is None else (card.service_tier,))
    }
    return OwnCard(
        kind,
        _usual_provider(card.provider),
        card.model.lower(),
        (card.region or "").lower(),
        (card.inference_geo or "").lower(),
        card.service_tier or "",
        card.capacity,
        (card.deployment or "").lower(),
        timelines,
        tuple(multiples),
    )


def _token_rates(
    card: TokenCard,
    entry: TokenRates,
    tier: ServiceTier,
    hours: HoursRates | None,
    kind: CardKind,
) -> RateSet:
    steps = entry.steps(tier, hours)
    covering = rate_of_each_bucket(RATE_DIMENSIONS[bucket] for bucket in steps[0].usd_per_mtok)
    priced_as = {bucket: NAME_OF_RATE[rate] for bucket, rate in covering.items()}
    own_tier = card.service_tier or (tier if tier in entry.service_tiers else "standard")
    return RateSet(
        source=kind,
        provider=card.provider,
        model=card.model,
        tier_applied=own_tier,
        valid_from_us=midnight_us(entry.from_),
        reference=entry.source,
        thresholds=tuple(step.above_input_tokens for step in steps[1:]),
        steps=tuple(
            (
                *(
                    rate_per_token(step.usd_per_mtok[priced_as[b]]) if b in priced_as else NO_RATE
                    for b in TOKEN_BUCKETS
                ),
                NO_RATE if step.usd_per_web_search is None else rate_of(step.usd_per_web_search),
                0 if step.usd_per_request is None else rate_of(step.usd_per_request),
            )
            for step in steps
        ),
        units={unit: UnitRate(rate_of(usd)) for unit, usd in (entry.usd_per_unit or {}).items()},
        deployment=card.deployment or "",
        priced_as=priced_as,
    )


def _multiple(
    card: TokenCard,
    entry: TokenRates,
    hours: HoursRates | None,
    kind: CardKind,
) -> Multiple:
    factor = (entry.share or Decimal(0)) * (Decimal(1) if hours is None else hours.multiplier or Decimal(0))
    buckets = tuple(entry.buckets or ALL_RATES)
    multiplier = Multiplier(factor, buckets, "", "")  # of what is known once there is a call
    since_us = midnight_us(entry.from_)
    rates = {bucket: rate_per_token(usd) for bucket, usd in (entry.usd_per_mtok or {}).items()}
    if entry.usd_per_web_search is not None:
        rates["web_search"] = rate_of(entry.usd_per_web_search)
    if entry.usd_per_request is not None:
        rates["request"] = rate_of(entry.usd_per_request)
    return Multiple(
        kind,
        card.provider,
        card.model,
        entry.source,
        since_us,
        multiplier,
        entry.of_service_tier,
        tuple(rates.items()),
        tuple((unit, UnitRate(rate_of(usd))) for unit, usd in (entry.usd_per_unit or {}).items()),
    )


def _adjustment(entry: RegionAdjustment, kind: CardKind) -> Adjustment:
    by: Literal["region", "inference_geo"] = "region" if entry.region is not None else "inference_geo"
    place = (entry.region or entry.inference_geo or "").lower()
    return Adjustment(
        kind,
        _usual_provider(entry.provider),
        entry.model.lower(),
        by,
        place,
        midnight_us(entry.from_),
        None if entry.until is None else midnight_us(entry.until),
        Multiplier(entry.multiplier, tuple(entry.buckets or TOKEN_BUCKETS), f"{by} {place}", entry.source),
    )


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
        steps=((*(0 for _ in TOKEN_BUCKETS), NO_RATE, 0),),  # the GPU's time pays for the tokens
        gpu_hour=_pusd(entry.usd_per_gpu_hour) * card.gpus,
        deployment=card.deployment,
        priced_as=dict.fromkeys(TOKEN_BUCKETS, "gpu"),
    )


def _edges(block: HoursRates) -> set[int]:
    """Return the times of the week (µs since Monday 00:00 UTC) at which a block of hours starts or ends."""
    return {minute * _MINUTE_US % WEEK_US for span in block.minutes() for minute in span}


def _hours_at(entry: TokenRates, slot_us: int) -> HoursRates | None:
    """Return the block of hours that a time of the week is in."""
    minute, week = slot_us // _MINUTE_US, WEEK_US // _MINUTE_US
    for block in entry.hours:
        if any(start <= minute + turn < end for start, end in block.minutes() for turn in (0, week)):
            return block
    return None


def _timeline(entries: Sequence[Dated], slots_us: Sequence[int], sets: Sequence[Sequence[int]]) -> Timeline:
    """Return the timeline of dated entries: unknown before the first, and in gaps between entries."""
    unknown = [UNKNOWN] * (len(slots_us) + 1)
    starts, in_force = [], [*unknown]
    for index, (entry, by_slot) in enumerate(zip(entries, sets, strict=True)):
        starts.append(midnight_us(entry.from_))
        in_force += by_slot
        following = entries[index + 1].from_ if index + 1 < len(entries) else None
        if entry.until is not None and entry.until != following:
            starts.append(midnight_us(entry.until))
            in_force += unknown
    return Timeline(tuple(starts), tuple(slots_us), tuple(in_force))


def _pusd(usd: Decimal) -> int:
    return whole(usd * PICO_PER_USD)
