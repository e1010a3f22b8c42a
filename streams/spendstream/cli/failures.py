"""Failures in words: what the operator can mend is told in a line, without a traceback."""

import errno
import re
from typing import TYPE_CHECKING, Final

from spendstream.cli import environment
from spendstream.errors import SpendstreamError

if TYPE_CHECKING:
    from clickhouse_connect.driver.exceptions import ClickHouseError

# The driver's words around ClickHouse's own, and the parser's list of every keyword it knows.
_AROUND_CLICKHOUSE: Final = re.compile(r"^.*?server response: Code: \d+\. DB::Exception: | \(for url .*$")
_EXPECTED: Final = re.compile(r"\. Expected one of: .*(?= \([A-Z_]+\))")


def explain(error: BaseException) -> str | None:
    """Return a failure in one paragraph, with what to do; None for a bug, whose traceback is worth more."""
    if isinstance(error, SpendstreamError | FileNotFoundError | PermissionError | IsADirectoryError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"{error.strerror}: set METRICS_PORT to a free port, or to 0 for any"
    # Imported here: a command that succeeds needs none of this.
    from aiokafka.errors import KafkaConnectionError, KafkaError
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from pydantic import ValidationError

    from spendstream.core.pricing import RateCardError

    if isinstance(error, RateCardError):
        return str(error)
    if isinstance(error, ValidationError) and error.title == "Settings":
        return "\n".join(_setting(each["loc"], each["msg"], each.get("input")) for each in error.errors())
    if isinstance(error, KafkaConnectionError):
        return f"no Kafka broker answers at {_kafka_servers()}{_origin()}"
    if isinstance(error, KafkaError):
        return f"Kafka: {_one_line(error)}"
    if isinstance(error, ClickHouseError):
        return _clickhouse(error)
    return _infra(error)


def _setting(location: tuple[int | str, ...], message: str, value: object) -> str:
    name = str(location[0]).upper() if location else "settings"
    return f"{name}={value}: {message.removeprefix('Value error, ')}"


def _clickhouse(error: "ClickHouseError") -> str:
    from spendstream.sinks.errors import NO_SUCH_TABLE, error_code

    code = error_code(error)
    if code is None:
        return f"ClickHouse does not answer at {environment.load_settings().clickhouse_url}{_origin()}"
    hint = ". Run `spendstream migrate` if it never ran" if code in NO_SUCH_TABLE else ""
    words = _EXPECTED.sub(".", _AROUND_CLICKHOUSE.sub("", _one_line(error)))
    return f"ClickHouse: {words}{hint}"


def _infra(error: BaseException) -> str | None:
    from spendstream.clickhouse.migrate import MigrationError
    from spendstream.clickhouse.template import TemplateError
    from spendstream.embedded.process import ProcessFailed
    from spendstream.kafka.topics import TopicNotCreated

    if isinstance(error, MigrationError | TemplateError | ProcessFailed | TopicNotCreated):
        return str(error)
    return None


def _kafka_servers() -> str:
    return environment.load_settings().kafka_bootstrap_servers


def _origin() -> str:
    if environment.adopted is not None:
        return f" (from {environment.adopted}). Does `spendstream up` still run?"
    return ". Set KAFKA_BOOTSTRAP_SERVERS and CLICKHOUSE_URL, or run `spendstream up` here"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
