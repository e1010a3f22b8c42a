"""A budget added in the middle of its period equals the ledger, whatever is killed or away meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import NotLeaderForPartitionError

from spendstream.agents.detect_seed import SpendHistory
from spendstream.core.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.detect.budget import BudgetEvaluator, period_of
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.detect.seeding import Spent
from spendstream.core.money import PUSD
from spendstream.core.timestamps import US, epoch_us, from_epoch_us
from spendstream.kafka.consumer import end_offsets, partitions_of
from spendstream.schemas import topics
from spendstream.schemas.watch import BudgetRule, Watch, Watches
from spendstream.sinks.encoders import Encoded, RollupEncoder
from tests.alerts.receiver import Receiver
from tests.alerts.world import SPEND_ABOVE, AlertWorld, call
from tests.unit.detect.rollup_log import BEGAN_US, NAMES, RollupLog
from tests.unit.detect.test_seeding import Table

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.crash, pytest.mark.timeout(600)]

ZONE = "Asia/Kathmandu"  # whose midnight is at a quarter of an hour
TEAMS = 5
BUDGET = """
  - name: budget
    group_by: [team]
    notify: []
    rule: {{kind: budget, amount_usd: {amount}, period: month, time_zone: Asia/Kathmandu, forecast: false}}
"""


def test_a_budget_added_at_runtime_equals_the_ledger_though_workers_die_and_clickhouse_was_away(
    tmp_path: Path,
) -> None:
    chance = random.Random(11)
    with Receiver() as receiver, AlertWorld(tmp_path, receiver) as world:
        _spend_that_no_detector_will_read(world, chance)
        world.environment["WORKER_ROLES"] = "meter,sink,detect,notify"
        world.start_worker()
        world.wait_until_watching()
        _send(world, chance, 200)
        world.clickhouse.stop()
        world.write_watches(SPEND_ABOVE + BUDGET.format(amount=1000))
        _wait(lambda: "detect.seed_waits" in _logs(world), world)
        _send(world, chance, 200)
        world.clickhouse.start()
        for amount in (2000, 3000, 4000):
            seen = _logs(world).count("detect.seeding")
            world.write_watches(SPEND_ABOVE + BUDGET.format(amount=amount))
            while _logs(world).count("detect.seeding") == seen:
                _send(world, chance, 20)
            time.sleep(chance.uniform(0, 0.3))
            world.workers[-1].kill()
            world.keep_running(1)
        deadline = time.monotonic() + 120
        sums: dict[str, int] | None = None
        while (sums is None or sums != _ledger(world)) and time.monotonic() < deadline:
            _send(world, chance, 20)
            time.sleep(5)  # longer than a snapshot takes to come
            sums = _budget_sums(world)
        assert sums == _ledger(world), world.logs()
        time.sleep(5)
        assert _budget_sums(world) == _ledger(world)
        assert "detect.seed_failed" not in _logs(world)


def test_the_real_engine_gives_the_history_that_is_meant(tmp_path: Path) -> None:
    with Receiver() as receiver, AlertWorld(tmp_path, receiver) as world:
        meters = [RollupLog(0), RollupLog(1, "it's \\ another"), RollupLog(2, "of old")]
        detector, table, chance = Detector(NAMES, 60), Table(landed=[0, 0, 0]), random.Random(3)
        watch = Watch(
            name="budget",
            scope={"service": ("api",)},
            group_by=("team",),
            rule=BudgetRule(kind="budget", amount_usd=Decimal(1), period="month", time_zone=ZONE),
        )
        written: list[RollupRecord] = []
        for number in range(400):
            for meter in meters:
                members = (chance.choice(("api", "web")), f"t-{chance.randint(0, 2)}", "f'", "m")
                block = chance.choice((-1, -1, -1, meter._offset // CORRECTION_BLOCK_OFFSETS))
                meter.call(number * 7, members, chance.randint(1, 8 * 10**18), block=block)
                meter._offset += chance.choice((0, 900))
                records = meter.flush(number * 20_000)
                table.land(meter.partition, records)
                written += records
                if meter.partition < 2 and number > 200:
                    detector.absorb(records, BEGAN_US)
            detector.tidy(BEGAN_US)
            if number % 100 == 99:
                _insert(world, RollupEncoder().encode([_Landing(r.key, r.value) for r in written]))
                written.clear()
        detector.configure(Watches(watches=(watch,)))
        now_us = BEGAN_US + 2 * 86_400 * US
        seeding = detector.begin_seeding(now_us)
        assert seeding is not None
        found = SpendHistory(world.client(), "spendstream").read(seeding, now_us + 86_400 * US)
        meant = table.read(seeding)
        assert _sums(found.summed, seeding.block_us) == _sums(meant.summed, seeding.block_us) != {}
        assert _sums(found.singles) == _sums(meant.singles) != {}
        assert Counter(found.digests) == Counter(meant.digests)
        assert seeding.finish(found, now_us)
        truth: dict[str, int] = defaultdict(int)
        opened_us, _ = period_of(now_us, "month", ZONE)
        for meter in meters:
            for (minute_us, members), pusd in meter.truth.items():
                if members[0] == "api" and minute_us >= opened_us:
                    truth[members[1]] += pusd
        assert _spent(detector, opened_us) == truth


class _Landing:
    """A Kafka record, as a sink reads it."""

    topic, partition, offset, timestamp = "rollups", 0, 0, 0

    def __init__(self, key: bytes, value: bytes) -> None:
        self.key, self.value = key, value


def _insert(world: AlertWorld, landed: Encoded) -> None:
    assert not landed.undecodable
    client = world.client()
    for insert in landed.inserts:
        client.raw_insert(f"spendstream.{insert.table}", insert.columns, insert.body, fmt="ArrowStream")
    client.close()


def _sums(spent: Spent, block_us: int = 1) -> dict[Any, int]:
    sums: dict[Any, int] = defaultdict(int)
    for member, at, dollars, pusd in zip(spent.members, spent.minutes_us, spent.dollars, spent.pusd, strict=True):
        sums[member, int(at) // block_us] += int(dollars) * PUSD + int(pusd)
    return sums


def _spend_that_no_detector_will_read(world: AlertWorld, chance: random.Random) -> None:
    """Spend of hours ago, with late corrections, inserted and final; its rollups have expired in Kafka."""
    world.environment["WORKER_ROLES"] = "meter,sink"
    world.start_worker()
    started = datetime.now(UTC)
    for hours in (3.2, 2.5, 1.7, 0.6):
        begins = started - timedelta(hours=hours)
        _send(world, chance, 200, lambda begins=begins: begins + timedelta(minutes=chance.uniform(0, 9)))
    _send(world, chance, 300, lambda: started - timedelta(hours=chance.uniform(1, 3)))  # too late: corrections
    _wait(lambda: _landed(world) == 1100, world)
    ends = asyncio.run(_ends(world))
    # these fill the corrections' blocks and are the first of now: all that was before them is final
    fillers = [call("filler", 0.000015) for _ in range(5 * CORRECTION_BLOCK_OFFSETS)]
    world.send(fillers)
    _wait(lambda: _landed(world) == 1100 + len(fillers), world)
    asyncio.run(_expire(world, ends))
    world.workers[-1].kill()


def _send(world: AlertWorld, chance: random.Random, count: int, at: Callable[[], datetime] | None = None) -> None:
    world.send(
        [
            call(
                f"team-{chance.randrange(TEAMS)}",
                chance.uniform(0.0001, 3),
                **({} if at is None else {"occurred_at": at().isoformat().replace("+00:00", "Z")}),
            )
            for _ in range(count)
        ]
    )


def _landed(world: AlertWorld) -> int:
    (count,) = world.query("SELECT count() FROM spendstream.calls_v")[0]
    (metered,) = world.query("SELECT toInt64(sum(calls)) FROM spendstream.spend_1m")[0]
    return int(min(count, metered))


async def _tps(world: AlertWorld) -> list[TopicPartition]:
    topic = world.settings.topic(topics.ROLLUP)
    numbers = (await partitions_of(world.settings.kafka_client(), [topic]))[topic]
    return [TopicPartition(topic, number) for number in numbers]


async def _ends(world: AlertWorld) -> dict[TopicPartition, int]:
    return await end_offsets({"bootstrap_servers": world.kafka.bootstrap}, await _tps(world))


async def _expire(world: AlertWorld, ends: dict[TopicPartition, int]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=world.kafka.bootstrap)
    await admin.start()
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    await admin.delete_records(
                        {tp: RecordsToDelete(before_offset=end) for tp, end in ends.items() if end}
                    )
                    return
                except NotLeaderForPartitionError:  # a broker that missed its heartbeats is fenced for a moment
                    await asyncio.sleep(0.5)
    finally:
        await admin.close()


def _logs(world: AlertWorld) -> str:
    return "".join(path.read_text() for path in sorted(world.folder.glob("worker-*.log")))


def _wait(until: Callable[[], Any], world: AlertWorld, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, world.logs()
        time.sleep(0.2)


def _ledger(world: AlertWorld) -> dict[str, int]:
    opened_us, _ = period_of(epoch_us(datetime.now(UTC)), "month", ZONE)
    rows: Sequence[Any] = world.query(
        "SELECT team, toString(sum(cost_usd)) FROM spendstream.calls_v "
        f"WHERE occurred_at >= toDateTime('{from_epoch_us(opened_us):%Y-%m-%d %H:%M:%S}', 'UTC') GROUP BY team"
    )
    return {team: int(Decimal(usd) * PUSD) for team, usd in rows}


def _budget_sums(world: AlertWorld) -> dict[str, int] | None:
    """Return what the last snapshot holds of each team's month; None where the budget is not seeded."""
    detector, clock_us = world.last_detector()
    if detector.unseeded():
        return None
    return _spent(detector, period_of(clock_us, "month", ZONE)[0])


def _spent(detector: Detector, opened_us: int) -> dict[str, int]:
    groups, evaluator = detector.evaluator("budget")
    assert isinstance(evaluator, BudgetEvaluator)
    return {groups.named(n)["team"]: evaluator.spent(n).get(opened_us, 0) for n in range(len(groups))}
