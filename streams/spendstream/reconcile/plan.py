"""Which rollup rows repair a difference. Pure.

A rollup replaces its predecessor of the same key where its ``ver`` is greater; the meter writes ``ver`` =
``through_offset``. A repair is safe beside a running meter when its key is *final*:

- The meter opens no aggregate again that its durable watermark has closed. What comes later for that minute is a
  correction with a key of its own, so no new total of a final key is ever written.
- What may still be written is a total that exists already: a sink that inserts a batch once more, a worker that lost
  its partition without knowing. Each has a ``through_offset`` at or below the marker's, and so a smaller ``ver`` than
  the repair, which takes ``marker.through_offset + 1`` or more.
- A key that is not final is left alone: the meter holds its total, and would write it again over the repair.

A total that belongs to no call of the ledger is replaced by zeros, not deleted: a delete would be undone by the next
repeated insert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from spendstream.core.aggregates import ALONE, CORRECTION_BLOCK_OFFSETS, SIZES, TIERS
from spendstream.core.lateness import is_final
from spendstream.core.money import usd_text
from spendstream.core.timestamps import epoch_us
from spendstream.schemas.measures import MEASURES
from spendstream.schemas.progress import Progress
from spendstream.schemas.rollup import DIMENSIONS, ON_TIME, OTHER

Row = Mapping[str, Any]
"""A row of ``rollups_1m``, or the calls of the ledger summed to one, by column name."""

SUMS: Final = {measure.field: measure.ledger for measure in MEASURES if measure.kind == "sum"}
"""Measures that add up: the column of ``rollups_1m``, and its value over rows ``c`` of the ledger."""
MAXIMA: Final = {measure.field: measure.ledger for measure in MEASURES if measure.kind == "max"}
MINIMA: Final = {measure.field: measure.ledger for measure in MEASURES if measure.kind == "min"}
COSTS: Final = tuple(measure.field for measure in MEASURES if measure.unit == "USD")

CELL: Final = ("source_log", "source_partition", "minute")
"""What one partition of one life of the usage topic contributed to one minute."""

MINUTE: Final = "toDateTime(toStartOfMinute(c.occurred_at), 'UTC')"
_NO_USD: Final = "toDecimal128(0, 12)"
_WHOLE_COSTS: Final = [measure.field for measure in MEASURES if measure.unit == "USD" and measure.name in SIZES]
_LARGEST_USD: Final = f"greatest({', '.join(f'ifNull(c.{name}, {_NO_USD})' for name in _WHOLE_COSTS)})"
_TIER: Final = " + ".join(
    f"({_LARGEST_USD} >= toDecimal128('{usd_text(tier.below)}', 12) OR c.gpu_us >= {tier.below})" for tier in TIERS[:-1]
)
_WIDTH: Final = f"transform(toInt64({_TIER}), {list(range(len(TIERS)))}, {[tier.offsets for tier in TIERS]})"
_ON_TIME: Final = f"toInt64({ON_TIME}) - ({len(TIERS)} * intDiv(c.source_offset, {_WIDTH}) + ({_TIER}))"
BLOCK: Final = (
    f"if(c.lateness = 'correction' AND ({_TIER}) < {ALONE}, "
    f"intDiv(c.source_offset, {CORRECTION_BLOCK_OFFSETS}), {_ON_TIME})"
)
"""A call's ``correction_block``, as the meter chose it: see ``spendstream.core.aggregates``."""

_COMPARED: Final = tuple(m.field for m in MEASURES if m.kind == "sum" or m.unit not in ("time", "offset"))


@dataclass(frozen=True)
class Window:
    """The aggregates of one minute, or of one block of corrections to it, from one partition."""

    source_log: str
    source_partition: int
    minute: datetime
    block: int


def window_of(row: Row) -> Window:
    """Return the window that a row belongs to."""
    return Window(row["source_log"], row["source_partition"], row["minute"], row["correction_block"])


def is_window_final(window: Window, marker: Progress | None, allowed_lateness_s: int) -> bool:
    """Whether the meter will write no new total of a window. An earlier life of the topic is over, and so final."""
    if marker is None or marker.source_log != window.source_log:
        return True
    if window.block <= ON_TIME:
        return is_final(epoch_us(window.minute), marker.watermark_us, allowed_lateness_s)
    return window.block < (marker.through_offset + 1) // CORRECTION_BLOCK_OFFSETS


def dimensions_in_use(configured: Sequence[str], rollups: Iterable[Row]) -> tuple[str, ...]:
    """Return what to group the ledger by: what is configured, and what rollups that exist were grouped by.

    The configuration may have changed since. Grouping by more than a total was is harmless: the sums are the same.
    """
    used = set(configured)
    used.update(name for row in rollups for name in DIMENSIONS if row[name] not in ("", OTHER))
    return tuple(name for name in DIMENSIONS if name in used)


def corrections(rollups: Sequence[Row], ledger: Sequence[Row], used: Sequence[str], cap: int) -> Iterator[Row]:
    """Yield the rows that make the rollups of one window hold what the ledger holds; none where they do.

    Rows have all columns but ``ver``. A window over its cardinality cap keeps ``__other__``: sets of dimensions that
    have a row of their own keep it, and the rest is shared, so its sums are right though it can't be known which calls
    the meter had put there.
    """
    existing = {_dimensions(row): row for row in rollups}
    wanted = _wanted(existing, ledger, used, cap)
    for dimensions, row in wanted.items():
        before = existing.get(dimensions)
        if before is None or any(before[name] != row[name] for name in _COMPARED):
            yield row
    for dimensions, row in existing.items():
        if dimensions not in wanted and any(row[name] for name in SUMS):
            yield {**row, **{name: type(row[name])(0) for name in _COMPARED}}


def version(rows: Iterable[Row], marker: Progress | None) -> int:
    """Return a ``ver`` greater than that of any row the meter can have written for these keys, or a repair before."""
    highest = max((max(row.get("ver", 0), row["through_offset"]) for row in rows), default=0)
    return max(highest, -1 if marker is None else marker.through_offset) + 1


def _wanted(
    existing: Mapping[tuple[str, ...], Row], ledger: Sequence[Row], used: Sequence[str], cap: int
) -> dict[tuple[str, ...], Row]:
    live = {dimensions for dimensions, row in existing.items() if row["calls"]}
    others = [dimensions for dimensions in live if OTHER in dimensions and set(dimensions) <= {OTHER, ""}]
    own = live.difference(others)
    other = others[0] if others else tuple(OTHER if name in used else "" for name in DIMENSIONS)
    wanted: dict[tuple[str, ...], Row] = {}
    for row in sorted(ledger, key=lambda each: each["first_offset"]):
        dimensions = _dimensions(row)
        if dimensions not in own:
            if others or len(own) >= cap:
                dimensions = other
            else:
                own.add(dimensions)
        before = wanted.get(dimensions)
        if before is None:
            wanted[dimensions] = {**row, **dict(zip(DIMENSIONS, dimensions, strict=True))}
        else:
            wanted[dimensions] = {
                **before,
                **{name: before[name] + row[name] for name in SUMS},
                **{name: max(before[name], row[name]) for name in MAXIMA},
                **{name: min(before[name], row[name]) for name in MINIMA},
            }
    return wanted


def _dimensions(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in DIMENSIONS)
