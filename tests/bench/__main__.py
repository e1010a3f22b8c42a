"""Run the benchmarks and write ``docs/benchmarks.md``: ``python -m tests.bench [--quick]``; ``--help`` for parts."""

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from spendstream.kafka.topics import TopicSpec, ensure_topics, topic_specs
from spendstream.schemas import topics
from tests.bench.alert_latency import measure_alert_latency
from tests.bench.latency import measure_latency
from tests.bench.ledger import measure_ledger
from tests.bench.load import events, preload
from tests.bench.many_groups import measure_many_groups
from tests.bench.measure import Committed, Result, measure
from tests.bench.rivals import RIVALS
from tests.bench.stages import measure_stages
from tests.crash.world import World

PARTITIONS: Final = 4
_SETTINGS: Final = {
    "METER_DIMENSIONS": "service,team,feature,environment,provider,model,service_tier,region",
    "RATE_CARDS": "",
    "LOG_LEVEL": "warning",
}
_REPORT: Final = Path(__file__).parents[2] / "docs" / "benchmarks.md"


_READING: Final = """\
*Ceiling*: events/s if the listed processes kept every core busy. If the rate is well below it, threads wait for each
other. In the metering stage they wait for Python's interpreter lock, which is shared by the thread that unpacks fetched
records, the two that absorb them and the one that encodes the flush. If the rate is near the ceiling, the cores are
busy. End to end they are busy mostly with ClickHouse's inserts and merges, so the next step is a separate machine for
ClickHouse; for the metering stage it is more worker processes.

The other frameworks do less: they sum in memory, write nothing, recover nothing after a crash, and keep no ids.
"""

_ALERTS: Final = """\
Measured from publishing an incident's first event until the webhook's request has been read, through one worker with
every role. One event crosses a threshold; an anomaly is a burst, as from a runaway loop, in a feature with a quarter of
an hour of history.
"""


_LEDGER: Final = """\
CPU µs per call, and bytes, of the ledger's table in the real engine, filled by the meter's records in inserts of 20,000
calls. `python -m tests.bench --ledger` prints this alone. An insert names only the columns that some call uses. In
production a call is inserted once, and merged once or twice. The tables without a group of columns
have no bloom filters.
"""


def say(text: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")


def metering(count: int) -> Result:
    """(a) From Kafka to acknowledged rollups and priced batches: one worker with the role meter."""
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), WORKER_ROLES="meter", **_SETTINGS) as world:
        say(f"(a) metering: {count} events into Kafka")
        asyncio.run(preload(world.kafka.bootstrap, topics.USAGE, PARTITIONS, events(count)))
        committed = Committed(world.kafka.bootstrap, "spendstream-meter", topics.USAGE, PARTITIONS)
        say("(a) metering: measuring")
        worker = world.start_worker()
        try:
            return measure(
                "spendstream, metering stage (a)",
                count,
                committed,
                {"worker": worker.pid, "Kafka": world.kafka.pid},
                timeout_s=300,
            )
        finally:
            committed.close()


def everything(count: int) -> Result:
    """(b) From Kafka until ledger and rollups can be queried in ClickHouse, all on this machine."""
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), **_SETTINGS) as world:
        say(f"(b) everything: {count} events into Kafka")
        asyncio.run(preload(world.kafka.bootstrap, topics.USAGE, PARTITIONS, events(count)))

        def queryable() -> int:
            ledger = world.query("SELECT count() FROM spendstream.calls")[0][0]
            rollups = world.query("SELECT toInt64(sum(calls)) FROM spendstream.spend_1m")[0][0]
            return min(int(ledger), int(rollups))

        say("(b) everything: measuring")
        worker = world.start_worker()
        pids = {"worker": worker.pid, "Kafka": world.kafka.pid, "ClickHouse": world.clickhouse.pid}
        return measure(
            "spendstream, ledger and rollups queryable (b)", count, queryable, pids, timeout_s=300, poll_s=1.0
        )


def rival(name: str, count: int) -> Result | str:
    """(d) The same job in another framework; a sentence if it can't run."""
    if name in ("Bytewax", "Pathway") and find_spec(name.lower()) is None:
        return "not installed: run `make bench`"
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
        asyncio.run(preload(world.kafka.bootstrap, topics.USAGE, PARTITIONS, events(count)))
        extra = [TopicSpec("plain-faust-spend-changelog", PARTITIONS, {"cleanup.policy": "compact"})]
        asyncio.run(
            ensure_topics(
                {"bootstrap_servers": world.kafka.bootstrap}, [*topic_specs(world.settings), *extra], replication=1
            )
        )
        say(f"(d) {name}: measuring {count} events")
        command = [sys.executable, "-m", "tests.bench.rivals", name, world.kafka.bootstrap, topics.USAGE, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        lines = [line.split() for line in done.stdout.splitlines() if line[:1].isdigit()]
        if len(lines) < 2:
            return f"failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"
        (n0, t0, c0), (n1, t1, c1) = ([float(x) for x in lines[i]] for i in (0, -1))
        return Result(f"{name} (d)", int(n1 - n0), t1 - t0, {"worker": (c1 - c0) / (n1 - n0) * 1e6})


def report(rows: list[Result], notes: dict[str, str], sections: dict[str, str]) -> str:
    """Return the page as Markdown. The ratio is to the plain Faust agent of the same run. ``sections``: by heading."""
    plain = next((row.per_second for row in rows if row.name.startswith("plain")), None)
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`: one run on one machine, one job after another.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}, faust-streaming {version('faust-streaming')}, "
        f"polars {version('polars')}. Events of 420 bytes on a real Kafka, 4 partitions, one worker process; "
        "Kafka, ClickHouse's engine and the worker share the cores. The first tenth of the events is not timed.",
        "",
        "| job | events | events/s | × plain Faust | CPU µs per event | ceiling |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        ratio = f"{row.per_second / plain:.1f}" if plain else ""
        ceiling = len(os.sched_getaffinity(0)) * 1e6 / sum(row.cpu_us.values())
        cpu = ", ".join(f"{process} {us:.1f}" for process, us in row.cpu_us.items())
        lines.append(f"| {row.name} | {row.events:,} | {row.per_second:,.0f} | {ratio} | {cpu} | {ceiling:,.0f} |")
    lines += [f"| {name} (d) | | | | {note} | |" for name, note in notes.items()]
    lines += ["", _READING]
    for heading, text in sections.items():
        lines += [f"## {heading}", "", text, ""]
    return "\n".join(lines)


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events; for a look")
    parser.add_argument("--stages", action="store_true", help="only the metering stage's CPU by step, printed")
    parser.add_argument("--metering", action="store_true", help="only (a), printed")
    parser.add_argument("--ledger", action="store_true", help="only what a call costs ClickHouse, by columns, printed")
    asked = parser.parse_args()
    scale = 10 if asked.quick else 1
    if asked.stages:
        sys.stdout.write(measure_stages(600_000 // scale) + "\n")
        return
    if asked.ledger:
        sys.stdout.write(measure_ledger(200_000 // scale) + "\n")
        return
    if asked.metering:
        sys.stdout.write(f"{metering(3_000_000 // scale)}\n")
        return
    started = time.monotonic()
    rows = [metering(3_000_000 // scale), everything(1_500_000 // scale)]
    notes: dict[str, str] = {}
    for name in RIVALS:
        outcome = rival(name, (60_000 if name.startswith("plain") else 1_000_000) // scale)
        if isinstance(outcome, Result):
            rows.append(outcome)
        else:
            notes[name] = outcome
    say("(c) latency: measuring")
    latency = measure_latency(per_second=10_000, seconds=60 // scale + 10)
    say("stages of metering: measuring")
    stages = measure_stages(600_000 // scale)
    say("the ledger's columns: measuring")
    ledger = measure_ledger(200_000 // scale)
    say("alert latency: measuring")
    alerts = measure_alert_latency(per_second=5_000, seconds=100 // scale + 20)
    say("many groups: measuring")
    groups = measure_many_groups(100_000 // scale, minutes=6)
    sections = {
        "Where the metering stage's CPU goes": stages,
        "What a call costs ClickHouse": _LEDGER + "\n" + ledger,
        "Latency of spend (c)": latency,
        "Latency of alerts": _bullets(alerts) + "\n\n" + _ALERTS,
        "A hundred thousand groups": _bullets(groups),
    }
    text = report(rows, notes, sections)
    _REPORT.parent.mkdir(exist_ok=True)
    _REPORT.write_text(text)
    sys.stdout.write(text)
    say(f"done in {time.monotonic() - started:.0f} s; written to docs/{_REPORT.name}")


if __name__ == "__main__":
    main()
