"""YAML files that people write, read with the line and column of everything that is wrong.

``compose`` turns text into nodes with positions, ``repeated_keys`` finds keys written twice, and ``validate`` checks
nodes against a model. Scalars stay the text in the file: 0.1 never becomes a float on its way to an exact amount.

DocumentError   files can't be used; holds every issue
Unreadable      one file can't be opened, or isn't YAML
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spendstream.errors import SpendstreamError

Model = TypeVar("Model", bound=BaseModel)

Loc = tuple[str | int, ...]
"""Field names and list indices, as in pydantic's errors; ``[key]`` after a name means the name itself."""

MAX_DEPTH: Final = 32  # documents are 8 deep; an alias that contains itself is endless

_KEY: Final = "[key]"
_DISCRIMINATOR: Final = "kind"
_NULL: Final = "tag:yaml.org,2002:null"

_MESSAGES: Final = {
    "missing": "missing field: add it",
    "dict_type": "expected a mapping (name: value)",
    "model_type": "expected a mapping (name: value)",
    "model_attributes_type": "expected a mapping (name: value)",
    "list_type": "expected a list (- ...)",
    "tuple_type": "expected a list (- ...)",
    "string_type": "expected text",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "finite_number": "expected a number",
    "datetime_parsing": "not a valid time: write it with its zone, e.g. 2026-03-01T22:00:00Z",
    "datetime_from_date_parsing": "not a valid time: write it with its zone, e.g. 2026-03-01T22:00:00Z",
    "decimal_parsing": "expected an amount in plain digits, e.g. 3 or 0.25",
    "decimal_type": "expected an amount in plain digits, e.g. 3 or 0.25",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "decimal_max_digits": "too long: at most {max_digits} digits",
    "decimal_max_places": "too fine: at most {decimal_places} decimals",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "empty: add at least one",
}
"""pydantic's kind of error → what the file's author reads."""


@dataclass(frozen=True, slots=True, order=True)
class Issue:
    """One thing to fix: where it is (line and column count from 1), and what to do."""

    file: Path
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class DocumentError(SpendstreamError):
    """Files can't be used. ``issues`` holds every issue in order; the text has one line for each."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = tuple(sorted(issues))
        super().__init__("\n".join(map(str, self.issues)))


class Unreadable(ValueError):
    """A file can't be opened, or isn't YAML. ``issue`` says where."""

    def __init__(self, issue: Issue) -> None:
        self.issue = issue
        super().__init__(str(issue))


def compose(file: Path, content: bytes | None = None) -> Node | None:
    """Return the root of a YAML file; None if it is empty. ``content``: its bytes, if they were read already.

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
    """Find keys written twice: YAML would silently keep one of them."""
    if isinstance(node, ScalarNode) or depth > MAX_DEPTH:
        return
    children = node.value
    if isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            if str(key.value) in seen:
                message = f"{key.value}: already set on line {seen[str(key.value)]}: remove one"
                yield Issue(file, line, column, message)
            seen[str(key.value)] = line
        children = [value for _, value in node.value]
    for child in children:
        yield from repeated_keys(file, child, depth + 1)


def validate(model: type[Model], file: Path, root: Node) -> tuple[Model | None, list[Issue]]:
    """Return the object that a document describes, or None and everything that is wrong with the document."""
    try:
        return model.model_validate(plain(root)), []
    except RecursionError:
        return None, [Issue(file, 1, 1, "an alias contains itself: write its contents out")]
    except ValidationError as error:
        issues = []
        for details in error.errors(include_url=False):
            # a list that is too short only because its items are wrong, which have errors of their own
            is_echo = details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]
            if not is_echo:
                issues.append(_issue(model, file, root, details))
        return None, issues


def plain(node: Node, depth: int = 0) -> Any:
    """Return dicts, lists, text and None. Raises: RecursionError, if an alias contains itself."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(node, MappingNode):
        return {str(key.value): plain(value, depth + 1) for key, value in node.value}
    if isinstance(node, SequenceNode):
        return [plain(item, depth + 1) for item in node.value]
    return None if str(node.tag) == _NULL else node.value


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean team?`` if a known word is close, else all of them."""
    choices = tuple(dict.fromkeys(known))
    near = get_close_matches(word, choices, n=1)
    return f"did you mean {near[0]}?" if near else "one of " + ", ".join(choices)


def issue_at(file: Path, root: Node, loc: Loc, message: str) -> Issue:
    """Return an issue at ``loc``, whose message starts with the name of what is wrong."""
    name = ".".join(_names(root, loc))
    return Issue(file, *position(root, loc), f"{name}: {message}" if name else message)


def position(node: Node, loc: Loc) -> tuple[int, int]:
    """Return line and column, from 1, of the deepest part of ``loc`` that the file has."""
    for at, part in enumerate(loc):
        child = _child(node, part)
        if child is None:
            if _is_kind(node, part):
                continue
            break
        key, node = child
        if key is not None and loc[at + 1 :] == (_KEY,):
            node = key
    return node.start_mark.line + 1, node.start_mark.column + 1


def _child(node: Node, part: str | int) -> tuple[Node | None, Node] | None:
    """Return key and value of a mapping's member, or None and a list's item; None if it isn't there."""
    if isinstance(node, MappingNode):
        # if a key is written twice, the last one counts
        return next(((key, value) for key, value in reversed(node.value) if key.value == part), None)
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None


def _is_kind(node: Node, part: str | int) -> bool:
    """Whether a part of a location isn't a field, but the ``kind`` that selected the model."""
    chosen = _child(node, _DISCRIMINATOR)
    return chosen is not None and isinstance(chosen[1], ScalarNode) and chosen[1].value == part


def _names(node: Node, loc: Loc) -> Iterator[str]:
    """Name each part; a list's item by its own ``name``, if it has one."""
    inside: Node | None = node
    for part in loc:
        child = _child(inside, part) if inside is not None else None
        if part == _KEY or (child is None and inside is not None and _is_kind(inside, part)):
            continue
        inside = child[1] if child is not None else None
        named = _child(inside, "name") if isinstance(part, int) and inside is not None else None
        own = named[1].value if named is not None and isinstance(named[1], ScalarNode) else ""
        yield str(own or part)


def _issue(model: type[BaseModel], file: Path, root: Node, details: ErrorDetails) -> Issue:
    context = details.get("ctx", {})
    loc: Loc = (*details["loc"], *context.get("at", ()))
    kind, given = details["type"], details.get("input")
    if kind == "union_tag_invalid":
        loc = (*loc, _DISCRIMINATOR)
        message = f"unknown kind {context['tag']}: {did_you_mean(context['tag'], _quoted(context['expected_tags']))}"
    elif kind == "union_tag_not_found":
        tags = _schema(model, loc).get("discriminator", {}).get("mapping", {})
        message = f"missing field {_DISCRIMINATOR}: add it, one of {', '.join(tags)}"
    elif kind == "literal_error":
        word = "null" if given is None else str(given)
        message = f"unknown value {word}: {did_you_mean(word, _quoted(context['expected']))}"
    elif kind == "extra_forbidden":
        message = _unknown_field(model, root, loc)
    else:
        message = _MESSAGES[kind].format_map({**context}) if kind in _MESSAGES else details["msg"]
    return issue_at(file, root, loc, message)


def _unknown_field(model: type[BaseModel], root: Node, loc: Loc) -> str:
    name = str(loc[-1])
    if name == "<<":
        return "merge keys aren't supported: write the fields out"
    known = list(_schema(model, loc[:-1]).get("properties", {}))
    inside: Node | None = root
    for part in loc[:-1]:
        child = _child(inside, part) if inside is not None else None
        if child is not None:
            inside = child[1]
        elif inside is None or not _is_kind(inside, part):
            inside = None
    unused = [field for field in known if inside is None or _child(inside, field) is None]
    near = get_close_matches(name, unused, n=1)
    return f"unknown field: did you mean {near[0]}?" if near else "unknown field: check its spelling, or remove it"


def _quoted(expected: str) -> list[str]:
    """Return the words of pydantic's ``'a', 'b' or 'c'``."""
    return [part.strip("' ") for part in expected.replace(" or ", ", ").split(",")]


def _schema(model: type[BaseModel], loc: Loc) -> Mapping[str, Any]:
    """Return the part of the model's JSON Schema that describes ``loc``; empty if there is none."""
    whole = model.model_json_schema()
    part: Mapping[str, Any] = whole
    for step in loc:
        part = _resolved(whole, part)
        if step in part.get("discriminator", {}).get("mapping", {}):
            part = {"$ref": part["discriminator"]["mapping"][step]}
        elif isinstance(step, int):
            part = part.get("items", {})
        else:
            part = part.get("properties", {}).get(step) or part.get("additionalProperties") or {}
        if not isinstance(part, Mapping):
            return {}
    return _resolved(whole, part)


def _resolved(whole: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    options = [option for option in part.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        part = options[0]
    return whole["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
