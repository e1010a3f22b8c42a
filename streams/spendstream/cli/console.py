"""What commands print: tables for people, JSON lines for scripts."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table

_WIDE: Final = 10_000

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
"""Standard output, for results. Piped, nothing is folded to the width of a screen."""

err = Console(stderr=True, highlight=False)
"""Standard error, for progress and remarks."""


def echo_json(value: Any) -> None:
    """Print one JSON object in one line."""
    out.out(json.dumps(to_json(value), ensure_ascii=False), highlight=False)


def to_json(value: Any) -> Any:
    """Return a value as JSON has it: amounts as strings, so that no digit is lost; times in ISO 8601 with their zone.

    A time without a zone is ClickHouse's, and so UTC.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [to_json(item) for item in value]
    return str(value)


def cell(value: Any) -> str:
    """Return a value as a table shows it; NULL is a dash."""
    if value is None:
        return "–"
    shown = to_json(value)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def table(columns: Iterable[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """Return a table. Numbers are to the right. Markup in values is shown, not obeyed."""
    from rich.text import Text

    listed = [list(row) for row in rows]
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for at, column in enumerate(columns):
        is_number = any(isinstance(row[at], int | float | Decimal) for row in listed)
        made.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in listed:
        made.add_row(*(value if isinstance(value, Text) else Text(cell(value)) for value in row))
    return made
