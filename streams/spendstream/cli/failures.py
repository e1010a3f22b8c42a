"""Errors as messages: one line, without a traceback, for whatever the operator can fix."""

import errno
import re
from typing import Final

from spendstream.cli import environment
from spendstream.errors import SpendstreamError

# The driver's text around ClickHouse's own, and the parser's list of every keyword it knows.
_AROUND_CLICKHOUSE: Final = re.compile(r"^.*?server response: Code: \d+\. DB::Exception: | \(for url .*$")
_EXPECTED: Final = re.compile(r"\. Expected one of: .*(?= \([A-Z_]+\))")


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
