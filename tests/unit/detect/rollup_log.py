"""Rollup records as a meter writes them: absolute totals per aggregate, from a known truth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.money import PUSD
from spendstream.core.rollup_record import AggregateKey, rollup_record
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.measures import COLUMN, COST, MEASURES
from spendstream.schemas.rollup import ON_TIME

NAMES = ("service", "team", "feature", "model")
Members = tuple[str, ...]
BEGAN_US = 1_767_225_600 * 1_000_000  # 2026-01-01T00:00:00Z


def minute(number: int) -> int:
    """The open of minute ``number`` of the log, in µs."""
    return BEGAN_US + number * MINUTE_US


@dataclass
class RollupLog:
    """One meter's partition: calls in, records of changed aggregates out. ``truth``: cost by (minute, members)."""

    partition: int = 0
    source_log: str = "log"
    truth: dict[tuple[int, Members], int] = field(default_factory=lambda: defaultdict(int))
    calls: dict[tuple[int, Members], int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self._totals: dict[AggregateKey, np.ndarray] = {}
        self._dirty: dict[AggregateKey, None] = {}
        self._offset = -1

    def call(self, at: int, members: Members, pusd: int, *, block: int = ON_TIME, **sums: int) -> None:
        """One call in minute ``at``, of some cost in pico-dollars; further measures by their names."""
        self._offset += 1
        key = AggregateKey(minute(at), block, members)
        totals = self._totals.setdefault(key, np.zeros(len(MEASURES), dtype=np.int64))
        if not totals[COLUMN["calls"]]:
            totals[COLUMN["first_offset"]] = self._offset
        totals[COLUMN["calls"]] += 1
        totals[COLUMN[COST]] += pusd
        for name, value in sums.items():
            totals[COLUMN[name]] += value
        totals[COLUMN["through_offset"]] = self._offset
        self._dirty[key] = None
        self.truth[minute(at), members] += pusd
        self.calls[minute(at), members] += 1

    def usd(self, at: int, members: Members, usd: float, **sums: int) -> None:
        """One call, its cost in USD."""
        self.call(at, members, round(usd * PUSD), **sums)

    def flush(self, at_ms: int) -> list[RollupRecord]:
        """Return a record of each aggregate that has changed since the last flush."""
        records = [self._record(key, at_ms) for key in self._dirty]
        self._dirty.clear()
        return records

    def everything(self, at_ms: int) -> list[RollupRecord]:
        """Return a record of every aggregate so far, as a replay may rewrite them."""
        return [self._record(key, at_ms) for key in self._totals]

    def _record(self, key: AggregateKey, at_ms: int) -> RollupRecord:
        written = rollup_record(self.source_log, self.partition, NAMES, key, self._totals[key])
        return RollupRecord(self.partition, at_ms, *written)
