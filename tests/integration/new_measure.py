"""A measure that was just declared, from event to alert: ``python -m tests.integration.new_measure NAME URL DATABASE``.

Run on a copy of the package in which nothing but the declaration and a migration was added. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from spendstream.backtest.history import HistorySeries
from spendstream.clickhouse.client import INSERT_SETTINGS, ClickHouseSettings, open_client
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target, load_migrations
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.measures import numerators
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import MeterOutput, MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.core.rollup_record import read_rollup, rollup_record, totals_of
from spendstream.core.timestamps import epoch_us
from spendstream.reconcile.compare import Range, differing_cells
from spendstream.reconcile.repair import ledger_query, rollup_query, rollup_rows
from spendstream.schemas.measures import COLUMN, SUMS
from spendstream.schemas.rollup import DIMENSIONS, CostRollup
from spendstream.schemas.watch import Watches
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import RollupEncoder, RowEncoder
from tests.reference_meter import LogRecord
from tests.unit.log import as_batch
from tests.unit.sinks.make import records

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
TOKENS = (5, 7, 30)
"""What the events count, one a minute."""


def main(name: str, url: str, database: str) -> dict[str, Any]:
    """Return where the measure was seen, and what it came to there."""
    output = metered()
    written = [rollup_record("log", 0, DIMENSIONS, key, totals) for key, totals in output.rollups]
    rollups = [read_rollup(value) for _, value in written]
    found: dict[str, Any] = {
        "record": [json.loads(value)[name] for _, value in written],
        "contract": [getattr(CostRollup.model_validate_json(value), name) for _, value in written],
        "recovered": totals_of(rollups)[:, COLUMN[name]].tolist(),
        **detected(name, written),
    }
    with open_client(ClickHouseSettings(url)) as client:
        found["migrations"] = [m.name for m in Migrator(client, MigrationSettings(Target(database))).up()][-1:]

        def insert(encoder: RowEncoder, values: list[bytes]) -> None:
            for each in encoder.encode(records(values)).inserts:
                table = f"{database}.{each.table}"
                client.raw_insert(table, each.columns, each.body, fmt="ArrowStream", settings=INSERT_SETTINGS)

        def rows(sql: str) -> list[list[Any]]:
            return [list(row) for row in client.query(sql).result_rows]

        def differences() -> list[Any]:
            return [cell.rollups_minus_ledger for cell in differing_cells(client, database, Range())]

        assert output.calls is not None
        table = ledger_table(output.calls, partition=0, source_log="log")
        insert(CallEncoder(), list(ledger_records(table, 20_000, 900_000)))
        insert(RollupEncoder(), [older(name, value) for _, value in written])
        found["differences of a record of an older release"] = differences()
        insert(RollupEncoder(), [value for _, value in written])
        found["differences"] = differences()
        found["views"] = [
            rows(f"SELECT {name} FROM {database}.{view} ORDER BY {time}")
            for view, time in (("spend_1m", "minute"), ("spend_1h", "hour"), ("spend_1d", "day"))
        ]
        feed = HistorySeries(client, database, ("team",), epoch_us(NOON), epoch_us(NOON + timedelta(minutes=5)))
        found["history"] = [int(p.sums[0, SUMS.index(name)]) for step in feed.steps() for p in step.increments]
        by_ledger = rows(f"SELECT k_{name} FROM ({ledger_query(database, NOON, DIMENSIONS)}) ORDER BY k_minute")
        by_rollups = list(client.query(rollup_query(database, NOON)).named_results())
        found["repair"] = [
            by_ledger,
            sorted(row[name] for row in by_rollups),
            name in rollup_rows(by_rollups).schema.names,
        ]
        Migrator(client, MigrationSettings(Target(database))).down(len(load_migrations()) - 1)
        columns = rows(f"SELECT table FROM system.columns WHERE database = '{database}' AND name = '{name}'")
        found["columns after down"] = sorted(table for (table,) in columns)
    return found


def metered() -> MeterOutput:
    meter = PartitionMeter(new_marker(0, "log", -1), MeterRules(dimensions=DIMENSIONS), PriceBook())
    meter.absorb(as_batch([log_record(number, tokens) for number, tokens in enumerate(TOKENS)]), NOON)
    return meter.take()


def log_record(number: int, tokens: int) -> LogRecord:
    at = NOON + timedelta(minutes=number)
    event = {
        "event_id": f"00000000-0000-4000-8000-{number + 1:012}",
        "occurred_at": at.isoformat(),
        "service": "api",
        "team": "search",
        "provider": "openai",
        "model_requested": "gpt-4o",
        "input_tokens": 100,
        "prompt_tools_tokens": tokens,
    }
    return LogRecord(number, epoch_us(at) // 1000, b"key", json.dumps(event).encode())


def older(name: str, value: bytes) -> bytes:
    """The record as a release wrote it that did not know the measure."""
    return json.dumps({field: each for field, each in json.loads(value).items() if field != name}).encode()


def detected(name: str, written: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """What the detector sums, and what an alert of a watch of it says."""
    watch = {
        "name": "tools",
        "group_by": ["team"],
        "rule": {"kind": "threshold", "measure": name, "above": 20, "window": "1m"},
        "notify": [],
    }
    detector = Detector(DIMENSIONS, keep_s=600)
    detector.configure(Watches.model_validate({"version": 1, "watches": [watch]}))
    now_us = epoch_us(NOON + timedelta(minutes=len(TOKENS)))
    log = [RollupRecord(0, now_us // 1000, *each) for each in written]
    detector.absorb(log, now_us)
    alerts = [alert for minute in range(3) for alert in detector.decide(now_us + minute * 60_000_000, is_live=True)]
    return {
        "detector": numerators(name, detector.book.known_since(0).sums).tolist(),
        "alert": [alert.title for alert in alerts][:1],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:]), default=str))
