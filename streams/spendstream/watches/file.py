"""The watches file: read, checked, and read again when it is edited; the built-in watches where there is no file."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from pydantic import BaseModel, ValidationError
from ruamel.yaml.nodes import Node

from spendstream.core.documents import (
    DocumentError,
    Issue,
    Unreadable,
    compose,
    issue_at,
    plain,
    repeated_keys,
    validate,
)
from spendstream.schemas.watch import AnomalyRule, Notifier, ThresholdRule, Watch, Watches
from spendstream.watches.checks import Fault, Parts, check_environment, check_together, dimension_faults

log = structlog.get_logger(__name__)

_Part = TypeVar("_Part", bound=BaseModel)

_ALWAYS_READ_S: Final = 2.0
"""A file this young is always read: an edit within one tick of the file system's clock may keep mtime and size."""

_Stamp = tuple[int, int, int]


class WatchesError(DocumentError):
    """The watches can't be used. ``issues`` holds every mistake in order; the text has one line for each.

    WatchesError
    ├── WatchesUnreadable    the file can't be opened, or isn't YAML
    ├── WatchesInvalid       a watch, a notifier or a maintenance window breaks a rule
    └── EnvironmentMissing   a variable that a notifier takes its address or its secret from is not set
    """


class WatchesUnreadable(WatchesError):
    """The file can't be opened, or isn't YAML."""


class WatchesInvalid(WatchesError):
    """The file has mistakes."""


class EnvironmentMissing(WatchesError):
    """A notifier has no address, or no key. ``issues`` is empty, because the file is right."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(())
        self.args = ("\n".join(messages),)


_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S

DEFAULT_WATCHES: Final = Watches(
    watches=(
        Watch(
            name="cost",
            description="Spend of a feature differs from its usual level, or stops.",
            group_by=("team", "feature"),
            rule=AnomalyRule(kind="anomaly", measure="cost", direction="both"),
        ),
        # One unpriced call is enough: a silent $0 is a lie. The window is long enough for rarely called models, and
        # reminders are a week apart: one alert until somebody writes the rate card, not one an hour.
        Watch(
            name="unpriced-model",
            description="No rate card has a price for this model: real spend is higher than it looks.",
            group_by=("provider", "model"),
            rule=ThresholdRule(kind="threshold", measure="unpriced_share", above=0, window=6 * _HOUR_S, min_calls=1),
            renotify=7 * _DAY_S,
        ),
        Watch(
            name="partly-priced-model",
            description="A unit or fee of this model's calls has no rate: real spend is higher than it looks.",
            group_by=("provider", "model"),
            rule=ThresholdRule(
                kind="threshold", measure="partly_priced_share", above=0, window=6 * _HOUR_S, min_calls=1
            ),
            renotify=7 * _DAY_S,
        ),
        # Other rates than those asked for may be right within cents, or half of what is billed.
        Watch(
            name="substituted-rates",
            description="The rates that this model's calls asked for are unknown: others price them.",
            group_by=("provider", "model"),
            rule=ThresholdRule(kind="threshold", measure="substituted_share", above=0, window=6 * _HOUR_S, min_calls=1),
            renotify=7 * _DAY_S,
        ),
        # With 50 calls, 16 failures cannot be chance where a few per cent are usual.
        Watch(
            name="provider-failures",
            description="Calls to a provider fail; retries may cost money.",
            group_by=("provider",),
            rule=ThresholdRule(kind="threshold", measure="failure_share", above=0.3, window=300, min_calls=50),
        ),
        # Only down: more hits do no harm. The cost watch reports a group without calls, so this one does not.
        Watch(
            name="cache-hit-rate",
            description="Less input is read from the cache, so the same calls cost more.",
            group_by=("team", "feature"),
            rule=AnomalyRule(
                kind="anomaly", measure="cache_hit_rate", direction="down", min_change=0.3, no_data_after=None
            ),
        ),
    )
)
"""They have no budgets, because only the operator knows the amounts, and no notifiers: alerts go to their topic."""


def default_watches(dimensions: Collection[str]) -> Watches:
    """Return the built-in watches for a deployment whose rollups carry ``dimensions``.

    Dimensions that it lacks are left out of ``group_by``. A watch with none left judges all spend as one group.
    """
    watches = tuple(
        watch.model_copy(update={"group_by": tuple(name for name in watch.group_by if name in dimensions)})
        for watch in DEFAULT_WATCHES.watches
    )
    return DEFAULT_WATCHES.model_copy(update={"watches": watches})


@dataclass(frozen=True)
class WatchesDocument:
    """Watches, and the position of each of their parts in the file."""

    file: Path
    root: Node
    watches: Watches

    def issue(self, fault: Fault) -> Issue:
        """Return a fault with its line and column."""
        return issue_at(self.file, self.root, fault.loc, fault.message)


def read_watches(path: Path, dimensions: Collection[str] | None = None, content: bytes | None = None) -> Watches:
    """Read a file of watches.

    ``dimensions``: those of METER_DIMENSIONS; None leaves them unchecked. ``content``: the file's bytes, if they have
    been read already.
    Raises: WatchesUnreadable; WatchesInvalid, with every mistake in the file.
    """
    return read_document(path, dimensions, content).watches


def read_document(
    path: Path, dimensions: Collection[str] | None = None, content: bytes | None = None
) -> WatchesDocument:
    """Read a file of watches with the position of each part. Arguments and errors as for ``read_watches``."""
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


def configured_watches(path: Path | None, dimensions: Collection[str]) -> Watches:
    """Return the watches of a file; the built-in ones where ``path`` is None. Raises: as ``read_watches``."""
    return default_watches(dimensions) if path is None else read_watches(path, dimensions)


def load_watches(path: Path | None, dimensions: Collection[str], environ: Mapping[str, str] = os.environ) -> Watches:
    """Return the watches that a worker runs. Raises: WatchesError, also where a notifier's variable is not set."""
    watches = configured_watches(path, dimensions)
    require_environment(watches, environ)
    return watches


def require_environment(watches: Watches, environ: Mapping[str, str] = os.environ) -> None:
    """Check that every variable of the notifiers is set. Raises: EnvironmentMissing, with names but no values."""
    found = check_environment(watches, environ)
    if found:
        raise EnvironmentMissing(
            [f"notifier {watches.notifiers[int(fault.loc[1])].name}: {fault.message}" for fault in found]
        )


def _faults(root: Node, dimensions: Collection[str] | None) -> Iterator[Fault]:
    """Yield the mistakes between parts that are valid by themselves, so that one mistake hides no other."""
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
            continue  # reported when the whole file is validated
    return found


class WatchFile:
    """Keeps the last valid watches of a file that may be edited.

    ``dimensions``: those of METER_DIMENSIONS. ``environ``: has to set the notifiers' variables; None leaves them
    unchecked. ``clock``: Unix seconds.

    Raises: WatchesError, only on construction.
    """

    def __init__(
        self,
        path: Path,
        dimensions: Collection[str] | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the present file is not in use, one line for each mistake; None where it is."""
        self._dimensions = dimensions
        self._environ = environ
        self._clock = clock
        self._stamp: _Stamp | None = None
        self._seen = self._read()
        self.watches = self._parse(self._seen)

    def changed(self) -> Watches | None:
        """Return the watches of an edited file, None without a change. Reads the file only if its stat has changed.

        An edit with mistakes is logged once and kept in ``problem``; the previous watches stay in use.
        """
        stamp = _stamp(self.path)
        if stamp is not None and stamp == self._stamp and self._clock() - stamp[0] / 1e9 > _ALWAYS_READ_S:
            return None
        content = self._read()
        if content == self._seen:
            return None
        self._seen = content
        try:
            watches = self._parse(content)
        except WatchesError as error:
            self.problem = str(error)
            log.error("watches.invalid", file=str(self.path), problem=self.problem, kept=len(self.watches.watches))
            return None
        self.problem = None
        if watches == self.watches:
            return None
        self.watches = watches
        log.info("watches.changed", file=str(self.path), watches=len(watches.watches))
        return watches

    def _read(self) -> bytes | None:
        """Return the file's content; None if it can't be read, for instance while it is being replaced."""
        self._stamp = _stamp(self.path)  # before the read, so that the next call sees an edit made in between
        try:
            return self.path.read_bytes()
        except OSError:
            return None

    def _parse(self, content: bytes | None) -> Watches:
        watches = read_watches(self.path, self._dimensions, content)
        if self._environ is not None:
            require_environment(watches, self._environ)
        return watches


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
