"""Your own rate cards: read from YAML, and compiled into timelines of rate sets.

Everything that is wrong is found before the first call is priced, with its line and column.

RateCardError
├── RateCardUnreadable   a file can't be opened, or isn't YAML
└── RateCardInvalid      a card breaks a rule, or contradicts another
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from ruamel.yaml.nodes import Node

from spendstream.core.documents import DocumentError, Issue, Unreadable, compose, position, repeated_keys, validate
from spendstream.core.pricing.choose import Aliases, OwnCard
from spendstream.core.pricing.names import PROVIDER_ALIASES
from spendstream.core.pricing.rates import (
    NAME_OF_RATE,
    NO_RATE,
    PICO_PER_USD,
    RATE_DIMENSIONS,
    SERVICE_TIERS,
    UNKNOWN,
    Intern,
    RateSet,
    Timeline,
    midnight_us,
    pusd_per_token,
    rate_of_each_bucket,
    whole,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rate_card import (
    Dated,
    DeploymentCard,
    GpuRates,
    ModelAlias,
    RateCards,
    TokenCard,
    TokenRates,
)
from spendstream.schemas.usage import ServiceTier


class RateCardError(DocumentError):
    """Rate cards can't be used. ``issues`` holds every issue in order; the text has one line for each."""


class RateCardUnreadable(RateCardError):
    """A file can't be opened, or isn't YAML."""


class RateCardInvalid(RateCardError):
    """A card breaks a rule, or contradicts another."""


Card = TokenCard | DeploymentCard
Entry = Card | ModelAlias


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


def _compose_all(paths: Sequence[Path]) -> list[tuple[Path, Node]]:
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml")) if path.is_dir() else [path]
    documents, issues = [], []
    for file in files:
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
        if isinstance(card, ModelAlias):
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

    yield from _ambiguous_aliases(found)


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


def _alias_key(provider: str, model: str) -> tuple[str, str]:
    provider = provider.lower()
    return PROVIDER_ALIASES.get(provider, provider), model.lower()


def aliases_of(entries: Sequence[Entry]) -> Aliases:
    """Return what each alias stands for, in lower case."""
    return {
        _alias_key(alias.provider, alias.model): ((alias.means.provider or "").lower(), alias.means.model.lower())
        for alias in entries
        if isinstance(alias, ModelAlias)
    }


def _scope(card: Card) -> tuple[str, ...]:
    """Return which calls a card prices, in a form that two cards can be compared by."""
    if isinstance(card, DeploymentCard):
        return card.kind, "*", card.model.lower(), "", "", card.deployment.lower()
    scope = (card.region or "").lower(), card.service_tier or "", (card.deployment or "").lower()
    return card.kind, card.provider.lower(), card.model.lower(), *scope


def compile_cards(entries: Sequence[Entry], intern: Intern) -> tuple[OwnCard, ...]:
    """Compile cards into matchable ones. All their rate sets are interned, whether or not a call ever needs them."""
    compiled = []
    for card in entries:
        if isinstance(card, ModelAlias):
            continue
        timelines: dict[str, Timeline]
        if isinstance(card, DeploymentCard):
            sets = [intern(_gpu_rates(card, entry)) for entry in card.rates]
            timelines = dict.fromkeys(SERVICE_TIERS, _timeline(card.rates, sets))
            provider, scope = "*", ("", "", card.deployment.lower())
        else:
            timelines = {
                tier: _timeline(card.rates, [intern(_token_rates(card, entry, tier)) for entry in card.rates])
                for tier in (SERVICE_TIERS if card.service_tier is None else (card.service_tier,))
            }
            provider = PROVIDER_ALIASES.get(card.provider.lower(), card.provider.lower())
            scope = (card.region or "").lower(), card.service_tier or "", (card.deployment or "").lower()
        compiled.append(OwnCard(card.kind, provider, card.model.lower(), *scope, timelines))
    return tuple(compiled)


def _token_rates(card: TokenCard, entry: TokenRates, tier: ServiceTier) -> RateSet:
    block = entry.at_service_tier(tier)
    covering = rate_of_each_bucket(RATE_DIMENSIONS[bucket] for bucket in block.usd_per_mtok)
    priced_as = {bucket: NAME_OF_RATE[rate] for bucket, rate in covering.items()}
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
        steps=tuple(
            tuple(pusd_per_token(rates[priced_as[b]]) if b in priced_as else NO_RATE for b in TOKEN_BUCKETS)
            for _, rates in steps
        ),
        web_search=NO_RATE if entry.usd_per_web_search is None else _pusd(entry.usd_per_web_search),
        request=0 if entry.usd_per_request is None else _pusd(entry.usd_per_request),
        deployment=card.deployment or "",
        priced_as=priced_as,
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
        steps=((0,) * len(TOKEN_BUCKETS),),  # the GPU's time pays for the tokens
        gpu_hour=_pusd(entry.usd_per_gpu_hour) * card.gpus,
        deployment=card.deployment,
        priced_as=dict.fromkeys(TOKEN_BUCKETS, "gpu"),
    )


def _timeline(entries: Sequence[Dated], sets: Sequence[int]) -> Timeline:
    """Return the timeline of dated entries: unknown before the first, and in gaps between entries."""
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
