"""The whole detector with very many groups: memory per group, CPU per update: ``python -m tests.bench.many_groups``.

Every minute each group has one rollup record, as the meter writes it. CPU time is the process's own, so that what else
the machine does is not counted.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from spendstream.agents.detect_snapshots import pack
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.rollup_record import AggregateKey, rollup_record
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.measures import COLUMN, COST, MEASURES
from spendstream.schemas.watch import Watches
from spendstream.watches import DEFAULT_WATCHES

_NAMES = ("team", "feature", "provider", "model")
_BEGAN_US = 1_767_225_600 * US
_FETCH = 10_000


def measure_many_groups(groups: int, minutes: int) -> list[str]:
    """Return lines of figures. Watches: the built-in ones, of which two are grouped as finely as it gets."""
    before_kib = _rss_kib()
    detector = Detector(_NAMES, keep_s=600)
    detector.configure(Watches(watches=DEFAULT_WATCHES.watches))
    chance = np.random.default_rng(3)
    absorb_s = decide_s = idle_s = 0.0
    for minute in range(minutes):
        now_us = _BEGAN_US + minute * MINUTE_US
        records = [_record(number, now_us, chance) for number in range(groups)]
        for at in range(0, groups, _FETCH):
            now_us += 4 * US
            absorb_s += _cpu(partial(detector.absorb, records[at : at + _FETCH], now_us))
            decide_s += _cpu(partial(detector.decide, now_us, is_live=True))
        idle_s += _cpu(partial(detector.decide, now_us, is_live=True))
        sys.stderr.write(f"minute {minute + 1} of {minutes}\n")
    detector.tidy(now_us)
    began = time.process_time()
    snapshot = detector.snapshot()
    snapshot_s = time.process_time() - began
    updates = groups * minutes
    packed = len(pack(snapshot))
    kept = f"{len(detector.book):,} aggregates"
    bytes_a_group = (_rss_kib() - before_kib) * 1024 / groups
    return [
        f"{groups:,} groups, every one with a record each minute, for {minutes} minutes; {kept}",
        f"absorbing a record: {absorb_s / updates * 1e6:.1f} CPU µs; evaluating it: {decide_s / updates * 1e6:.1f}",
        f"evaluating when nothing has changed: {idle_s / minutes * 1e3:.1f} CPU ms",
        f"memory: {bytes_a_group / 1000:.1f} kB per group, including aggregates and this load's own records",
        f"snapshot: {packed / groups:,.0f} B per group before compression, taken in {snapshot_s:.2f} CPU s",
    ]


def _record(number: int, minute_us: int, chance: np.random.Generator) -> RollupRecord:
    totals = np.zeros(len(MEASURES), dtype=np.int64)
    totals[COLUMN["calls"]] = totals[COLUMN["through_offset"]] = 5
    totals[COLUMN["input_tokens"]], totals[COLUMN["output_tokens"]] = 4_000, 900
    totals[COLUMN[COST]] = int(chance.normal(10, 1) * 1e9)
    members = (f"team-{number % 50}", f"feature-{number}", "openai", f"gpt-{number % 5}")
    at_us = minute_us // MINUTE_US * MINUTE_US
    return RollupRecord(0, at_us // 1000, *rollup_record("log", 0, _NAMES, AggregateKey(at_us, -1, members), totals))


def _cpu(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _rss_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--minutes", type=int, default=6)
    options = parser.parse_args()
    for line in measure_many_groups(options.groups, options.minutes):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
