"""A worker's durable world, in lists: what it published, where it crashed, and what survives."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import (
    MeterOutput,
    MeterRules,
    PartitionMeter,
    Rejected,
    Rerouted,
    new_marker,
    newest_marker,
    restore,
)
from spendstream.core.pricing import PriceBook
from spendstream.core.progress import ProgressRecord, read_progress, write_progress
from spendstream.core.rollup_record import read_rollup, rollup_record
from spendstream.schemas.priced import DEFAULTS
from tests.reference_meter import EPOCH, LogRecord, Outcome
from tests.unit.log import LATER, as_batch

LOG = "life-1"
CRASHES = ("priced lost", "priced half", "rollups lost", "rollups half", "marker lost", "commit lost")
"""How far a flush came before the worker died."""


class Crash(Exception):
    """The worker is gone, and all that it knew."""


@dataclass
class World:
    """Topics as lists: they only grow. ``committed``: the next source offset to deliver.

    ``book`` prices from the start; ``books``: those that the log may switch to.
    """

    log: list[LogRecord]
    rules: MeterRules
    book: PriceBook
    committed: int = 0
    ledger: dict[int, dict[str, Any]] = field(default_factory=dict)
    ledger_by_id: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    dead_letters: dict[int, Rejected] = field(default_factory=dict)
    rerouted: dict[int, Rerouted] = field(default_factory=dict)
    rollups: list[bytes] = field(default_factory=list)
    progress: list[bytes] = field(default_factory=list)
    books: dict[tuple[str, int], PriceBook | None] = field(default_factory=dict)

    def recover(self) -> PartitionMeter:
        start = read_progress(self.progress[-1]).marker.ids_from if self.progress else 0
        records = [(at, read_progress(self.progress[at])) for at in range(start, len(self.progress))]
        if not records:
            first = self.log[0].offset
            taken = PartitionMeter(new_marker(0, LOG, first - 1), self.rules, self.book).take()
            records = [(-1, taken.progress)]
        newest = newest_marker(LOG, [record for _, record in records])
        rollups = []
        for offset in range(newest.rollups_from, len(self.rollups)):
            rollup = read_rollup(self.rollups[offset])
            assert tuple(rollup.dimensions) == self.rules.dimensions
            rollups.append((offset, rollup))
        prices = self.books.get((newest.book.id, newest.book.published)) or self.book
        return restore(LOG, records, rollups, self.rules, prices, self.books)

    def write_calls(self, taken: MeterOutput, share: float = 1.0) -> None:
        if taken.calls is not None:
            table = ledger_table(taken.calls, partition=0, source_log=LOG)
            table = table.slice(0, int(table.num_rows * share))
            for payload in ledger_records(table, 7, 100_000):
                for stated in pa.ipc.open_stream(io.BytesIO(payload)).read_all().to_pylist():
                    row = DEFAULTS | stated
                    self.ledger[row["source_offset"]] = row
                    self.ledger_by_id[row["event_id"]] = row
        for rejected in taken.rejected[: int(len(taken.rejected) * share)]:
            self.dead_letters[rejected.offset] = rejected
        for rerouted in taken.rerouted[: int(len(taken.rerouted) * share)]:
            self.rerouted[rerouted.offset] = rerouted

    def write_rollups(self, taken: MeterOutput, share: float = 1.0) -> int | None:
        """Append rollups and return the offset of the first, as the broker does."""
        first = len(self.rollups)
        for key, totals in taken.rollups[: int(len(taken.rollups) * share)]:
            self.rollups.append(rollup_record(LOG, 0, self.rules.dimensions, key, totals)[1])
        return first if taken.rollups else None

    def flush(self, meter: PartitionMeter, taken: MeterOutput, crash: str | None) -> ProgressRecord:
        """Write in the order of ``spendstream.agents.meter_state``, and die where told to."""
        if crash == "priced lost":
            raise Crash
        self.write_calls(taken, 0.5 if crash == "priced half" else 1.0)
        if crash in ("priced half", "rollups lost"):
            raise Crash
        offset = self.write_rollups(taken, 0.5 if crash == "rollups half" else 1.0)
        if crash in ("rollups half", "marker lost"):
            raise Crash
        progress = meter.rollups_written(taken, offset)
        self.progress.append(write_progress(progress))
        meter.mark_durable(progress, len(self.progress) - 1)
        if crash == "commit lost":
            raise Crash
        self.committed = progress.marker.through_offset + 1
        return progress

    def undelivered(self, position: int) -> list[LogRecord]:
        return [record for record in self.log if record.offset >= position]


@dataclass(frozen=True)
class Chaos:
    """How a worker lives: batch sizes, how often it flushes, how often that kills it, how often it has a double."""

    largest_batch: int = 20
    flushes: float = 0.4
    crashes: float = 0.4
    zombies: float = 0.1


def live(world: World, chaos: Chaos, rng: random.Random) -> PartitionMeter:
    """Meter the whole log through crashes, replays and doubles; return the last worker. Bounded: crashes run out."""
    crashes_left = 30
    doubles: list[PartitionMeter] = []
    meter = world.recover()
    left = world.undelivered(world.committed)
    while left or meter.has_pending:
        size = rng.randint(1, chaos.largest_batch)
        if left:
            meter.absorb(as_batch(left[:size]), _now(rng))
            left = left[size:]
        if left and rng.random() >= chaos.flushes:
            continue
        crash = rng.choice(CRASHES) if crashes_left and rng.random() < chaos.crashes else None
        taken = meter.take()
        if left and rng.random() < 0.3:  # the next batch is metered while this one is being written
            meter.absorb(as_batch(left[:size]), _now(rng))
            left = left[size:]
        try:
            world.flush(meter, taken, crash)
        except Crash:
            crashes_left -= 1
            meter = world.recover()
            left = world.undelivered(world.committed)
            continue
        if doubles and rng.random() < 0.5:  # one that lost the partition without knowing writes on
            double = doubles.pop()
            committed = world.committed
            try:
                world.flush(double, double.take(), rng.choice((None, *CRASHES)))
            except Crash:
                pass
            world.committed = committed  # the broker refuses its commit: it is of an older generation
        if left and rng.random() < chaos.zombies:
            if rng.random() < 0.5:
                meter.absorb(as_batch(left[: 2 * size]), _now(rng))
            doubles.append(meter)
            meter = world.recover()
            left = world.undelivered(world.committed)
    return meter


def _now(rng: random.Random) -> datetime:
    return LATER.replace(microsecond=rng.randint(0, 999_999))


def surviving_rollups(world: World) -> dict[tuple[int, int, tuple[str, ...]], dict[str, Any]]:
    """Return the rollups a reader keeps: of each key the one with the greatest ``through_offset``."""
    kept: dict[tuple[int, int, tuple[str, ...]], dict[str, Any]] = {}
    for value in world.rollups:
        rollup = json.loads(value)
        key = (_us(rollup["minute"]), rollup["correction_block"], tuple(rollup["dimensions"].values()))
        if key not in kept or rollup["through_offset"] >= kept[key]["through_offset"]:
            kept[key] = rollup
    return {key: _as_reference(rollup) for key, rollup in kept.items()}


def _as_reference(rollup: dict[str, Any]) -> dict[str, Any]:
    money = {name: Decimal(value) for name, value in rollup.items() if name.endswith("_usd")}
    by_bucket = {bucket: Decimal(amount) for bucket, amount in rollup["cost_usd_by_bucket"].items()}
    times = {name: _us(rollup[name]) for name in ("first_event_at", "last_event_at")}
    dropped = ("source_log", "source_partition", "minute", "correction_block", "dimensions")
    kept = {name: value for name, value in rollup.items() if name not in dropped}
    return {**kept, **money, **times, "cost_usd_by_bucket": by_bucket}


def _us(text: str) -> int:
    at = datetime.fromisoformat(text)
    return int((at - EPOCH).total_seconds() // 1) * 1_000_000 + at.microsecond


def assert_same(world: World, meter: PartitionMeter, expected: Outcome) -> None:
    """Hold everything that survived against the reference, to the pico-dollar."""
    counters = meter.counters.model_dump()
    assert counters == {name: expected.counters[name] for name in counters}
    assert counters["records"] == sum(counters[name] for name in ("metered", "duplicates", "dead_letters", "rerouted"))
    assert sorted(world.ledger) == sorted(expected.ledger)
    for offset, row in expected.ledger.items():
        assert {name: world.ledger[offset][name] for name in row} == row
    assert sorted(world.dead_letters) == sorted(expected.dead_letters)
    for offset, reason in expected.dead_letters.items():
        said = world.dead_letters[offset].rejection.reason
        assert said == reason or (reason == "invalid" and said not in ("empty", "too_large", "occurred_in_future"))
    assert {offset: rerouted.key for offset, rerouted in world.rerouted.items()} == expected.rerouted
    rollups = surviving_rollups(world)
    assert sorted(rollups) == sorted(expected.rollups)
    for key, rollup in expected.rollups.items():
        assert rollups[key] == rollup
    ledger_usd = sum(row["cost_usd"] or 0 for row in world.ledger.values())
    assert ledger_usd == sum(rollup["cost_usd"] for rollup in rollups.values())
    assert sum(rollup["calls"] for rollup in rollups.values()) == len(world.ledger)
