"""The spend that ClickHouse holds and a detector's book doesn't, for budgets that begin within their period."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spendstream.core.detect.finding import Values
from spendstream.core.detect.rollups import SeedBoundary, Source
from spendstream.core.detect.seeding import History, Seeding, Spent
from spendstream.core.money import PUSD
from spendstream.core.timestamps import US
from spendstream.schemas.rollup import DIMENSIONS, ON_TIME

CHUNK_US: Final = 86_400 * US
"""A query reads so much time: bounded in memory on both sides."""

_MINUTE_S: Final = "toInt64(toUnixTimestamp(r.minute))"
# In whole numbers from here on: one int64 of pico-dollars ends at 9.2 million USD, two don't.
_DOLLARS: Final = f"accurateCast(intDiv(toInt128({{cost}} * toDecimal128({PUSD}, 0)), {PUSD}), 'Int64')"
_PUSD: Final = f"accurateCast(modulo(toInt128({{cost}} * toDecimal128({PUSD}, 0)), {PUSD}), 'Int64')"
_SETTINGS: Final = "SETTINGS do_not_merge_across_partitions_select_final = 1"


class SpendHistory:
    """Reads ``rollups_1m``. ``client``: of clickhouse-connect. Blocks."""

    def __init__(self, client: Any, database: str) -> None:
        self._client = client
        self._table = f"`{database}`.rollups_1m AS r FINAL"

    def read(self, seeding: Seeding, until_us: int) -> History:
        """Return what was metered from ``seeding.since_us`` until a minute, but for single aggregates in the book.

        Raises: clickhouse-connect's errors.
        """
        is_before = _is_before(seeding.boundaries)
        summed, singles = _Rows(), _Rows()
        digests: list[tuple[bytes, ...]] = []
        for open_us in range(seeding.since_us, until_us, CHUNK_US):
            within = _within(open_us, min(open_us + CHUNK_US, until_us))
            self._read_summed(seeding, f"{within} AND {is_before}", summed)
            self._read_singles(seeding, f"{within} AND NOT ({is_before}) AND r.cost_usd != 0", singles, digests)
        return History(summed.spent(), singles.spent(), digests)

    def _read_summed(self, seeding: Seeding, condition: str, rows: "_Rows") -> None:
        fine_s, block_s = seeding.fine_us // US, seeding.block_us // US
        keys = [
            f"if({_MINUTE_S} >= {fine_s}, {_MINUTE_S}, intDiv({_MINUTE_S}, {block_s}) * {block_s}) AS open_s",
            *(f"toString(r.{name}) AS key_{name}" for name in seeding.names),
        ]
        by = ", ".join(["open_s", *(f"key_{name}" for name in seeding.names)])
        table = self._client.query_arrow(
            f"SELECT {', '.join(keys)}, {_amount('sum(r.cost_usd)')} FROM {self._table} "
            f"WHERE {condition} GROUP BY {by} {_SETTINGS}"
        )
        members = zip(*(table[f"key_{name}"].to_pylist() for name in seeding.names), strict=True)
        rows.add(table, list(members) if seeding.names else [()] * table.num_rows)

    def _read_singles(self, seeding: Seeding, condition: str, rows: "_Rows", digests: list[tuple[bytes, ...]]) -> None:
        keys = [
            f"{_MINUTE_S} AS open_s, toString(r.source_log) AS log, toInt64(r.source_partition) AS part",
            "r.correction_block AS block",
            *(f"toString(r.{name}) AS key_{name}" for name in DIMENSIONS),
        ]
        table = self._client.query_arrow(
            f"SELECT {', '.join(keys)}, {_amount('r.cost_usd')} FROM {self._table} WHERE {condition} {_SETTINGS}"
        )
        values: list[Values] = list(zip(*(table[f"key_{name}"].to_pylist() for name in DIMENSIONS), strict=True))
        logs, parts, blocks = table["log"].to_pylist(), _ints(table, "part").tolist(), _ints(table, "block").tolist()
        rows_of = zip(logs, parts, (_ints(table, "open_s") * US).tolist(), blocks, values, strict=True)
        found = [seeding.digests((log, part), minute_us, block, row) for log, part, minute_us, block, row in rows_of]
        positions = [DIMENSIONS.index(name) for name in seeding.names]
        kept = np.flatnonzero([not seeding.is_in_book(each) for each in found])
        members = [tuple(values[at][position] for position in positions) for at in kept.tolist()]
        rows.add(table.take(pa.array(kept)), members)
        digests.extend(found[at] for at in kept.tolist())


class _Rows:
    """Gathers the rows of several queries."""

    def __init__(self) -> None:
        self._members: list[Values] = []
        self._columns: dict[str, list[NDArray[np.int64]]] = {"open_s": [], "dollars": [], "pusd": []}

    def add(self, table: pa.Table, members: list[Values]) -> None:
        self._members += members
        for name, arrays in self._columns.items():
            arrays.append(_ints(table, name))

    def spent(self) -> Spent:
        empty = np.zeros(0, dtype=np.int64)
        open_s, dollars, pusd = (np.concatenate([empty, *arrays]) for arrays in self._columns.values())
        return Spent(self._members, open_s * US, dollars, pusd)


def _is_before(boundaries: Mapping[Source, SeedBoundary]) -> str:
    """Return the condition that a row lies before its source's boundary: see ``SeedBoundary``."""
    if not boundaries:
        return "0"
    source = "concat(toString(r.source_partition), '/', toString(r.source_log))"
    names = ", ".join(_text(f"{partition}/{log}") for log, partition in boundaries)

    def of_source(numbers: Iterable[int]) -> str:
        listed = ", ".join(map(str, numbers))
        return f"transform({source}, [{names}], CAST([{listed}], 'Array(Int64)'), toInt64(-1))"

    through = of_source(each.through_offset for each in boundaries.values())
    minute = of_source(each.minute_us // US for each in boundaries.values())
    block = of_source(each.block for each in boundaries.values())
    is_old = f"if(r.correction_block <= {ON_TIME}, {_MINUTE_S} < {minute}, r.correction_block < {block})"
    return f"(r.through_offset <= {through} AND {is_old})"


def _amount(cost: str) -> str:
    return f"{_DOLLARS.format(cost=cost)} AS dollars, {_PUSD.format(cost=cost)} AS pusd"


def _within(open_us: int, close_us: int) -> str:
    return f"r.minute >= toDateTime({open_us // US}, 'UTC') AND r.minute < toDateTime({close_us // US}, 'UTC')"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _ints(table: pa.Table, name: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = table[name].to_numpy().astype(np.int64)
    return found
