"""Card files that are edited under load: each partition switches at one stated offset, through any number of kills."""

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from spendstream.kafka.consumer import read_to_end
from spendstream.schemas import topics
from tests.crash.chaos import kill_a_worker, run_with_chaos
from tests.crash.cli import json_lines, run_cli
from tests.crash.workload import RATE_CARDS, Workload
from tests.crash.world import World

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

FACTOR = 600
"""So much dearer that calls change their size: what a replay prices otherwise is counted in another block."""

DEARER = RATE_CARDS
for cheap, dear in (
    ("input: 3,", "input: 1800,"),
    ("cache_read: 0.30,", "cache_read: 180,"),
    ("output: 15}", "output: 9000}"),
    ("input: 0.25,", "input: 150,"),
    ("cache_read: 0.025,", "cache_read: 15,"),
    ("output: 2}", "output: 1200}"),
):
    assert cheap in DEARER
    DEARER = DEARER.replace(cheap, dear)


def switches(world: World) -> dict[int, list[int]]:
    """Return the offsets of the switches in each partition of the usage topic."""
    return asyncio.run(_switches(world))


async def _switches(world: World) -> dict[int, list[int]]:
    topic = world.settings.topic(topics.USAGE)
    consumer = AIOKafkaConsumer(**world.settings.kafka_client())
    await consumer.start()
    found: dict[int, list[int]] = {number: [] for number in range(world.settings.kafka_partitions)}
    try:
        at = dict.fromkeys([TopicPartition(topic, number) for number in found])
        async for partition, records in read_to_end(consumer, at):
            found[partition.partition] += [
                record.offset for record in records if record.value and record.value.startswith(b'{"rate_book"')
            ]
    finally:
        await consumer.stop()
    return found


def assert_one_switch_each(world: World, workload: Workload, factor: int = FACTOR) -> dict[int, int]:
    """Each call costs what the book at its offset says, ledger and rollups agree. Returns each partition's switch."""
    stated = {number: offsets[0] for number, offsets in switches(world).items()}
    rows = world.query("SELECT toString(event_id), source_partition, source_offset, cost_usd FROM spendstream.calls_v")
    assert len(rows) == len(workload.truth.cost_by_id)
    wrong = []
    for event_id, partition, offset, usd in rows:
        cost = workload.truth.cost_by_id[event_id]
        expected = None if cost is None else Decimal(cost * (factor if offset > stated[partition] else 1)) / 10**12
        if usd != expected:
            wrong.append((partition, offset, usd, expected, stated[partition]))
    assert not wrong, f"{len(wrong)} of {len(rows)}: {wrong[:3]}"
    per_series = (
        "SELECT toStartOfMinute({at}) AS minute, service, model, toInt64({calls}), sum({usd}) "
        "FROM spendstream.{view} GROUP BY minute, service, model ORDER BY minute, service, model"
    )
    ledger = world.query(per_series.format(at="occurred_at", calls="count()", usd="cost_usd", view="calls_v"))
    assert ledger == world.query(per_series.format(at="minute", calls="sum(calls)", usd="cost_usd", view="spend_1m"))
    for number, offset in stated.items():
        where = f"source_partition = {number} AND source_offset"
        sides = [world.query(f"SELECT count() FROM spendstream.calls_v WHERE {where} {than} {offset}") for than in "<>"]
        assert all(calls > 100 for ((calls,),) in sides), (number, sides)
    return stated


@pytest.mark.parametrize("workers", [1, 2])
def test_cards_edited_under_load_apply_from_one_offset_of_each_partition(tmp_path: Path, workers: int) -> None:
    workload = Workload(seed=30 + workers)
    with World(tmp_path) as world:
        world.keep_running(workers)
        world.publish(workload, seconds=3, per_second=1000)
        until(lambda: world.counts()[0] > 1000, world)
        edit = threading.Timer(4, lambda: (world.folder / "rates.yaml").write_text(DEARER))
        edit.start()
        done = run_with_chaos(
            world,
            workload,
            [kill_a_worker],
            seconds=30,
            per_second=800,
            workers=workers,
            seed=workers,
            pause_s=(2, 7),
        )
        assert done.count("kill_a_worker") >= 4
        until(lambda: all(switches(world).values()), world)
        world.publish(workload, seconds=3, per_second=1000)
        world.drained(workload)
        stated = assert_one_switch_each(world, workload)
        shown = json_lines(run_cli("rates", "books", "--json", env=world.environment))
        since = {row["partition"]: row["since_offset"] for row in shown if "partition" in row}
        assert since == {number: offset + 1 for number, offset in stated.items()}
        assert [row["newest"] for row in shown if "newest" in row] == [True, False]
        (*_, verdict) = json_lines(run_cli("reconcile", "--json", env=world.environment))
        assert verdict["ok"] is True, verdict


def metric(world: World, name: str) -> float:
    """Return a worker's metric, summed over its labels; its address is in its log."""
    address = json.loads(
        next(line for line in world.workers[-1].log_path.read_text().splitlines() if "worker.started" in line)
    )["metrics"]
    text = urllib.request.urlopen(f"{address}/metrics", timeout=5).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def until(condition: Callable[[], bool], world: World, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, world.logs()
        time.sleep(0.2)


def test_cards_with_mistakes_change_nothing_and_cards_edited_before_a_restart_are_in_force_after_it(
    tmp_path: Path,
) -> None:
    workload = Workload(seed=33)
    with World(tmp_path, LOG_FORMAT="json") as world:
        world.keep_running(1)
        world.publish(workload, seconds=3, per_second=1000)
        world.drained(workload)
        cards = world.folder / "rates.yaml"
        cards.write_text(DEARER.replace("output: 9000", "output: much"))
        until(lambda: metric(world, "spendstream_rate_cards_valid") == 0, world)
        assert f"{cards}:6:" in world.logs(), "line and column"
        world.publish(workload, seconds=1, per_second=1000)
        world.drained(workload)
        assert not any(switches(world).values())
        (worker,) = world.workers
        worker.stop(timeout_s=15)
        cards.write_text(DEARER)
        world.keep_running(1)
        until(lambda: "rates.published" in world.workers[-1].log_path.read_text(), world)
        until(lambda: all(switches(world).values()), world)
        world.publish(workload, seconds=2, per_second=1000)
        world.drained(workload)
        assert_one_switch_each(world, workload)
        until(lambda: metric(world, "spendstream_rate_book_switches_total") == 4, world)
        assert metric(world, "spendstream_rate_cards_in_force") == 1


def test_a_worker_that_restarts_with_older_cards_leaves_the_newer_ones_in_force(tmp_path: Path) -> None:
    """Half of a rolling deployment: one worker has the new files, the other restarts with the old ones."""
    workload = Workload(seed=34)
    with World(tmp_path, LOG_FORMAT="json") as world:
        world.keep_running(2)
        world.publish(workload, seconds=2, per_second=1000)
        world.drained(workload)
        newer = world.folder / "newer.yaml"
        newer.write_text(DEARER)
        older = world.environment["RATE_CARDS"]
        world.workers[0].stop(timeout_s=15)
        world.environment["RATE_CARDS"] = str(newer)
        world.keep_running(2)
        until(lambda: all(switches(world).values()), world)
        world.environment["RATE_CARDS"] = older
        world.workers[0].kill()
        world.keep_running(2)
        until(lambda: "rates.other_cards_in_force" in world.workers[-1].log_path.read_text(), world)
        world.publish(workload, seconds=2, per_second=1000)
        world.drained(workload)
        assert_one_switch_each(world, workload)
