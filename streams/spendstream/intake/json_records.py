"""The objects in a JSON document that are rows, each with the line it begins on and what encloses it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from json import JSONDecodeError, JSONDecoder
from typing import Any, Final

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


_decoder: Final = JSONDecoder(
    parse_float=str,  # as written: a float would lose digits
    parse_int=str,
    parse_constant=lambda text: None if text == "NaN" else text,  # as pandas writes what is missing
)


@dataclass(frozen=True, slots=True)
class Record:
    """An object that is a row. ``line`` counts from 1. ``text`` is its own, as written.

    ``place`` is its path in the document as jq writes it, ``.[2].results[0]``; ``key`` the name it stands under.
    ``enclosing`` are the objects around it, the nearest first. ``document`` counts the documents of a text from 0.
    """

    line: int
    document: int
    place: str
    key: str
    value: dict[str, Any]
    text: str
    enclosing: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Malformed:
    """What is no row. ``column`` counts from 1."""

    line: int
    column: int
    place: str
    message: str


@dataclass
class Left:
    """What reading left out or took up without being asked, for a note to the user.

    ``skipped``: rows left out by a condition. ``without``: objects without the name where rows were sought, by that
    name; ``names`` has what such an object has instead. ``by_name``: counts that were read because they are named as
    the event's, while other counts were mapped.
    """

    skipped: int = 0
    without: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    by_name: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Node:
    value: Any
    start: int
    end: int
    place: str
    key: str
    enclosing: tuple[dict[str, Any], ...]


class JsonRecords:
    """Iterates over the rows of ``text``, which begins on line ``first_line``.

    ``each`` is the dotted path to the rows: ``results``, ``data.results``; ``*`` is every member of an object. Lists on
    the way are walked through. Without it the document's own object, or each of a list, is a row. Several documents may
    follow each other. What is malformed ends the text.
    """

    def __init__(self, text: str, each: str, left: Left, first_line: int = 1) -> None:
        self._text = text
        self._each = tuple(each.split(".")) if each else ()
        self._left = left
        self._line = first_line
        self._counted_to = 0
        self._document = 0

    def __iter__(self) -> Iterator[Record | Malformed]:
        at = self._skip_space(0)
        try:
            while at < len(self._text):
                if self._text[at] == "[":  # not decoded as a whole: it may hold all rows
                    end = 0
                    for item in self._items(at, ".", ()):
                        if isinstance(item, int):
                            end = item
                        else:
                            yield from self._rows(item, self._each)
                else:
                    value, end = _decoder.raw_decode(self._text, at)
                    yield from self._rows(_Node(value, at, end, ".", "", ()), self._each)
                at = self._skip_space(end)
                self._document += 1
        except JSONDecodeError as error:
            message = f"not valid JSON: {error.msg}; what follows is not read. Correct the file, e.g. check it with jq"
            yield self._malformed(error.pos, "", message)
        except (RecursionError, ValueError) as error:
            yield Malformed(self._line, 1, "", f"JSON that can't be read ({error}); what follows is not read")

    def _rows(self, node: _Node, each: tuple[str, ...]) -> Iterator[Record | Malformed]:
        if isinstance(node.value, list):
            for item in self._items(node.start, node.place, node.enclosing):
                if not isinstance(item, int):
                    yield from self._rows(item, each)
        elif not isinstance(node.value, dict):
            what = {None: "null", True: "true", False: "false"}.get(node.value, "text or a number")
            yield self._malformed(
                node.start,
                node.place,
                f"{what} where an object is expected: name the objects that are rows with --each",
            )
        elif not each:
            text = self._text[node.start : node.end]
            yield Record(
                self._line_at(node.start), self._document, node.place, node.key, node.value, text, node.enclosing
            )
        elif each[0] == "*" or each[0] in node.value:
            for inner in self._members(node):
                if each[0] in ("*", inner.key):
                    yield from self._rows(inner, each[1:])
        else:
            self._left.without[each[0]] += 1
            self._left.names.setdefault(each[0], list(node.value))

    def _items(self, start: int, place: str, enclosing: tuple[dict[str, Any], ...]) -> Iterator[_Node | int]:
        """Yield the items of the list at ``start``, then the position of its end."""
        at, index = self._skip_space(start + 1), 0
        while not self._text.startswith("]", at):
            value, end = _decoder.raw_decode(self._text, at)
            yield _Node(value, at, end, f"{place}[{index}]", str(index), enclosing)
            at, index = self._skip_space(end), index + 1
            if self._text.startswith(",", at):
                at = self._skip_space(at + 1)
            elif not self._text.startswith("]", at):
                raise JSONDecodeError("expected ',' or ']'", self._text, at)
        yield at + 1

    def _members(self, node: _Node) -> Iterator[_Node]:
        """Yield the members of a valid object."""
        at = self._skip_space(node.start + 1)
        while self._text[at] != "}":
            key, end = _decoder.raw_decode(self._text, at)
            at = self._skip_space(self._skip_space(end) + 1)  # the colon
            value, end = _decoder.raw_decode(self._text, at)
            step = f".{key}" if _PLAIN_NAME.fullmatch(key) else f"[{json.dumps(key, ensure_ascii=False)}]"
            place = f"{node.place.rstrip('.')}{step}" if step.startswith(".") else f"{node.place}{step}"
            yield _Node(value, at, end, place, key, (node.value, *node.enclosing))
            at = self._skip_space(end)
            if self._text[at] == ",":
                at = self._skip_space(at + 1)

    def _skip_space(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def _line_at(self, at: int) -> int:
        """Return the line of a position, which is not before the last one asked for."""
        self._line += self._text.count("\n", self._counted_to, at)
        self._counted_to = at
        return self._line

    def _malformed(self, at: int, place: str, message: str) -> Malformed:
        column = at - self._text.rfind("\n", 0, at)
        if at < self._counted_to:
            return Malformed(self._line - self._text.count("\n", at, self._counted_to), column, place, message)
        return Malformed(self._line_at(at), column, place, message)
