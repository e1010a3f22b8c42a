"""Where the commands find the stack: the environment, else the embedded stack that runs nearby, else the defaults."""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spendstream.settings import Settings

DEFAULT_STATE_DIR: Final = Path(".spendstream/state")
ENV_FILE: Final = "env"

_ADDRESSES: Final = ("KAFKA_BOOTSTRAP_SERVERS", "CLICKHOUSE_URL")

adopted: Path | None = None
"""The file that the addresses came from, once one was adopted."""


def adopt_running_stack(environ: MutableMapping[str, str] = os.environ, start: Path | None = None) -> None:
    """Take the embedded stack's settings into the environment, unless it names Kafka or ClickHouse itself.

    All or nothing: the broker of one stack with the ClickHouse of another would mix their data. The file is
    ``.spendstream/state/env`` in ``start`` (the working folder) or the nearest folder above it.
    """
    global adopted
    if any(environ.get(name) for name in _ADDRESSES):
        return
    path = find_env_file(start or Path.cwd())
    if path is not None:
        for name, value in read_env_file(path).items():
            environ.setdefault(name, value)
        adopted = path


def find_env_file(start: Path) -> Path | None:
    """Return the nearest embedded stack's settings, in ``start`` or above."""
    for folder in (start, *start.parents):
        if (path := folder / DEFAULT_STATE_DIR / ENV_FILE).is_file():
            return path
    return None


def read_env_file(path: Path) -> dict[str, str]:
    """Read ``KEY=VALUE`` lines. Values are as they stand; ``#`` begins a comment line."""
    return dict(_assignments(path.read_text("utf-8")))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            yield name.strip(), value


def load_settings() -> "Settings":
    """Return the settings. Raises pydantic's ValidationError, which the command line tells in one line."""
    from spendstream.settings import Settings

    return Settings()
