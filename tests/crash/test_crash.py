"""Exactly once, through kills, rebalances, restarts and outages, on a real Kafka and the real ClickHouse engine."""

import time
from pathlib import Path

import pytest

from tests.crash.chaos import kill_a_worker, restart_broker, restart_clickhouse, run_with_chaos, stop_a_worker
from tests.crash.workload import Workload
from tests.crash.world import World

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]


def test_one_worker_killed_many_times_counts_every_event_once(tmp_path: Path) -> None:
    workload = Workload(seed=11)
    with World(tmp_path) as world:
        done = run_with_chaos(world, workload, [kill_a_worker], seconds=25, per_second=1000, workers=1, seed=1)
        assert done.count("kill_a_worker") >= 4
        world.drained(workload)
        world.assert_exact(workload)
        assert workload.truth.duplicates > 500


def test_two_workers_rebalance_when_one_is_killed_or_stopped(tmp_path: Path) -> None:
    workload = Workload(seed=12)
    with World(tmp_path) as world:
        run_with_chaos(
            world,
            workload,
            [kill_a_worker, stop_a_worker],
            seconds=25,
            per_second=1000,
            workers=2,
            seed=2,
            pause_s=(3, 6),
        )
        world.drained(workload)
        world.assert_exact(workload)


def test_clickhouse_and_the_broker_restart_under_load(tmp_path: Path) -> None:
    workload = Workload(seed=13)
    with World(tmp_path) as world:
        done = run_with_chaos(
            world,
            workload,
            [restart_clickhouse, restart_broker, kill_a_worker],
            seconds=25,
            per_second=800,
            workers=1,
            seed=3,
            pause_s=(2, 5),
        )
        assert {"restart_clickhouse", "restart_broker"} <= set(done)
        world.drained(workload, timeout_s=240)
        world.assert_exact(workload)


def test_workers_that_joined_while_the_broker_knew_no_topic_take_them_up_when_it_does(tmp_path: Path) -> None:
    """A broker that has just restarted may answer so. Whoever leads the group then deals out no partition at all, and
    nobody asks again before the metadata is old: five minutes, as the clients have it."""
    workload = Workload(seed=14)
    with World(tmp_path) as world:
        world.delete_topics()
        world.keep_running(1)
        deadline = time.monotonic() + 150
        while "missing topic" not in world.logs():
            assert time.monotonic() < deadline, world.logs()
            time.sleep(0.2)
        world.make_topics()
        world.publish(workload, seconds=3, per_second=400)
        world.drained(workload)
        world.assert_exact(workload)
        assert all(worker.is_running() for worker in world.workers)
