"""What a call costs ClickHouse: CPU to insert it and to merge it, by table and by group of columns, side by side.

    python -m tests.bench --ledger

The meter's own records go through the sink's encoder into the real engine, in a process of its own for each variant.
Merges wait until every insert is done; then one merge makes one part of all. CPU is the engine's process, all threads.
"""

import json
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from spendstream.agents.meter_state import PRICED_MAX_BYTES, PRICED_MAX_ROWS
from spendstream.clickhouse.client import INSERT_SETTINGS
from spendstream.clickhouse.migrate import Target, load_migrations, render
from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.schemas.buckets import COST_BUCKETS, cost_column
from spendstream.schemas.priced import PRICED_SCHEMA
from spendstream.settings import Settings
from spendstream.sinks.calls import filled, read_priced
from spendstream.sinks.encoders import Insert, table_insert
from tests.bench.load import events
from tests.bench.stages import read_batch

_BATCH: Final = 20_000
_KEY: Final = ("event_id", "occurred_at", "team", "feature", "model", "priced_at")
_IDS: Final = ("provider_response_id", "trace_id", "span_id", "conversation_id", "task_id")
_ALTER: Final = "ALTER TABLE spendstream.calls"
_BUCKET_COSTS: Final = [cost_column(bucket) for bucket in COST_BUCKETS]
_COUNTERFACTUAL: Final = ["cost_without_cache_usd", "cost_at_standard_tier_usd", "cost_with_requested_model_usd"]
_ADDED: Final = (
    "agent", "turn", "parent_event_id", "inference_geo", "capacity", "usage_notes", "cache_read_image_tokens",
    "input_video_tokens", "output_video_tokens", "units", "account", "project", "credential", "cost_by_unit",
    "price_quality", "price_notes", "context_step",
    *map(cost_column, ("cache_read_image", "input_video", "output_video", "units")),
)  # fmt: skip
_BLOOM: Final = ("event_id", "task_id", "conversation_id", "trace_id")


def _names(keep: Any) -> list[str]:
    return [field.name for field in PRICED_SCHEMA if field.name not in _KEY and keep(field)]


def _ddl(change: str, columns: list[str]) -> list[str]:
    return [f"{_ALTER} " + ", ".join(change.format(column) for column in columns)]


_VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "as it is": {},
    "every column sent": {"all": True},
    "parts above 10 MiB wide": {"ddl": [f"{_ALTER} RESET SETTING min_bytes_for_wide_part"]},
    "both, as before": {"all": True, "ddl": [f"{_ALTER} RESET SETTING min_bytes_for_wide_part"]},
    "both, before the columns of units and quality": {
        "all": True,
        "ddl": [f"{_ALTER} RESET SETTING min_bytes_for_wide_part"],
        "without": list(_ADDED),
    },
    "costs that can't be null": {
        "ddl": _ddl("MODIFY COLUMN {} Decimal(38, 12) DEFAULT 0", [*_BUCKET_COSTS, *_COUNTERFACTUAL])
    },
    "without bloom filters": {"ddl": _ddl("DROP INDEX {}_bloom", list(_BLOOM))},
    "without costs by bucket": {"without": _BUCKET_COSTS},
    "without counterfactuals": {"without": _COUNTERFACTUAL},
    "without units": {"without": ["units", "cost_by_unit"]},
    "without counts": {"without": _names(lambda field: field.type == pa.int64())},
    "without ids": {"without": list(_IDS)},
    "without short texts": {"without": _names(lambda field: pa.types.is_dictionary(field.type))},
    "key and version alone": {"without": _names(lambda field: True)},
}  # fmt: skip


def measure_ledger(count: int, rounds: int = 3) -> str:
    """Return a Markdown table of CPU µs per call by variant: the least of so many rounds, which alternate."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        path.write_bytes(pickle.dumps(list(_records(count))))
        for _ in range(rounds):
            for name in _VARIANTS:
                command = [sys.executable, "-m", "tests.bench.ledger", name, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    lines = ["| | insert | one merge | bytes on disk |", "| --- | ---: | ---: | ---: |"]
    for name, runs in found.items():
        least = {what: min(run[what] for run in runs) for what in ("insert_us", "merge_us")}
        on_disk = statistics.median(run["bytes"] for run in runs)
        lines.append(f"| {name} | {least['insert_us']:.2f} | {least['merge_us']:.2f} | {on_disk:.0f} |")
    return "\n".join(lines)


def _records(count: int) -> Iterator[bytes]:
    """Yield the ledger's records of so many calls."""
    meter = PartitionMeter(new_marker(0, "bench", -1), MeterRules(), PriceBook.load())
    load = list(events(count))
    for start in range(0, count, _BATCH):
        part = load[start : start + _BATCH]
        meter.absorb(read_batch(part, start), datetime.now(UTC))
        taken = meter.take()
        assert taken.calls is not None
        table = ledger_table(taken.calls, partition=0, source_log="bench")
        yield from ledger_records(table, PRICED_MAX_ROWS, PRICED_MAX_BYTES)
        meter.mark_durable(meter.rollups_written(taken, 0), 0)


def _inserts(path: Path, without: list[str], *, everything: bool) -> Iterator[Insert]:
    tables = [read_priced(record) for record in pickle.loads(path.read_bytes())]
    group: list[pa.Table] = []
    for table in [*tables, None]:
        rows = sum(one.num_rows for one in group)
        if group and (table is None or rows + table.num_rows > Settings().sink_max_rows):
            stated = {name for table in group for name in table.schema.names}
            schema = [f for f in PRICED_SCHEMA if (everything or f.name in stated) and f.name not in without]
            yield table_insert("calls", pa.concat_tables([filled(calls, pa.schema(schema)) for calls in group]))
            group = []
        if table is not None:
            group.append(table)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _run(variant: dict[str, Any], path: Path) -> dict[str, float]:
    import chdb

    without = variant.get("without", [])
    inserts = list(_inserts(path, without, everything=variant.get("all", False)))
    with tempfile.TemporaryDirectory() as folder:
        connection = chdb.connect(folder)

        def ask(sql: str) -> str:
            return str(connection.query(sql, "TabSeparated"))

        def send(insert: Insert) -> None:
            columns = ", ".join(f"`{name}`" for name in insert.columns)
            with connection.send_insert(f"INSERT INTO spendstream.calls ({columns})", "ArrowStream") as stream:
                stream.append(insert.body)
                stream.finish()

        for sql in (
            "CREATE DATABASE spendstream",
            *(sql for migration in load_migrations() for sql in render(migration.up, Target())),
            *variant.get("ddl", []),
            *([f"{_ALTER} " + ", ".join(f"DROP INDEX IF EXISTS {n}_bloom" for n in _BLOOM)] if without else []),
            *([f"{_ALTER} " + ", ".join(f"DROP COLUMN {name}" for name in without)] if without else []),
            "SYSTEM STOP MERGES spendstream.calls",
            "SET " + ", ".join(f"{name} = {value}" for name, value in INSERT_SETTINGS.items()),
        ):
            ask(sql)
        send(inserts[0])  # the first one loads code
        started = _cpu_s()
        for insert in inserts[1:]:
            send(insert)
        inserted = _cpu_s()
        ask("SYSTEM START MERGES spendstream.calls")
        merging = _cpu_s()
        ask("OPTIMIZE TABLE spendstream.calls FINAL")
        merged = _cpu_s()
        rows = sum(insert.rows for insert in inserts)
        assert int(ask("SELECT count() FROM spendstream.calls")) == rows
        on_disk = ask("SELECT sum(bytes_on_disk) FROM system.parts WHERE table = 'calls' AND active")
        connection.close()
    return {
        "insert_us": (inserted - started) / (rows - inserts[0].rows) * 1e6,
        "merge_us": (merged - merging) / rows * 1e6,
        "bytes": int(on_disk) / rows,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_run(_VARIANTS[sys.argv[1]], Path(sys.argv[2]))) + "\n")
