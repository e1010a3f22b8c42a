"""What a piece of SQL is before a server reads it: how many statements, and whether it only reads.

This is ClickHouse's lexer without its grammar. Comments (nested ones too), strings, quoted names and heredocs are
skipped whole, so that a ``;`` or a keyword in one of them decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

READING_KEYWORDS: Final = frozenset(
    {"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "USE", "SET"}
)
"""A statement that starts otherwise changes something. SET and USE last as long as the request."""

_TOKEN = re.compile(
    rb"(?P<gap>\s+|--[^\n]*|\#[ !][^\n]*)"
    rb"|(?P<comment>/\*)"
    rb"|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`"
    rb"|\xe2\x80\x98.*?\xe2\x80\x99|\xe2\x80\x9c.*?\xe2\x80\x9d"  # typographic quotes, which ClickHouse reads as quotes
    rb"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
    rb"|(?P<word>\w[\w$]*)"
    rb"|(?P<end>;)"
    rb"|(?P<open>\()"
    rb"|.",
    re.DOTALL,
)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")


def tokens(text: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Yield ``(kind, text, start)`` of each token but comments and white space.

    The kind is ``word``, ``end`` (a semicolon), ``open`` (a parenthesis), or empty for anything else.
    """
    at = 0
    while match := _TOKEN.match(text, at):
        at = match.end()
        kind = match.lastgroup or ""
        if kind == "comment":
            at = _comment_end(text, at)
        elif kind != "gap":
            yield "" if kind == "tag" else kind, match.group(), match.start()


def _comment_end(text: bytes, at: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge.group() == b"/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def stacked_at(text: bytes) -> int | None:
    """Where a second statement follows the first: the position of the ``;`` between them. None for one statement.

    Semicolons at the end are allowed: ``SELECT 1;`` is one statement, also before a comment.
    """
    end = None
    for kind, _, start in tokens(text):
        if kind != "end":
            if end is not None:
                return end
        elif end is None:
            end = start
    return None


def first_keyword(text: bytes) -> str:
    """The first word of a statement in capitals, past comments and parentheses; empty when it starts otherwise."""
    for kind, token, _ in tokens(text):
        if kind == "word":
            return token.decode().upper()
        if kind != "open":
            break
    return ""


def why_it_writes(text: bytes) -> str | None:
    """Return what makes a statement more than a read, such as ``DROP``. None for a read.

    This is for what ClickHouse's own ``readonly`` lets through: ``INSERT INTO FUNCTION file(...)`` and, on the embedded
    engine, SYSTEM and KILL. ``readonly`` has to be set all the same.
    """
    keyword = first_keyword(text)
    if keyword and keyword not in READING_KEYWORDS:
        return keyword
    previous = b""
    for kind, token, _ in tokens(text):
        if previous == b"INSERT" and token.upper() in (b"INTO", b"TABLE", b"FUNCTION"):
            return "INSERT"
        previous = token.upper() if kind == "word" else b""
    return None
