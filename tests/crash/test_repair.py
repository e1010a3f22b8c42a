"""`reconcile --repair` beside a meter that goes on: what is mended stays so, and nothing of the meter's is touched."""

import json
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.crash.chaos import kill_a_worker
from tests.crash.cli import run_cli
from tests.crash.workload import Workload
from tests.crash.world import World

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

AGO_S = 3 * 3600.0
PER_SECOND = 400
MOST_PUBLISHES = 60
ROLLUPS = "spendstream.rollups_1m"


def damage(world: World) -> datetime:
    """Make two totals of a closed hour wrong: one is gone, one counts three calls and a dollar too many."""
    closed = f"minute < toDateTime('{datetime.now(UTC) - timedelta(hours=2):%Y-%m-%d %H:%M:%S}', 'UTC')"
    found = world.query(
        f"SELECT toUnixTimestamp(toStartOfHour(minute)) AS hour FROM {ROLLUPS} FINAL WHERE {closed} "
        "AND correction_block = -1 GROUP BY hour ORDER BY count() DESC LIMIT 1"
    )
    hour = datetime.fromtimestamp(found[0][0], UTC)
    in_it = f"toStartOfHour(minute) = toDateTime('{hour:%Y-%m-%d %H:%M:%S}', 'UTC') AND correction_block = -1"
    keys = world.query(
        f"SELECT minute, source_log, source_partition, service, team, model FROM {ROLLUPS} FINAL WHERE {in_it} "
        "ORDER BY calls DESC, minute, source_partition, service, team, model LIMIT 2"
    )
    gone, wrong = (_is(key) for key in keys)
    client = world.client()
    client.command(f"ALTER TABLE {ROLLUPS} DELETE WHERE {in_it} AND {gone} SETTINGS mutations_sync = 1")
    client.command(
        f"INSERT INTO {ROLLUPS} SELECT * REPLACE (calls + 3 AS calls, cost_usd + 1 AS cost_usd, ver + 1 AS ver) "
        f"FROM {ROLLUPS} FINAL WHERE {in_it} AND {wrong}"
    )
    client.close()
    return hour


def _is(key: tuple[Any, ...]) -> str:
    minute, source_log, partition, service, team, model = key
    return (
        f"minute = toDateTime('{minute:%Y-%m-%d %H:%M:%S}', 'UTC') AND source_log = '{source_log}' "
        f"AND source_partition = {partition} AND service = '{service}' AND team = '{team}' AND model = '{model}'"
    )


def until_the_past_is_final(world: World, workload: Workload) -> None:
    """Every partition has calls of today: what was made three hours ago is closed."""
    partitions = world.settings.kafka_partitions
    recent = f"minute > toDateTime('{datetime.now(UTC) - timedelta(minutes=5):%Y-%m-%d %H:%M:%S}', 'UTC')"
    deadline = time.monotonic() + 150
    while world.query(f"SELECT uniqExact(source_partition) FROM {ROLLUPS} WHERE {recent}")[0][0] < partitions:
        assert time.monotonic() < deadline, world.logs()
        time.sleep(0.2)


def reconcile(world: World, hour: datetime, *options: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the command on one hour. Returns its hours, and its verdict: not ok, as the stream is not drained."""
    within = ("--from", hour.isoformat(), "--to", (hour + timedelta(hours=1)).isoformat())
    done = run_cli("reconcile", *within, *options, "--json", env=world.environment)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    *hours, verdict = (json.loads(line) for line in done.stdout.splitlines())
    return hours, verdict


def publish_until(stopped: threading.Event, world: World, workload: Workload) -> None:
    for _ in range(MOST_PUBLISHES):
        world.publish(workload, 2, PER_SECOND)
        if stopped.is_set():
            return


def test_a_closed_hour_is_repaired_while_the_meter_goes_on_and_stays_so_through_a_kill(tmp_path: Path) -> None:
    workload = Workload(seed=51)
    with World(tmp_path) as world:
        world.keep_running(1)
        workload.behind_s = AGO_S
        world.publish(workload, seconds=4, per_second=PER_SECOND)
        workload.behind_s = 0.0
        repaired = threading.Event()
        publisher = threading.Thread(target=publish_until, args=(repaired, world, workload), daemon=True)
        publisher.start()
        until_the_past_is_final(world, workload)

        hour = damage(world)
        hours, _ = reconcile(world, hour)
        assert [(each["status"], each["differing_minutes"] > 0) for each in hours] == [("differs", True)]
        hours, verdict = reconcile(world, hour, "--repair")
        assert [each["status"] for each in hours] == ["repaired"]
        assert verdict["repaired_rows"] == 2
        assert publisher.is_alive(), "nothing flowed during the repair"

        repaired.set()
        kill_a_worker(world, random.Random(1))
        world.keep_running(1)
        publisher.join(timeout=120)
        world.drained(workload)
        world.assert_exact(workload)
        hours, verdict = reconcile(world, hour)
        assert ([each["status"] for each in hours], verdict["differing_hours"]) == (["ok"], 0)


def test_a_ledger_that_lost_rows_is_filled_from_kafka_and_no_repair_cuts_the_rollups(tmp_path: Path) -> None:
    workload = Workload(seed=52)
    with World(tmp_path) as world:
        world.keep_running(1)
        workload.behind_s = AGO_S
        world.publish(workload, seconds=3, per_second=PER_SECOND)
        workload.behind_s = 0.0
        world.publish(workload, seconds=1, per_second=PER_SECOND)
        world.drained(workload)
        client = world.client()
        lost = "cityHash64(event_id) % 3 = 0 SETTINGS mutations_sync = 1"
        client.command(f"ALTER TABLE spendstream.calls DELETE WHERE {lost}")
        client.close()
        before = world.counts()
        for options in ((), ("--repair",)):
            done = run_cli("reconcile", *options, "--json", env=world.environment)
            verdict = json.loads(done.stdout.splitlines()[-1])
            assert (done.returncode, verdict["ok"], verdict["repaired_rows"]) == (1, False, 0)
        assert any("Nothing was lowered" in problem for problem in verdict["problems"])
        assert world.counts() == before
        done = run_cli("reconcile", "--refill", "--json", env=world.environment)
        assert (done.returncode, json.loads(done.stdout.splitlines()[-1])["ok"]) == (0, True)
        world.assert_exact(workload)
