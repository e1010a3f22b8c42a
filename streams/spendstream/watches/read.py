"""Read watches from YAML, with the line and column of whatever is wrong, and every finding at once."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml.nodes import Node

from spendstream.core.documents import Issue, Unreadable, compose, issue_at, plain, repeated_keys, validate
from spendstream.schemas.watch import Notifier, Watch, Watches
from spendstream.watches.defaults import default_watches
from spendstream.watches.errors import EnvironmentMissing, WatchesInvalid, WatchesUnreadable
from spendstream.watches.faults import Fault, Parts, check_environment, check_together, dimension_faults

_Part = TypeVar("_Part", bound=BaseModel)


@dataclass(frozen=True)
class WatchesDocument:
    """Watches, and where each part of them stands."""

    file: Path
    root: Node
    watches: Watches

    def issue(self, fault: Fault) -> Issue:
        """Return a fault with its line and column."""
        return issue_at(self.file, self.root, fault.loc, fault.message)


def read_watches(path: Path, dimensions: Collection[str] | None = None, content: bytes | None = None) -> Watches:
    """Read a file of watches.

    ``dimensions``: those of METER_DIMENSIONS; None leaves them unchecked. ``content``: the file's bytes, where they
    were read already.
    Raises: WatchesUnreadable; WatchesInvalid, with every finding of the file.
    """
    return read_document(path, dimensions, content).watches


def read_document(
    path: Path, dimensions: Collection[str] | None = None, content: bytes | None = None
) -> WatchesDocument:
    """Read a file of watches, and keep where everything stands. Arguments and errors as ``read_watches``."""
    try:
        root = compose(path, content)
    except Unreadable as error:
        raise WatchesUnreadable([error.issue]) from error
    if root is None:
        raise WatchesInvalid([Issue(path, 1, 1, "the file is empty: add watches")])
    issues = list(repeated_keys(path, root))
    watches, wrong = validate(Watches, path, root)
    issues += wrong
    issues += [issue_at(path, root, fault.loc, fault.message) for fault in _faults(root, dimensions)]
    if watches is None or issues:
        raise WatchesInvalid(issues)
    return WatchesDocument(path, root, watches)


def load_watches(path: Path | None, dimensions: Collection[str], environ: Mapping[str, str] = os.environ) -> Watches:
    """Return what a worker goes by: the watches of the file, or the built-in ones where there is none.

    Raises: WatchesError, also where a notifier's variable is unset.
    """
    watches = default_watches(dimensions) if path is None else read_watches(path, dimensions)
    require_environment(watches, environ)
    return watches


def require_environment(watches: Watches, environ: Mapping[str, str] = os.environ) -> None:
    """Demand every variable that notifiers name. Raises: EnvironmentMissing, which names them and no value."""
    found = check_environment(watches, environ)
    if found:
        raise EnvironmentMissing(
            [f"notifier {watches.notifiers[int(fault.loc[1])].name}: {fault.message}" for fault in found]
        )


def _faults(root: Node, dimensions: Collection[str] | None) -> Iterator[Fault]:
    """Look at what is right one by one, so that a mistake in one part hides none in another."""
    try:
        content = plain(root)
    except RecursionError:
        return
    if not isinstance(content, dict):
        return
    parts = Parts(content, _valid(Notifier, content.get("notifiers")), _valid(Watch, content.get("watches")))
    yield from check_together(parts)
    if dimensions is not None:
        yield from dimension_faults(parts, dimensions)


def _valid(model: type[_Part], listed: Any) -> list[tuple[int, _Part]]:
    found = []
    for at, item in enumerate(listed if isinstance(listed, list) else ()):
        try:
            found.append((at, model.model_validate(item)))
        except ValidationError:
            continue  # told by the validation of the whole
    return found
