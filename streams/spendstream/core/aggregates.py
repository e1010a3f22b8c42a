"""The open aggregates of one source partition: calls go in, absolute totals come out, final ones are evicted.

An aggregate's sums are signed 64-bit integers: money in pico-dollars up to 9.2 million USD. To keep every sum below
that, a minute's calls are split into blocks by size and offset. Calls below 2^42 (4.40 USD) share an aggregate within
2^21 offsets, calls below 2^51 (2,252 USD) within 2^12, and a larger call has its own. Size times number of calls is
2^63 at most, and the sum is less. Readers sum over blocks anyway.

Size and offset follow from the log alone. A rule such as "open another when this one is full" would depend on where a
replay began.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spendstream.core.lateness import CORRECTION_CODE, is_final
from spendstream.core.rollup_record import AggregateKey, Dimensions
from spendstream.schemas.measures import COLUMN, COST, COUNTERFACTUALS, MAXIMA, MEASURES, SUMS
from spendstream.schemas.rollup import ON_TIME, OTHER

CORRECTION_BLOCK_OFFSETS: Final = 4096
"""Events beyond the allowed lateness share a correction row if their offsets fall into the same block of this many."""

SIZES: Final = (COST, *COUNTERFACTUALS, "gpu_us")
"""The columns whose sums could pass 64 bits. Others are counts below 2^31, or parts of the cost.

A new measure with larger values belongs here, which changes the blocks of calls: drain the meter before upgrading."""


@dataclass(frozen=True)
class Tier:
    """Calls whose greatest column is below ``below`` share a block within ``offsets`` successive offsets."""

    below: int
    offsets: int


TIERS: Final = (Tier(2**42, 2**21), Tier(2**51, CORRECTION_BLOCK_OFFSETS), Tier(2**63, 1))
ALONE: Final = len(TIERS) - 1
"""The tier of a call with its own aggregate, late or not: a block of 4,096 corrections of that size would overflow."""

_SUM_COLUMNS: Final = slice(0, len(SUMS))
_MAX_COLUMNS: Final = slice(len(SUMS), len(SUMS) + len(MAXIMA))
_MIN_COLUMNS: Final = slice(len(SUMS) + len(MAXIMA), len(MEASURES))
_FIRST_OFFSET: Final = COLUMN["first_offset"]
_THROUGH_OFFSET: Final = COLUMN["through_offset"]
_FOLDS: Final = {measure.name: measure.fold(pl) for measure in MEASURES}
_AGGREGATIONS: Final = [_FOLDS[name].alias(f"__{name}") for name in COLUMN]


def blocks(calls: pl.DataFrame) -> NDArray[np.int64]:
    """Return each priced call's ``correction_block``. Columns: ``offset``, ``lateness`` and ``SIZES``.

    On time: ``ON_TIME - (3 * (offset // tier.offsets) + tier)``, so -1 for ordinary calls of the first 2 million
    offsets, then -4; too late: the offset's block of 4,096, from 0 on.
    """
    offset = calls["offset"].to_numpy()
    columns = [calls[name].to_numpy() for name in SIZES]
    tier = np.zeros(calls.height, dtype=np.int64)
    if max((int(column.max(initial=0)) for column in columns), default=0) >= TIERS[0].below:  # almost never
        size = np.maximum.reduce(columns)
        for each in TIERS[:-1]:
            tier += size >= each.below
    width = np.take(np.array([each.offsets for each in TIERS]), tier)
    on_time = ON_TIME - (len(TIERS) * (offset // width) + tier)
    too_late = (calls["lateness"].to_numpy() == CORRECTION_CODE) & (tier != ALONE)
    return np.where(too_late, offset // CORRECTION_BLOCK_OFFSETS, on_time)


@dataclass
class _Window:
    """The aggregates of one (minute, block): a row of the matrix for each set of dimensions.

    ``admitted``: the rows without ``__other__``; ``latest_first``: the greatest first offset among them.
    """

    rows: dict[Dimensions, int] = field(default_factory=dict)
    admitted: int = 0
    latest_first: int = -1
    rollups_from: int | None = None


class Aggregates:
    """Absolute totals of one source partition.

    An aggregate remembers the last offset it absorbed, so that absorbing a record twice changes nothing.
    At most ``cap`` sets of dimensions get their own row in a window; later ones share ``__other__``. First offsets
    alone decide which, so a replay makes the same choice.
    """

    def __init__(self, dimensions: Sequence[str], cap: int) -> None:
        self.dimensions = tuple(dimensions)
        self._cap = cap
        self._other: Dimensions = (OTHER,) * len(self.dimensions)
        self._windows: dict[tuple[int, int], _Window] = {}
        self._totals: NDArray[np.int64] = np.zeros((256, len(MEASURES)), dtype=np.int64)
        self._keys: list[AggregateKey | None] = []
        self._free: list[int] = []
        self._dirty: set[int] = set()
        self._replay_until = -1

    def __len__(self) -> int:
        return len(self._keys) - len(self._free)

    def absorb(self, calls: pl.DataFrame) -> pl.DataFrame:
        """Fold calls into the totals. Columns: the dimensions, ``minute_us``, ``block``, ``offset``, and the measures'.

        Returns the calls that were new: those that an aggregate had absorbed before are left out.
        """
        if calls.height == 0:
            return calls
        by = ["minute_us", "block", *self.dimensions]
        if self._replay_until >= int(calls["offset"].min()):  # type: ignore[arg-type]
            keys = calls.group_by(by).agg(pl.col("offset").min().alias("__first"))
            rows = self._resolve(keys.select(by), keys["__first"].to_numpy())
            through = keys.select(by).with_columns(pl.Series("__through", self._totals[rows, _THROUGH_OFFSET]))
            joined = calls.join(through, on=by, how="left", maintain_order="left")
            calls = joined.filter(pl.col("offset") > pl.col("__through")).drop("__through")
            if calls.height == 0:
                return calls
        for part in _summable(calls):
            folded = part.group_by(by).agg(_AGGREGATIONS)
            rows = self._resolve(folded.select(by), folded["__first_offset"].to_numpy())
            self._add(rows, folded.select(f"__{name}" for name in COLUMN).to_numpy())
            self._dirty.update(rows.tolist())
        return calls

    def _resolve(self, keys: pl.DataFrame, first_offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the matrix row of each key, opening rows in the order of first offsets."""
        rows = np.empty(keys.height, dtype=np.int64)
        listed = keys.rows()
        for i in np.argsort(first_offsets, kind="stable").tolist():
            minute_us, block, *values = listed[i]
            window = self._windows.setdefault((minute_us, block), _Window())
            dimensions: Dimensions = tuple(values)
            row = window.rows.get(dimensions)
            if row is None:
                if self._admitted_before(window, int(first_offsets[i])) >= self._cap:
                    dimensions = self._other
                row = window.rows.get(dimensions)
                if row is None:
                    row = self._open(window, AggregateKey(minute_us, block, dimensions), int(first_offsets[i]))
            rows[i] = row
        return rows

    def _admitted_before(self, window: _Window, offset: int) -> int:
        if window.admitted < self._cap or window.latest_first < offset:
            return window.admitted
        # records that opened a restored row may still be replayed
        own = [row for dimensions, row in window.rows.items() if dimensions != self._other]
        return int(np.count_nonzero(self._totals[own, _FIRST_OFFSET] < offset))

    def _open(self, window: _Window, key: AggregateKey, first_offset: int) -> int:
        if self._free:
            row = self._free.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
            if row == len(self._totals):
                self._totals = np.concatenate((self._totals, np.zeros_like(self._totals)))
        self._totals[row] = 0
        self._totals[row, _MAX_COLUMNS] = -1
        self._totals[row, _MIN_COLUMNS] = np.iinfo(np.int64).max
        self._totals[row, _FIRST_OFFSET] = first_offset
        window.rows[key.dimensions] = row
        if key.dimensions != self._other:
            window.admitted += 1
            window.latest_first = max(window.latest_first, first_offset)
        return row

    def _add(self, rows: NDArray[np.int64], folded: NDArray[np.int64]) -> None:
        totals = self._totals
        before = totals[rows, _SUM_COLUMNS]
        np.add.at(totals[:, _SUM_COLUMNS], rows, folded[:, _SUM_COLUMNS])  # several keys may share __other__
        np.maximum.at(totals[:, _MAX_COLUMNS], rows, folded[:, _MAX_COLUMNS])
        np.minimum.at(totals[:, _MIN_COLUMNS], rows, folded[:, _MIN_COLUMNS])
        if (totals[rows, _SUM_COLUMNS] < before).any():
            raise OverflowError("one aggregate's cost passed 9.2 million USD within a minute: 64 bits can't hold it")

    def restore(self, key: AggregateKey, totals: NDArray[np.int64], rollups_from: int) -> None:
        """Put back an aggregate read from the rollup topic; the greatest ``through_offset`` wins."""
        window = self._windows.setdefault((key.minute_us, key.block), _Window())
        window.rollups_from = rollups_from if window.rollups_from is None else min(window.rollups_from, rollups_from)
        row = window.rows.get(key.dimensions)
        if row is None:
            row = self._open(window, key, int(totals[_FIRST_OFFSET]))
        if totals[_THROUGH_OFFSET] > self._totals[row, _THROUGH_OFFSET]:
            self._totals[row] = totals
        self._replay_until = max(self._replay_until, int(totals[_THROUGH_OFFSET]))

    def take_dirty(self) -> list[tuple[AggregateKey, NDArray[np.int64]]]:
        """Return the aggregates touched since the last take, with a copy of their totals."""
        rows = sorted(self._dirty)
        self._dirty.clear()
        copied = self._totals[rows]
        return [(key, copied[i]) for i, row in enumerate(rows) if (key := self._keys[row]) is not None]

    def written_from(self, keys: Sequence[AggregateKey], rollup_offset: int) -> None:
        """Note that the rollups of these aggregates are in the rollup topic at ``rollup_offset`` or later."""
        for key in keys:
            window = self._windows.get((key.minute_us, key.block))
            if window is not None and window.rollups_from is None:
                window.rollups_from = rollup_offset

    def rollups_from(self) -> int | None:
        """Return the offset in the rollup topic from which every open aggregate can be read back."""
        return min((w.rollups_from for w in self._windows.values() if w.rollups_from is not None), default=None)

    def evict(self, watermark_us: int, through_offset: int, allowed_lateness_s: int) -> int:
        """Drop the aggregates that no record after ``through_offset`` can change. The watermark must be durable."""
        evicted = 0
        next_block = (through_offset + 1) // CORRECTION_BLOCK_OFFSETS
        for (minute_us, block), window in list(self._windows.items()):
            over = is_final(minute_us, watermark_us, allowed_lateness_s) if block <= ON_TIME else block < next_block
            if over and self._dirty.isdisjoint(window.rows.values()):
                for row in window.rows.values():
                    self._keys[row] = None
                    self._free.append(row)
                evicted += len(window.rows)
                del self._windows[(minute_us, block)]
        return evicted

    def other_calls(self) -> int:
        """Return how many calls the open windows hold in ``__other__``."""
        rows = [w.rows[self._other] for w in self._windows.values() if self._other in w.rows]
        return int(self._totals[rows, COLUMN["calls"]].sum())

    def __iter__(self) -> Iterator[tuple[AggregateKey, NDArray[np.int64]]]:
        return ((key, self._totals[row]) for row, key in enumerate(self._keys) if key is not None)


def _summable(calls: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Split calls whose costs might not sum within 64 bits, so that an overflow is noticed instead of wrapping."""
    dearest = max(int(calls[name].max()) for name in (COST, *COUNTERFACTUALS))  # type: ignore[arg-type]
    if calls.height == 1 or dearest * calls.height < 2**62:
        yield calls
        return
    half = calls.height // 2
    yield from _summable(calls[:half])
    yield from _summable(calls[half:])
