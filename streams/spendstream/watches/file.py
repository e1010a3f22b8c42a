"""A watches file that is edited while the worker runs."""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import structlog

from spendstream.schemas.watch import Watches
from spendstream.watches.errors import WatchesError
from spendstream.watches.read import read_watches, require_environment

log = structlog.get_logger(__name__)

_SETTLED_S: Final = 2.0
"""An edit within the same tick of the file system's clock keeps mtime and size: a file so young is read again."""

_Stamp = tuple[int, int, int]


class WatchFile:
    """Holds the last watches of a file that were right.

    ``dimensions``: those of METER_DIMENSIONS. ``environ``: where notifiers' variables must be set; None leaves them
    unchecked. ``clock``: seconds since 1970.

    Raises: WatchesError, on construction alone.
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
        """Why the file as it stands is not in force, one line a finding; None where it is."""
        self._dimensions = dimensions
        self._environ = environ
        self._clock = clock
        self._stamp: _Stamp | None = None
        self._seen = self._read()
        self.watches = self._parse(self._seen)

    def changed(self) -> Watches | None:
        """Look at the file: a stat, and a read where that differs. Returns new watches; None where none are in force.

        An edit that can't be used is told once in the log and in ``problem``; the former watches hold.
        """
        if self._is_unchanged():
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

    def _is_unchanged(self) -> bool:
        stamp = _stamp(self.path)
        return stamp is not None and stamp == self._stamp and self._clock() - stamp[0] / 1e9 > _SETTLED_S

    def _read(self) -> bytes | None:
        """Return what the file holds; None where it can't be read, as for a moment while it is replaced."""
        self._stamp = _stamp(self.path)  # before the read: an edit in between is seen at the next look
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
