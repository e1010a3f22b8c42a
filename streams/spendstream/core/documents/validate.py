"""Nodes against a model: the object, or every finding in words and with its place."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from spendstream.core.documents.compose import MAX_DEPTH
from spendstream.core.documents.issue import Issue
from spendstream.core.documents.place import Loc, child_of, is_kind, issue_at

Model = TypeVar("Model", bound=BaseModel)

_NULL: Final = "tag:yaml.org,2002:null"

_WORDS: Final = {
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
    "datetime_parsing": "not a time: write it with its zone, as 2026-03-01T22:00:00Z",
    "datetime_from_date_parsing": "not a time: write it with its zone, as 2026-03-01T22:00:00Z",
    "decimal_parsing": "expected an amount in plain digits, as 3 or 0.25",
    "decimal_type": "expected an amount in plain digits, as 3 or 0.25",
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


def validate(model: type[Model], file: Path, root: Node) -> tuple[Model | None, list[Issue]]:
    """Return the object that a document describes, or None and what is wrong with it: every finding."""
    try:
        return model.model_validate(plain(root)), []
    except RecursionError:
        return None, [Issue(file, 1, 1, "an alias holds itself: write it out")]
    except ValidationError as error:
        found = [details for details in error.errors(include_url=False) if not _is_echo(details)]
        return None, [_issue(model, file, root, details) for details in found]


def plain(node: Node, depth: int = 0) -> Any:
    """Return dicts, lists, text and None. Raises: RecursionError, where an alias holds itself."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(node, MappingNode):
        return {str(key.value): plain(value, depth + 1) for key, value in node.value}
    if isinstance(node, SequenceNode):
        return [plain(item, depth + 1) for item in node.value]
    return None if str(node.tag) == _NULL else node.value


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean team?`` where a known word is near, else all of them."""
    choices = tuple(dict.fromkeys(known))
    near = get_close_matches(word, choices, n=1)
    return f"did you mean {near[0]}?" if near else "one of " + ", ".join(choices)


def _issue(model: type[BaseModel], file: Path, root: Node, details: ErrorDetails) -> Issue:
    context = details.get("ctx", {})
    loc: Loc = (*details["loc"], *context.get("at", ()))
    kind, given = details["type"], details.get("input")
    if kind == "union_tag_invalid":
        loc = (*loc, "kind")
        message = f"unknown kind {context['tag']}: {did_you_mean(context['tag'], _quoted(context['expected_tags']))}"
    elif kind == "union_tag_not_found":
        message = f"missing field kind: add it, one of {', '.join(_tags(model, loc))}"
    elif kind == "literal_error":
        word = "null" if given is None else str(given)
        message = f"unknown value {word}: {did_you_mean(word, _quoted(context['expected']))}"
    elif kind == "extra_forbidden":
        message = _unknown_field(model, root, loc)
    else:
        message = _WORDS.get(kind, details["msg"]).format_map({**context}) if kind in _WORDS else details["msg"]
    return issue_at(file, root, loc, message)


def _is_echo(details: ErrorDetails) -> bool:
    """Whether a list is too short only because its items, told one by one, are wrong."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def _unknown_field(model: type[BaseModel], root: Node, loc: Loc) -> str:
    name = str(loc[-1])
    if name == "<<":
        return "merge keys are not read: write the fields out"
    known = _fields(model, loc[:-1])
    inside: Node | None = root
    for part in loc[:-1]:
        child = child_of(inside, part) if inside is not None else None
        if child is not None:
            inside = child[1]
        elif inside is None or not is_kind(inside, part):
            inside = None
    unused = [field for field in known if inside is None or child_of(inside, field) is None]
    near = get_close_matches(name, unused, n=1)
    return f"unknown field: did you mean {near[0]}?" if near else "unknown field: check its spelling, or remove it"


def _quoted(expected: str) -> list[str]:
    """Return the words of pydantic's ``'a', 'b' or 'c'``."""
    return [part.strip("' ") for part in expected.replace(" or ", ", ").split(",")]


def _fields(model: type[BaseModel], loc: Loc) -> list[str]:
    return list(_schema(model, loc).get("properties", {}))


def _tags(model: type[BaseModel], loc: Loc) -> list[str]:
    return list(_schema(model, loc).get("discriminator", {}).get("mapping", {}))


def _schema(model: type[BaseModel], loc: Loc) -> Mapping[str, Any]:
    """Return the part of the model's JSON Schema that describes ``loc``; empty where it says nothing."""
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
