"""A virtual ClickHouse: what ``FINAL`` shows of tables that replace rows of equal keys by their version."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
from clickhouse_connect.driver.exceptions import DatabaseError

from spendstream.schemas.priced import DEFAULTS
from spendstream.schemas.rollup import DIMENSIONS

Row = dict[str, Any]

_KEYS: Final[dict[str, tuple[str, ...]]] = {
    # the hour, team, feature and model of the sort key follow from the event
    "calls": ("event_id",),
    "rollups_1m": ("minute", *DIMENSIONS, "source_log", "source_partition", "correction_block"),
    "dead_letters": ("topic", "source_log", "partition", "offset"),
    "rate_cards": ("rate_card_id",),
}
LEDGER: Final = ("source_offset", "cost_usd", "lateness", "service", "team", "model", "input_tokens", "unpriced_reason")
ROLLUPS: Final = ("calls", "cost_usd", "late_calls", "unpriced_calls", "through_offset", "first_offset")
KEPT: Final = {
    **_KEYS,
    "calls": (*_KEYS["calls"], "priced_at", *LEDGER),
    "rollups_1m": (*_KEYS["rollups_1m"], *ROLLUPS),
}
"""The columns that are kept: what is compared."""
_VERSIONS: Final[dict[str, Callable[[Row], Any]]] = {
    "calls": lambda row: row["priced_at"],
    "rollups_1m": lambda row: row["through_offset"],
}


@dataclass
class ClickHouse:
    """``tables``: by name, rows by their keys. ``refuses`` and ``forgets_answers``: how often, of the inserts."""

    draw: Callable[[], float]
    refuses: float = 0.0
    forgets_answers: float = 0.0
    tables: dict[str, dict[tuple[Any, ...], Row]] = field(default_factory=lambda: {name: {} for name in _KEYS})

    # the client of clickhouse-connect

    def raw_insert(
        self, table: str, columns: Sequence[str], body: bytes, *, settings: dict[str, Any], fmt: str
    ) -> None:
        assert fmt == "ArrowStream"
        if self.draw() < self.refuses:
            raise DatabaseError("Code: 241. DB::Exception: Memory limit exceeded")
        name = table.split(".")[1]
        rows = pa.ipc.open_stream(io.BytesIO(body)).read_all()
        assert tuple(rows.schema.names) == tuple(columns)
        kept = [column for column in KEPT[name] if column in columns]
        version = _VERSIONS.get(name, lambda _: 0)
        stored = self.tables[name]
        for row in rows.select(kept).to_pylist():
            row = {column: DEFAULTS.get(column) for column in KEPT[name]} | row
            key = tuple(row[column] for column in _KEYS[name])
            if key not in stored or version(row) >= version(stored[key]):
                stored[key] = row
        if self.draw() < self.forgets_answers:
            raise ConnectionResetError("the answer was lost")

    def close(self) -> None:
        pass
