"""Read rate cards from YAML, with the line and column of whatever is wrong.

Scalars are taken as the text that stands in the file: 0.1 is never a float on its way to an exact amount.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from schemas.rate_card import DeploymentCard, RateCards, TokenCard
from streams.core.pricing.errors import Issue, RateCardInvalid, RateCardUnreadable

Card = TokenCard | DeploymentCard
_Loc = tuple[str | int, ...]

_NULL: Final = "tag:yaml.org,2002:null"
_MAX_DEPTH: Final = 32  # cards are 7 deep; an alias that holds itself is endless

_WORDS: Final = {
    "extra_forbidden": "unknown field: check its spelling, or remove it",
    "missing": "missing field: add it",
    "dict_type": "expected a mapping (name: value)",
    "model_type": "expected a mapping (name: value)",
    "model_attributes_type": "expected a mapping (name: value)",
    "list_type": "expected a list (- ...)",
    "string_type": "expected text",
    "int_parsing": "expected a whole number",
    "too_short": "empty: add at least one",
}


def read_cards(paths: Sequence[Path]) -> list[Card]:
    """Read the cards of files, and of the ``.yaml`` and ``.yml`` files of directories, in the order given.

    Raises: RateCardUnreadable, RateCardInvalid; each with every finding of its kind in all files.
    """
    documents = _open_all(_files(paths))
    issues: list[Issue] = []
    found: list[tuple[Card, Issue]] = []
    for file, root in documents:
        repeated = list(_repeated_keys(file, root))
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
            root = YAML(typ="rt").compose(file.read_text(encoding="utf-8"))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            issues.append(Issue(file, line, column, f"not YAML: {error.problem or error.context}"))
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            issues.append(Issue(file, 1, 1, f"can't be read: {error}"))
        else:
            if root is not None:  # an empty file has no cards
                documents.append((file, root))
    if issues:
        raise RateCardUnreadable(issues)
    return documents


def _validate(file: Path, root: Node, issues: list[Issue]) -> list[tuple[Card, Issue]]:
    """Return the file's cards, each with where it stands; append what is wrong with them to ``issues``."""
    try:
        cards = RateCards.model_validate(_plain(root))
    except RecursionError:
        issues.append(Issue(file, 1, 1, "an alias holds itself: write it out"))
        return []
    except ValidationError as error:
        issues += [_issue(file, root, details) for details in error.errors(include_url=False)]
        return []
    by_key: dict[str, Sequence[Card]] = {"cards": cards.cards, "deployments": cards.deployments}
    return [
        (card, Issue(file, *_position(root, (key, index)), ""))
        for key, listed in by_key.items()
        for index, card in enumerate(listed)
    ]


def _plain(node: Node, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(node, MappingNode):
        return {str(key.value): _plain(value, depth + 1) for key, value in node.value}
    if isinstance(node, SequenceNode):
        return [_plain(item, depth + 1) for item in node.value]
    return None if str(node.tag) == _NULL else node.value


def _issue(file: Path, root: Node, details: ErrorDetails) -> Issue:
    loc: _Loc = (*details["loc"], *details.get("ctx", {}).get("at", ()))
    line, column = _position(root, loc)
    name = ".".join(str(part) for part in loc if part != "[key]")
    return Issue(file, line, column, f"{name}: {_WORDS.get(details['type'], details['msg'])}")


def _position(node: Node, loc: _Loc) -> tuple[int, int]:
    """Return line and column of the deepest part of ``loc`` that the file has."""
    for part in loc:
        child = _child(node, part)
        if child is None:
            break
        key, node = child
        if key is not None and loc[-2:] == (part, "[key]"):
            node = key
    return node.start_mark.line + 1, node.start_mark.column + 1


def _child(node: Node, part: str | int) -> tuple[Node | None, Node] | None:
    if isinstance(node, MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None


def _repeated_keys(file: Path, node: Node, depth: int = 0) -> Iterator[Issue]:
    """Find keys written twice: YAML keeps one of them, silently."""
    if isinstance(node, ScalarNode) or depth > _MAX_DEPTH:
        return
    children = node.value
    if isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            if key.value in seen:
                yield Issue(file, line, column, f"{key.value}: already given in line {seen[key.value]}: remove one")
            seen[str(key.value)] = line
        children = [value for _, value in node.value]
    for child in children:
        yield from _repeated_keys(file, child, depth + 1)


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
