"""The rollups in ClickHouse as a series with steps of one minute, read an hour at a time."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spendstream.backtest.series import MINUTE_S, BacktestError, Increment, Step
from spendstream.core.detect.finding import Values
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US, US, from_epoch_us
from spendstream.schemas.measures import MEASURES, WATCHED
from spendstream.schemas.watch import Measure

CHUNK_US: Final = 60 * MINUTE_US

_SUMS: Final = [measure for measure in MEASURES if measure.kind == "sum"]
# accurateCast raises beyond 64 bits, where other casts wrap.
_PUSD: Final = f"accurateCast(sum(r.{{field}}) * toDecimal128({PUSD}, 0), 'Int64')"


class HistorySeries:
    """What was metered from ``start_us`` to ``end_us``, in whole minutes. See ``spendstream.backtest.series.Series``.

    ``client``: of clickhouse-connect. ``dimensions``: all others are summed over.
    Raises: BacktestError, if nothing was metered; clickhouse-connect's errors.
    """

    has_reasons = True
    step_us = MINUTE_US
    measures: frozenset[Measure] = frozenset(WATCHED)

    def __init__(self, client: Any, database: str, dimensions: Sequence[str], start_us: int, end_us: int) -> None:
        self.dimensions = tuple(dimensions)
        self.start_us = start_us - start_us % MINUTE_US
        self.end_us = end_us - end_us % MINUTE_US
        self._client = client
        self._table = f"`{database}`.rollups_1m"
        if self.start_us >= self.end_us:
            raise BacktestError("--from must be at least a minute before --to")
        sql = f"SELECT count() FROM {self._table} AS r WHERE {_within(self.start_us, self.end_us)}"
        if not client.query(sql).result_rows[0][0]:
            first, last = from_epoch_us(self.start_us), from_epoch_us(self.end_us)
            raise BacktestError(f"nothing was metered from {first:%Y-%m-%d %H:%M}Z to {last:%Y-%m-%d %H:%M}Z")

    def steps(self) -> Iterator[Step]:
        """Yield the minutes in which something was metered. Keeps one hour in memory."""
        for open_us in range(self.start_us, self.end_us, CHUNK_US):
            yield from self._hour(open_us, min(open_us + CHUNK_US, self.end_us))

    def _hour(self, open_us: int, close_us: int) -> Iterator[Step]:
        table = self._client.query_arrow(self._select(open_us, close_us))
        minutes = _ints(table, "minute_s") * US
        members = list(zip(*(table[name].to_pylist() for name in self.dimensions), strict=True))
        members = members or [()] * table.num_rows
        sums = np.stack([_ints(table, f"sum_{measure.field}") for measure in _SUMS], axis=1)
        for minute_us in np.unique(minutes).tolist():
            mine = np.flatnonzero(minutes == minute_us)
            named: list[Values] = [members[at] for at in mine.tolist()]
            yield Step(minute_us, (Increment(MINUTE_S, named, sums[mine]),))

    def _select(self, open_us: int, close_us: int) -> str:
        keys = [f"toString(r.{name}) AS {name}" for name in self.dimensions]
        sums = [
            f"{_PUSD.format(field=m.field) if m.unit == 'USD' else f'toInt64(sum(r.{m.field}))'} AS sum_{m.field}"
            for m in _SUMS
        ]
        by = ", ".join(("minute_s", *self.dimensions))
        return (
            f"SELECT {', '.join(['toInt64(toUnixTimestamp(r.minute)) AS minute_s', *keys, *sums])} "
            f"FROM {self._table} AS r FINAL WHERE {_within(open_us, close_us)} GROUP BY {by} ORDER BY {by} "
            "SETTINGS do_not_merge_across_partitions_select_final = 1"
        )


def _within(open_us: int, close_us: int) -> str:
    return f"r.minute >= toDateTime({open_us // US}, 'UTC') AND r.minute < toDateTime({close_us // US}, 'UTC')"


def _ints(table: pa.Table, name: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = table[name].to_numpy().astype(np.int64)
    return found
