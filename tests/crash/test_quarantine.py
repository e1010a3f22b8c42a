"""Records that make a worker's code raise, whatever the stage: each costs itself, and metering goes on."""

import asyncio
import json
import os
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from spendstream.schemas import topics
from tests.crash.workload import Workload
from tests.crash.world import World
from tests.unit.log import event_id, spell

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

BUGS = """
    import os
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    import sys
    if sys.argv[0] == "-m":
        from spendstream.core import ledger, meter
        table, priced = ledger.ledger_table, meter.PartitionMeter._priced
        def ledger_table(calls, **named):
            1 / int((calls["trace_id"] != "cannot-be-encoded").all())
            return table(calls, **named)
        def _priced(self, calls, book, now):
            1 / int((calls["trace_id"] != "cannot-be-priced").all())
            return priced(self, calls, book, now)
        ledger.ledger_table, meter.PartitionMeter._priced = ledger_table, _priced
"""
"""Two bugs that nobody knows of, put into the worker's process before its own code is loaded."""


def test_records_that_make_the_worker_raise_cost_themselves(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(textwrap.dedent(BUGS))
    workload = Workload(seed=60)
    path = os.pathsep.join(filter(None, (str(hooks), os.environ.get("PYTHONPATH"))))
    with World(tmp_path, PYTHONPATH=path) as world:
        world.keep_running(1)
        world.publish(workload, seconds=2, per_second=500)
        bad = [usage(number, "cannot-be-encoded" if number % 2 else "cannot-be-priced") for number in range(6)]
        asyncio.run(publish(world, [*bad, b" " * 6_000_000, b"x" * 3_000_000]))
        world.publish(workload, seconds=2, per_second=500)
        workload.truth.dead_letters += len(bad) + 2
        world.drained(workload)
        world.assert_exact(workload)
        assert [worker.is_running() for worker in world.workers] == [True]
        letters = world.query(
            "SELECT reason, count() FROM spendstream.dead_letters_v "
            "WHERE reason IN ('internal_error', 'too_large') GROUP BY reason ORDER BY reason"
        )
        assert letters == [("internal_error", 6), ("too_large", 2)]
        world.workers[0].kill()
        world.keep_running(1)  # what was decided is durable: the successor meters on behind it
        world.publish(workload, seconds=1, per_second=500)
        world.drained(workload)
        world.assert_exact(workload)


def usage(number: int, trace_id: str) -> bytes:
    fields: dict[str, Any] = {
        "event_id": event_id(900_000 + number), "occurred_at": spell(datetime.now(UTC)), "service": "api",
        "provider": "acme", "model_served": "acme-1", "input_tokens": 1, "trace_id": trace_id,
    }  # fmt: skip
    return json.dumps(fields).encode()


async def publish(world: World, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=world.kafka.bootstrap, compression_type="gzip", max_request_size=20_000_000
    )
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(world.settings.topic(topics.USAGE), value, key=b"one partition")
    finally:
        await producer.stop()
