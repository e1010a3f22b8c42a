"""Where the value of a field comes from: a column, a dotted path, or arithmetic over them.

``total-cached``                          two columns
``usage.prompt_tokens``                   a path into a JSON object; a number is a position in a list
``^start_time``                           of the enclosing object
``@file``, ``@line``, ``@key``            where the row stands; the name under which its object stands
``"Total Tokens" - "cached-tokens"``      names that hold an operator need quotes inside arithmetic
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, DivisionByZero, InvalidOperation
from typing import Any, Final

from spendstream.intake.cells import EXACT, number

Lookup = Callable[[str], str | None]
"""A name → its trimmed text in the row at hand; None if it is absent or empty."""

POSITIONS: Final = ("@file", "@line", "@key")

_TOKEN: Final = re.compile(r'\s*(?:"([^"]+)"|([-+*/()])|([^-+*/()"]+))')
_CONSTANT: Final = re.compile(r"\d+(\.\d+)?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """``text``: as the user wrote it. ``steps``: arithmetic in postfix order, names, numbers and operators; empty for
    a plain name. ``optional``: written with a ``?`` at its end: no row has to have it."""

    text: str
    steps: tuple[str | Decimal, ...] = ()
    optional: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it reads."""
        if not self.steps:
            return (self.text,)
        return tuple(step for step in self.steps if isinstance(step, str) and step not in _OPERATORS)

    def read(self, lookup: Lookup) -> str | None:
        """Return the text of its value in a row; None if it has none.

        In arithmetic an absent name counts as 0, unless all of them are absent.

        Raises: ValueError, for text in place of a number, or a division by 0.
        """
        if not self.steps:
            return lookup(self.text)
        found = False
        stack: list[Decimal] = []
        for step in self.steps:
            if isinstance(step, Decimal):
                stack.append(step)
            elif step in _OPERATORS:
                right = stack.pop()
                left = stack.pop()
                try:
                    stack.append(_OPERATORS[step](left, right))
                except (DivisionByZero, InvalidOperation):
                    raise ValueError(f"{left:f} {step} {right:f} has no result") from None
            else:
                try:
                    operand = None if (text := lookup(step)) is None else number(text)
                except ValueError as error:
                    raise ValueError(f"{step}: {error}") from None
                found |= operand is not None
                stack.append(operand or Decimal(0))
        return f"{stack[0]:f}" if found else None


_OPERATORS: Final[dict[str, Callable[[Decimal, Decimal], Decimal]]] = {
    "+": EXACT.add,
    "-": EXACT.subtract,
    "*": EXACT.multiply,
    "/": EXACT.divide,
}


def parse(text: str, is_name: Callable[[str], bool], *, may_calculate: bool) -> Source:
    """Return the source that a mapping's right side means. What ``is_name`` knows as a whole is a name.

    Raises: ValueError, for arithmetic that can't be read.
    """
    text = text.strip()
    if is_name(text):
        return Source(text)
    optional = text.endswith("?")
    if optional:
        text = text[:-1].rstrip()
    if not may_calculate or is_name(text) or not re.search(r'[-+*/("]', text):
        return Source(text, optional=optional)
    tokens = list(_tokens(text))
    steps, rest = _sum(tokens)
    if rest:
        raise ValueError(f"{text!r} can't be read at {rest[0][1]!r}: use names, numbers, + - * / and parentheses")
    if len(steps) == 1 and isinstance(steps[0], str):
        return Source(steps[0], optional=optional)
    source = Source(text, tuple(steps), optional)
    if not source.names:
        raise ValueError(f"{text!r} reads no column: use --set for a constant")
    return source


_Tokens = list[tuple[str, str]]


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text.rstrip()):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"{text!r}: a quote is never closed")
        quoted, operator, plain = token.groups()
        if quoted is not None:
            yield "name", quoted
        elif operator is not None:
            yield "operator", operator
        elif plain.strip():
            plain = plain.strip()
            yield ("number" if _CONSTANT.fullmatch(plain) else "name"), plain
        at = token.end()


def _sum(tokens: _Tokens) -> tuple[list[str | Decimal], _Tokens]:
    steps, tokens = _product(tokens)
    while tokens and tokens[0] in (("operator", "+"), ("operator", "-")):
        more, rest = _product(tokens[1:])
        steps, tokens = [*steps, *more, tokens[0][1]], rest
    return steps, tokens


def _product(tokens: _Tokens) -> tuple[list[str | Decimal], _Tokens]:
    steps, tokens = _operand(tokens)
    while tokens and tokens[0] in (("operator", "*"), ("operator", "/")):
        more, rest = _operand(tokens[1:])
        steps, tokens = [*steps, *more, tokens[0][1]], rest
    return steps, tokens


def _operand(tokens: _Tokens) -> tuple[list[str | Decimal], _Tokens]:
    if not tokens:
        raise ValueError("the arithmetic ends with an operator: a name or a number must follow")
    kind, text = tokens[0]
    if kind == "name":
        return [text], tokens[1:]
    if kind == "number":
        return [Decimal(text)], tokens[1:]
    if text == "(":
        steps, rest = _sum(tokens[1:])
        if not rest or rest[0] != ("operator", ")"):
            raise ValueError("a parenthesis is never closed")
        return steps, rest[1:]
    raise ValueError(f"{text!r} stands where a name or a number is expected; quote a name that holds an operator")


def member(value: Any, path: str) -> Any:
    """Return what stands at a dotted path below a JSON value; ``MISSING`` if nothing does.

    A name that itself holds dots, as OpenTelemetry's ``gen_ai.usage.input_tokens``, is found as it is written.
    """
    if isinstance(value, dict):
        if path in value:
            return value[path]
        cut = path.rfind(".")
        while cut > 0:
            if path[:cut] in value and (found := member(value[path[:cut]], path[cut + 1 :])) is not MISSING:
                return found
            cut = path.rfind(".", 0, cut)
    elif isinstance(value, list):
        first, _, rest = path.partition(".")
        if first.isdigit() and first.isascii() and len(first) < 10 and int(first) < len(value):
            return member(value[int(first)], rest) if rest else value[int(first)]
    return MISSING


MISSING: Final = object()
