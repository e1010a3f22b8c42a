"""Rollups: absolute totals per minute, JSON on the wire, into ``rollups_1m``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from spendstream.core.rollup_record import NotARollup, Rollup, read_rollup, refused, rollup_table
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.sinks.encoders import Encoded, Record, Undecodable, table_insert

TABLE: Final = "rollups_1m"


class RollupEncoder:
    """Encodes rollups. Of the totals of one key in a batch only the last, by ``through_offset``, becomes a row."""

    table = TABLE
    is_compacted = True

    def encode(self, records: Sequence[Record]) -> Encoded:
        """Return one insert, or none where the records are all tombstones or undecodable."""
        rollups: list[Rollup] = []
        sources: list[Record] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                rollups.append(read_rollup(record.value))
                sources.append(record)
            except NotARollup as error:
                undecodable.append(_undecodable(record, error))
        if not rollups:
            return Encoded((), tuple(undecodable))
        try:
            table = rollup_table(latest(rollups))
        except NotARollup:
            errors = refused(rollups, rollup_table)
            undecodable.extend(_undecodable(sources[number], error) for number, error in errors.items())
            rollups = [rollup for number, rollup in enumerate(rollups) if number not in errors]
            if not rollups:
                return Encoded((), tuple(undecodable))
            table = rollup_table(latest(rollups))
        return Encoded((table_insert(TABLE, table),), tuple(undecodable))


def latest(rollups: Iterable[Rollup]) -> list[Rollup]:
    """Return, of each key, the total that absorbed most: greatest ``through_offset``, of equal ones the last."""
    by_key: dict[tuple[Any, ...], Rollup] = {}
    for rollup in rollups:
        key = (
            rollup.source_log,
            rollup.source_partition,
            rollup.minute,
            rollup.correction_block,
            *(rollup.dimensions.get(name, "") for name in DIMENSIONS),
        )
        known = by_key.get(key)
        if known is None or rollup.through_offset >= known.through_offset:
            by_key[key] = rollup
    return list(by_key.values())


def _undecodable(record: Record, error: NotARollup) -> Undecodable:
    return Undecodable(record, error.reason, f"not a rollup: {error}")
