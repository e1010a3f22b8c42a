"""What a detector's book held at one moment, to tell the aggregates that it counts from those that only history has."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from spendstream.core.rollup_record import AggregateKey, rollup_key
from spendstream.schemas.rollup import DIMENSIONS, ON_TIME

KEY_BYTES: Final = 16

Source = tuple[str, int]
"""A source log and a partition of it."""


class Born(NamedTuple):
    """An aggregate that was met after a cut. ``first_offset``: of the source, -1 where it isn't known."""

    source: Source
    minute_us: int
    block: int
    first_offset: int


class Bounds(NamedTuple):
    """Of one source at a cut: the greatest offset that was read of it, the oldest minute and the lowest block of
    corrections that the book held or will still meet, by all that is known."""

    through_offset: int
    minute_us: int
    block: int


@dataclass(frozen=True)
class Cut:
    """``keys``: digests of what the book held. ``layouts``: the names of dimensions that keys were made of.

    Of the rows of history, those may be summed without a look at their keys that have a known source and stand
    at or before ``through_offset``, before ``minute_us`` on time, before ``block`` as a correction. None of them
    was in the book, and one that was born since says so by its first offset.
    """

    keys: frozenset[bytes]
    bounds: Mapping[Source, Bounds]
    layouts: tuple[tuple[str, ...], ...]

    def may_be_summed(self, born: Born) -> bool:
        """Whether a row of this aggregate may have been among those that are summed without a look at their keys."""
        bounds = self.bounds.get(born.source)
        if bounds is None or born.first_offset > bounds.through_offset:
            return False
        return born.minute_us < bounds.minute_us if born.block <= ON_TIME else born.block < bounds.block

    def digests(self, source: Source, minute_us: int, block: int, values: Sequence[str]) -> tuple[bytes, ...]:
        """Return the digests that a row's key may have. ``values``: by ``DIMENSIONS``, empty where there is none."""
        return tuple(
            digest(rollup_key(*source, AggregateKey(minute_us, block, tuple(map(values.__getitem__, positions)))))
            for positions, others in self._positions
            if not any(map(values.__getitem__, others))
        )

    @cached_property
    def _positions(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """By layout: the places of its names in ``DIMENSIONS``, and those of the others."""
        return tuple(
            (
                tuple(map(DIMENSIONS.index, layout)),
                tuple(at for at, name in enumerate(DIMENSIONS) if name not in layout),
            )
            for layout in self.layouts
        )


def digest(key: bytes) -> bytes:
    """Return the digest of an aggregate's Kafka key."""
    return hashlib.blake2b(key, digest_size=KEY_BYTES).digest()
