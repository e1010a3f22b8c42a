"""How far each partition is told: what may be committed while some transitions wait and others are under way."""

from __future__ import annotations

from collections.abc import Iterable


class Progress:
    """Offsets of one group. A partition may be committed up to its first record that is not done."""

    def __init__(self) -> None:
        self._open: dict[int, set[int]] = {}
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}

    def read(self, partition: int, offset: int) -> None:
        """A record was read that somebody is to be told of; it is open until `done`."""
        self._next[partition] = offset + 1
        self._open.setdefault(partition, set()).add(offset)

    def passed(self, partition: int, offset: int) -> None:
        """A record was read that needs nothing."""
        self._next[partition] = offset + 1

    def done(self, partition: int, offset: int) -> None:
        """A record was told, or given up. Of a partition that was forgotten meanwhile, it means nothing."""
        self._open.get(partition, set()).discard(offset)

    def committable(self) -> dict[int, int]:
        """Return, for each partition that has moved since it was last committed, the offset to begin with."""
        ends = {partition: min(self._open.get(partition) or {end}) for partition, end in self._next.items()}
        return {partition: end for partition, end in ends.items() if end != self._committed.get(partition)}

    def committed(self, offsets: dict[int, int]) -> None:
        """These offsets were committed."""
        self._committed.update(offsets)

    def forget(self, partitions: Iterable[int]) -> None:
        """Leave partitions to whoever has them now."""
        for partition in partitions:
            for known in (self._open, self._next, self._committed):
                known.pop(partition, None)
