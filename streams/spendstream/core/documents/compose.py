"""YAML text to nodes that know where they stand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from spendstream.core.documents.issue import Issue

MAX_DEPTH: Final = 32  # documents are 8 deep; an alias that holds itself is endless


class Unreadable(ValueError):
    """A file can't be opened, or isn't YAML. ``issue`` says where."""

    def __init__(self, issue: Issue) -> None:
        self.issue = issue
        super().__init__(str(issue))


def compose(file: Path, content: bytes | None = None) -> Node | None:
    """Return the root of a YAML file; None where it is empty. ``content``: its bytes, where they were read already.

    Raises: Unreadable.
    """
    try:
        text = (file.read_bytes() if content is None else content).decode("utf-8")
        root: Node | None = YAML(typ="rt").compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Unreadable(Issue(file, line, column, f"not YAML: {error.problem or error.context}")) from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise Unreadable(Issue(file, 1, 1, f"can't be read: {error}")) from error
    return root


def repeated_keys(file: Path, node: Node, depth: int = 0) -> Iterator[Issue]:
    """Find keys written twice: YAML keeps one of them, silently."""
    if isinstance(node, ScalarNode) or depth > MAX_DEPTH:
        return
    children = node.value
    if isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            if str(key.value) in seen:
                message = f"{key.value}: already given in line {seen[str(key.value)]}: remove one"
                yield Issue(file, line, column, message)
            seen[str(key.value)] = line
        children = [value for _, value in node.value]
    for child in children:
        yield from repeated_keys(file, child, depth + 1)
