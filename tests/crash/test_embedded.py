"""Exactly once on the embedded broker, as far as its group protocol holds up.

One worker is killed again and again, and ClickHouse with it. Not tested here, and why:

- the broker's restart: it keeps its records in memory, so a restart is the loss of everything, by design;
- two workers: a dead one's partitions move only after the session timeout and half of it again for each join, and what
  is proven about takeovers is proven on Apache Kafka, in `test_crash`;
- records beyond a topic's size limit, and record times that Kafka refuses: it checks neither.
"""

from pathlib import Path

import pytest

from spendstream.embedded.broker import EmbeddedBroker
from tests.crash.chaos import kill_a_worker, restart_clickhouse, run_with_chaos
from tests.crash.workload import Workload
from tests.crash.world import World

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]


def test_a_worker_killed_on_the_embedded_broker_counts_every_event_once(tmp_path: Path) -> None:
    workload = Workload(seed=41)
    with World(tmp_path, broker=EmbeddedBroker(log_path=tmp_path / "broker.log")) as world:
        done = run_with_chaos(
            world,
            workload,
            [kill_a_worker, kill_a_worker, restart_clickhouse],
            seconds=20,
            per_second=800,
            workers=1,
            seed=4,
            pause_s=(3, 6),  # a start takes a join: half of the session timeout
        )
        assert done.count("kill_a_worker") >= 2
        world.drained(workload)
        world.assert_exact(workload)
        assert workload.truth.duplicates > 300
