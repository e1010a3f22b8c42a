"""From a location in a model to line, column and name in the file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spendstream.core.documents.issue import Issue

Loc = tuple[str | int, ...]
"""Field names and list indices, as pydantic's errors have them; ``[key]`` after a name is the name itself."""

KEY: Final = "[key]"
_DISCRIMINATOR: Final = "kind"


def issue_at(file: Path, root: Node, loc: Loc, message: str) -> Issue:
    """Return an issue at ``loc``, whose message begins with the name of what is wrong."""
    name = ".".join(_names(root, loc))
    return Issue(file, *position(root, loc), f"{name}: {message}" if name else message)


def position(node: Node, loc: Loc) -> tuple[int, int]:
    """Return line and column, from 1, of the deepest part of ``loc`` that the file has."""
    for at, part in enumerate(loc):
        child = child_of(node, part)
        if child is None:
            if is_kind(node, part):
                continue
            break
        key, node = child
        if key is not None and loc[at + 1 :] == (KEY,):
            node = key
    return node.start_mark.line + 1, node.start_mark.column + 1


def child_of(node: Node, part: str | int) -> tuple[Node | None, Node] | None:
    """Return key and value of a mapping's member, or no key and a list's item; None where it isn't there."""
    if isinstance(node, MappingNode):
        # of a key written twice the last one holds
        return next(((key, value) for key, value in reversed(node.value) if key.value == part), None)
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None


def is_kind(node: Node, part: str | int) -> bool:
    """Whether a part of a location is no field, but the ``kind`` that chose among models."""
    chosen = child_of(node, _DISCRIMINATOR)
    return chosen is not None and isinstance(chosen[1], ScalarNode) and chosen[1].value == part


def _names(node: Node, loc: Loc) -> Iterator[str]:
    """Name each part; an item of a list by its own name, where it has one."""
    inside: Node | None = node
    for part in loc:
        child = child_of(inside, part) if inside is not None else None
        if part == KEY or (child is None and inside is not None and is_kind(inside, part)):
            continue
        inside = child[1] if child is not None else None
        named = child_of(inside, "name") if isinstance(part, int) and inside is not None else None
        own = named[1].value if named is not None and isinstance(named[1], ScalarNode) else ""
        yield str(own or part)
