"""What the HTTP layer must know about a statement before the engine sees it.

The engine parses SQL; this module only finds the seams that ClickHouse's own HTTP handler works with: where an INSERT
ends and its data begins, which format a result has, and whether a statement leaves state behind in its session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spendstream.clickhouse.statements import first_keyword

DEFAULT_FORMAT = "TabSeparated"

# Chunks of these formats can be joined: they have no head and no foot. Any other result is built whole.
_JOINABLE_FORMATS = frozenset(
    {
        "Native",
        "RowBinary",
        "TabSeparated",
        "TSV",
        "TabSeparatedRaw",
        "TSVRaw",
        "CSV",
        "JSONEachRow",
        "JSONLines",
        "NDJSON",
    }
)
_STREAMED_KEYWORDS = frozenset({"SELECT", "WITH"})
_RESULT_KEYWORDS = frozenset(
    {"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "KILL", "CALL"}
)

_FORMAT = re.compile(rb"\bFORMAT\s+([A-Za-z]\w*)", re.IGNORECASE)
_FINAL_FORMAT = re.compile(rb"\bFORMAT\s+([A-Za-z]\w*)(?:\s+SETTINGS\s[^']*)?[\s;]*$", re.IGNORECASE)
_OUTFILE = re.compile(rb"\bINTO\s+OUTFILE\b", re.IGNORECASE)
_STATEFUL = re.compile(rb"\b(?:SET|USE|TEMPORARY)\b", re.IGNORECASE)
# In an INSERT, whichever comes first decides where its rows are: in the data after FORMAT, or in the statement itself.
# Quoted names, strings and comments are consumed whole, so that a column called `format` or `values` decides nothing.
_INSERT_SEAM = re.compile(
    rb"`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
    rb"|--[^\n]*|/\*.*?\*/"
    rb"|\bFORMAT\s+(?P<format>[A-Za-z]\w*)[ \t]*(?:\r?\n|;|\s|$)"
    rb"|\b(?P<values>VALUES)\b|\b(?P<inline>SELECT|WITH|INFILE)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Insert:
    """An INSERT whose rows follow it: ``sql`` without its FORMAT clause, the rows' ``format``, and the ``data``."""

    sql: str
    format: str
    data: bytes


def split_insert(text: bytes) -> Insert | None:
    """Split ``INSERT INTO t (a) FORMAT Native<newline><data>`` at its seam.

    Returns None for any other statement, and for an INSERT whose rows are in the statement (VALUES, SELECT). With a
    semicolon in its text, VALUES is split too: what goes in as data can't be run as a second statement.
    """
    if first_keyword(text) != "INSERT":
        return None
    for match in _INSERT_SEAM.finditer(text):
        if match["inline"] or (match["values"] and b";" not in text):
            return None
        if match["format"] or match["values"]:
            form = (match["format"] or b"Values").decode()
            return Insert(text[: match.start()].decode().strip(), form, text[match.end() :])
    return None


def has_result(text: bytes) -> bool:
    """Whether a statement answers with rows, even if none."""
    return first_keyword(text) in _RESULT_KEYWORDS


def result_format(text: bytes, default: str) -> str:
    """The format of a statement's result: its own FORMAT clause, else ``default``."""
    match = _FINAL_FORMAT.search(text)
    return match.group(1).decode() if match else default


def can_stream(text: bytes, default_format: str) -> bool:
    """Whether a result may be sent chunk by chunk as the engine yields it."""
    formats = {name.decode() for name in _FORMAT.findall(text)} or {default_format}
    return first_keyword(text) in _STREAMED_KEYWORDS and formats <= _JOINABLE_FORMATS


def may_be_stacked(text: bytes) -> bool:
    """Whether there is a semicolon that may part two statements, inside a string or not."""
    return b";" in text.rstrip(b"; \t\r\n")


def writes_file(text: bytes) -> bool:
    """Whether a statement may write a file of the server's machine, which no HTTP client may do."""
    return _OUTFILE.search(text) is not None


def may_change_session(text: bytes) -> bool:
    """Whether a statement may leave something in its session (SET, USE, a temporary table). True when in doubt."""
    return _STATEFUL.search(text) is not None
