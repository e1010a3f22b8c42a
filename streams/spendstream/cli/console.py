"""What commands print: results on stdout, as tables for people or JSON lines for scripts; errors and logs on stderr."""

import errno
import json
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, Literal, NoReturn

import structlog
import typer
from rich.console import Console
from rich.table import Table

from spendstream.cli import environment
from spendstream.errors import SpendstreamError

USAGE_EXIT: Final = 2

_WIDE: Final = 10_000
# "abc" is the logger of classes that Faust creates at run time.
_QUIET: Final = ("faust", "mode", "aiokafka", "abc")
# The driver's text around ClickHouse's own, and the parser's list of every keyword it knows.
_AROUND_CLICKHOUSE: Final = re.compile(r"^.*?server response: Code: \d+\. DB::Exception: | \(for url .*$")
_EXPECTED: Final = re.compile(r"\. Expected one of: .*(?= \([A-Z_]+\))")

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
"""Standard output, for results. When piped, nothing is wrapped to the width of a screen."""

err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDE)
"""Standard error, for progress and notes. Not wrapped either when it is piped."""


def echo_json(value: Any) -> None:
    """Print one JSON object on one line."""
    out.out(json.dumps(to_json(value), ensure_ascii=False), highlight=False)


def to_json(value: Any) -> Any:
    """Return a value as JSON types: amounts as strings, so that no digit is lost; times in ISO 8601 with their zone.

    A time without a zone comes from ClickHouse and is UTC.
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
    """Return a value as a table shows it; None is a dash."""
    if value is None:
        return "–"
    shown = to_json(value)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def table(columns: Iterable[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """Return a table. Numbers are right-aligned; markup in values is shown literally."""
    from rich.text import Text

    listed = [list(row) for row in rows]
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for at, column in enumerate(columns):
        is_number = any(isinstance(row[at], int | float | Decimal) for row in listed)
        made.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in listed:
        made.add_row(*(value if isinstance(value, Text) else Text(cell(value)) for value in row))
    return made


def refuse(message: str) -> NoReturn:
    """Say on stderr what is wrong with the arguments, and exit with status 2."""
    typer.echo(message, err=True)
    raise typer.Exit(USAGE_EXIT)


def utc_time(text: str) -> datetime:
    """Parse the value of an option as a date or time in ISO 8601; UTC if it has no zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a valid time; expected e.g. 2026-01-31 or 2026-01-31T12:00Z"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def explain(error: BaseException) -> str | None:
    """Return an error as one paragraph that says what to do; None for a bug, which needs its traceback."""
    if isinstance(error, SpendstreamError | FileNotFoundError | PermissionError | IsADirectoryError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"{error.strerror}: set METRICS_PORT to a free port, or to 0 to take any"
    # Imported here: a command that succeeds needs none of these.
    from aiokafka.errors import KafkaConnectionError, KafkaError
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from pydantic import ValidationError

    if isinstance(error, ValidationError) and error.title == "Settings":
        return "\n".join(
            f"{str(each['loc'][0]).upper()}={each.get('input')}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors()
        )
    if isinstance(error, KafkaConnectionError):
        return f"no Kafka broker answers at {environment.load_settings().kafka_bootstrap_servers}{_origin()}"
    if isinstance(error, KafkaError):
        return f"Kafka: {one_line(error)}"
    if not isinstance(error, ClickHouseError):
        return None
    from spendstream.clickhouse.client import NO_SUCH_TABLE, error_code

    code = error_code(error)
    if code is None:
        return f"ClickHouse does not answer at {environment.load_settings().clickhouse_url}{_origin()}"
    hint = ". Run `spendstream migrate` if you have not yet" if code in NO_SUCH_TABLE else ""
    message = _EXPECTED.sub(".", _AROUND_CLICKHOUSE.sub("", one_line(error)))
    return f"ClickHouse: {message}{hint}"


def _origin() -> str:
    if environment.adopted is not None:
        return f" (address from {environment.adopted}). Is `spendstream up` still running?"
    return ". Set KAFKA_BOOTSTRAP_SERVERS and CLICKHOUSE_URL, or run `spendstream up` here"


def one_line(error: BaseException) -> str:
    """Return an error's message in one line; its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def configure_logs(level: str, form: Literal["json", "console"]) -> None:
    """Send every log record to stderr. ``level`` is for spendstream's own; Faust and aiokafka log warnings and up."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # the rich one prints locals, which may hold secrets
            )
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def keep_stdout_for_answers() -> None:
    """Log warnings and up to stderr: scripts read what a command prints on stdout."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def silence_libraries() -> None:
    """Keep the Kafka client's own log off a command's terminal: the command itself reports what failed."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
