"""Read rate cards from YAML, with the line and column of whatever is wrong."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ruamel.yaml.nodes import Node

from spendstream.core.documents import Issue, Unreadable, compose, position, repeated_keys, validate
from spendstream.core.pricing.errors import RateCardInvalid, RateCardUnreadable
from spendstream.schemas.rate_card import DeploymentCard, RateCards, TokenCard

Card = TokenCard | DeploymentCard


def read_cards(paths: Sequence[Path]) -> list[Card]:
    """Read the cards of files, and of the ``.yaml`` and ``.yml`` files of directories, in the order given.

    Raises: RateCardUnreadable, RateCardInvalid; each with every finding of its kind in all files.
    """
    documents = _open_all(_files(paths))
    issues: list[Issue] = []
    found: list[tuple[Card, Issue]] = []
    for file, root in documents:
        repeated = list(repeated_keys(file, root))
        issues += repeated
        if not repeated:
            found += _validate(file, root, issues)
    issues += _contradictions(found)
    if issues:
        raise RateCardInvalid(issues)
    return [card for card, _ in found]


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
        else:
            yield path


def _open_all(files: Iterator[Path]) -> list[tuple[Path, Node]]:
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


def _validate(file: Path, root: Node, issues: list[Issue]) -> list[tuple[Card, Issue]]:
    """Return the file's cards, each with where it stands; append what is wrong with them to ``issues``."""
    cards, wrong = validate(RateCards, file, root)
    issues += wrong
    if cards is None:
        return []
    by_key: dict[str, Sequence[Card]] = {"cards": cards.cards, "deployments": cards.deployments}
    return [
        (card, Issue(file, *position(root, (key, index)), ""))
        for key, listed in by_key.items()
        for index, card in enumerate(listed)
    ]


def _contradictions(found: list[tuple[Card, Issue]]) -> Iterator[Issue]:
    """Find cards that price the same calls with the same precedence: which one is right can't be told."""
    first: dict[object, Issue] = {}
    for card, place in found:
        scope = scope_of(card)
        if scope in first:
            other = first[scope]
            message = f"the same calls are priced in {other.file}:{other.line}: make it one card, with dated rates"
            yield Issue(place.file, place.line, place.column, message)
        first.setdefault(scope, place)
    yield from _priced_twice(found)


def _priced_twice(found: list[tuple[Card, Issue]]) -> Iterator[Issue]:
    by_gpu_hour = {(card.kind, card.deployment.lower()) for card, _ in found if isinstance(card, DeploymentCard)}
    for card, place in found:
        if isinstance(card, TokenCard) and card.deployment and (card.kind, card.deployment.lower()) in by_gpu_hour:
            message = f"{card.deployment} is priced by the GPU-hour as well: a deployment is billed one way"
            yield Issue(place.file, place.line, place.column, message)


def scope_of(card: Card) -> tuple[str, ...]:
    """Return which calls a card prices, as far as two cards can be compared by their words."""
    if isinstance(card, DeploymentCard):
        return card.kind, "*", card.model.lower(), "", "", card.deployment.lower()
    scope = (card.region or "").lower(), card.service_tier or "", (card.deployment or "").lower()
    return card.kind, card.provider.lower(), card.model.lower(), *scope
