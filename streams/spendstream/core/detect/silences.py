"""Who keeps an alert quiet: a silence that somebody wrote, or a planned maintenance."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from spendstream.schemas.alert import Silence
from spendstream.schemas.watch import Maintenance

_Known = Mapping[str, Collection[str]]


class Silences:
    """All silences by id, and the maintenance of the watches in force."""

    def __init__(self, maintenance: Iterable[Maintenance] = ()) -> None:
        self._silences: dict[str, Silence] = {}
        self._maintenance = tuple(maintenance)

    def __iter__(self) -> Iterator[Silence]:
        return iter(self._silences.values())

    def put(self, silence: Silence) -> None:
        """Take in a silence; it replaces the one of its id."""
        self._silences[silence.silence_id] = silence

    def plan(self, maintenance: Iterable[Maintenance]) -> None:
        """Replace the maintenance: the watches were edited."""
        self._maintenance = tuple(maintenance)

    def quiet(
        self,
        watch: str,
        group: Mapping[str, str],
        at: datetime,
        scope: Mapping[Any, Collection[str]] | None = None,
    ) -> str | None:
        """Return what keeps a group's alerts quiet at a moment, as ``silence 3f2a9c01`` or ``maintenance db-upgrade``.

        ``watch``: its name. ``group``: the values of its ``group_by``. ``scope``: the watch's, where a dimension that
        the group doesn't have may be fixed: what is grouped by feature within ``team: search`` is quiet when team
        search is. Where several hold, the one that ends last is told. Start inclusive, end exclusive.

        Returns: None, where nothing does.
        """
        known = {**(scope or {}), **{name: (value,) for name, value in group.items()}}
        held = [*self._silenced(watch, known, at), *self._maintained(watch, known, at)]
        return max(held)[1] if held else None

    def _silenced(self, watch: str, known: _Known, at: datetime) -> Iterator[tuple[datetime, str]]:
        for each in self._silences.values():
            if not each.starts_at <= at < each.ends_at or each.watch not in (None, watch):
                continue
            if _covers({name: (value,) for name, value in each.group.items()}, known):
                yield each.ends_at, f"silence {each.silence_id}"

    def _maintained(self, watch: str, known: _Known, at: datetime) -> Iterator[tuple[datetime, str]]:
        for each in self._maintenance:
            if not each.starts_at <= at < each.ends_at or (each.watches and watch not in each.watches):
                continue
            if _covers({str(name): values for name, values in each.scope.items()}, known):
                yield each.ends_at, f"maintenance {each.name}"


def _covers(allowed: _Known, known: _Known) -> bool:
    """Whether all that a group can hold lies within the values allowed. A dimension that isn't known does not."""
    return all(known.get(name) and set(known[name]) <= set(values) for name, values in allowed.items())
