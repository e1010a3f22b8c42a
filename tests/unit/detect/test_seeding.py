"""A budget that begins within its period counts every aggregate once, whatever happens meanwhile."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import pytest

from spendstream.core.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.detect.budget import BudgetEvaluator
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.finding import Level
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.detect.seeding import History, Seeding, Spent
from spendstream.core.money import PUSD, pusd_from_text
from spendstream.schemas.rollup import DIMENSIONS, ON_TIME
from spendstream.schemas.watch import BudgetRule, ThresholdRule, Watch, Watches
from tests.unit.detect.rollup_log import NAMES, RollupLog, minute

LATENESS_S = 60
STEP_S = 10
STEPS = 150
MORNING = 600  # minute of the day at which traffic begins
CALLS = Watch(name="calls", rule=ThresholdRule(kind="threshold", measure="calls", above=1e9))


def budget(amount: int = 10**6, **rule: object) -> Watch:
    return Watch(
        name="budget",
        group_by=("team",),
        rule=BudgetRule(kind="budget", amount_usd=Decimal(amount), period="day", **rule),
    )


@dataclass
class Table:
    """What a sink has inserted: the row with the greatest ``through_offset`` of each key."""

    rows: dict[bytes, dict] = field(default_factory=dict)
    landed: list[int] = field(default_factory=lambda: [0, 0])

    def land(self, partition: int, records: list[RollupRecord]) -> None:
        self.landed[partition] += len(records)
        for record in records:
            row = json.loads(record.value)
            former = self.rows.get(record.key)
            if former is None or row["through_offset"] >= former["through_offset"]:
                self.rows[record.key] = row

    def read(self, seeding: Seeding) -> History:
        """What ``SpendHistory`` asks ClickHouse for."""
        summed: list[tuple] = []
        singles: list[tuple] = []
        digests = []
        for row in self.rows.values():
            at_us = int(np.datetime64(row["minute"].removesuffix("Z"), "us").astype(np.int64))
            if at_us < seeding.since_us:
                continue
            source = row["source_log"], row["source_partition"]
            dollars, rest = divmod(pusd_from_text(row["cost_usd"]), PUSD)
            member = tuple(row["dimensions"].get(name, "") for name in seeding.names)
            boundary = seeding.boundaries.get(source)
            is_old = boundary is not None and (
                at_us < boundary.minute_us
                if row["correction_block"] <= ON_TIME
                else row["correction_block"] < boundary.block
            )
            if boundary is not None and row["through_offset"] <= boundary.through_offset and is_old:
                summed.append((member, at_us - at_us % seeding.block_us, dollars, rest))
                continue
            values = tuple(row["dimensions"].get(name, "") for name in DIMENSIONS)
            found = seeding.digests(source, at_us, row["correction_block"], values)
            if not seeding.is_in_book(found):
                singles.append((member, at_us, dollars, rest))
                digests.append(found)
        return History(_spent(summed), _spent(singles), digests)


def _spent(rows: list[tuple]) -> Spent:
    numbers = np.array([row[1:] for row in rows], dtype=np.int64).reshape(-1, 3)
    return Spent([row[0] for row in rows], numbers[:, 0], numbers[:, 1], numbers[:, 2])


class World:
    """Two meters, the rollup topic, a sink and a detector that lag independently, and rounds of seeding."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.meters = [RollupLog(0), RollupLog(1)]
        self.topic: list[list[RollupRecord]] = [[], []]
        self.table = Table()
        self.watches = Watches(watches=(CALLS,))
        self.detector = Detector(NAMES, LATENESS_S)
        self.detector.configure(self.watches)
        self.positions = [0, 0]
        self.step = 0
        self.round: tuple[Seeding, list[int]] | None = None
        self.history: tuple[History, list[int]] | None = None
        self.seen = {"forgotten": 0, "summed": 0, "singles": 0, "stale": 0}
        self.saved = self.detector.snapshot(), [0, 0], self.watches
        self.sink_away_until = self.detector_away_until = 0

    @property
    def now_us(self) -> int:
        return minute(MORNING) + self.step * STEP_S * 1_000_000

    def spend(self) -> None:
        at = MORNING + self.step * STEP_S // 60
        for meter in self.meters:
            for _ in range(self.chance.randint(1, 4)):
                members = ("api", f"team-{self.chance.randint(0, 2)}", "f", "m")
                pusd = self.chance.randint(1, 9 * 10**18 if self.chance.random() < 0.05 else 10**9)
                kind = self.chance.random()
                if kind < 0.7:
                    meter.call(at, members, pusd if pusd < 10**15 else 5)
                elif kind < 0.8:
                    meter.call(at - self.chance.randint(0, LATENESS_S // 60), members, 7)
                elif kind < 0.95:
                    block = (meter._offset + 1) // CORRECTION_BLOCK_OFFSETS
                    meter.call(at - self.chance.randint(2, 300), members, 11, block=block)
                else:  # an expensive one, alone in its row, late or not
                    alone = ON_TIME - (3 * (meter._offset + 1) + 2)
                    meter.call(at - self.chance.randint(0, 100), members, pusd, block=alone)
            meter._offset += self.chance.choice((0, 0, 700, 3000))  # calls of others
            self.topic[meter.partition] += meter.flush(self.now_us // 1000)

    def lag(self) -> None:
        """Let sink and detector continue, unless they are away: the sink for longer than it takes to forget."""
        if self.chance.random() < 0.02:
            self.sink_away_until = self.step + self.chance.randint(10, 50)
        if self.chance.random() < 0.05:
            self.detector_away_until = self.step + self.chance.randint(3, 12)
        if self.step >= self.sink_away_until:
            self.land()
        if self.step >= self.detector_away_until:
            self.read()

    def read(self, everything: bool = False) -> None:
        for partition, records in enumerate(self.topic):
            at = self.positions[partition]
            to = len(records) if everything or self.chance.random() < 0.6 else self.chance.randint(at, len(records))
            self.detector.absorb(records[at:to], self.now_us)
            self.positions[partition] = to
        self.detector.decide(self.now_us, is_live=True)

    def land(self, everything: bool = False) -> None:
        for partition, records in enumerate(self.topic):
            at = self.table.landed[partition]
            to = len(records) if everything or self.chance.random() < 0.3 else self.chance.randint(at, len(records))
            self.table.land(partition, records[at:to])

    def seed(self) -> None:
        """Take the next step of the open round, if it can be taken."""
        if self.round is None:
            seeding = self.detector.begin_seeding(self.now_us)
            self.round = None if seeding is None else (seeding, list(self.positions))
            self.history = None
            return
        seeding, stood = self.round
        if self.history is None:
            if all(np.array(self.table.landed) >= stood):
                self.history = self.table.read(seeding), [len(records) for records in self.topic]
            return
        history, ends = self.history
        if all(np.array(self.positions) >= ends):
            self.round = None
            if seeding.finish(history, self.now_us):
                self.seen["summed"] += len(history.summed)
                self.seen["singles"] += len(history.singles)
            else:
                self.seen["stale"] += 1
                seeding.abandon()

    def save(self) -> None:
        before = len(self.detector.book)
        self.detector.tidy(self.now_us)
        self.seen["forgotten"] += before - len(self.detector.book)
        copy = {
            section: {k: v.copy() for k, v in arrays.items()} for section, arrays in self.detector.snapshot().items()
        }
        self.saved = copy, list(self.positions), self.watches

    def crash(self) -> None:
        """Kill the detector; its successor has the last snapshot and the present watches file."""
        sections, self.positions = self.saved[0], list(self.saved[1])
        self.detector = Detector(NAMES, LATENESS_S)
        self.detector.restore(sections, self.now_us)
        self.detector.configure(self.watches)
        self.round = None

    def configure(self, watch: Watch) -> None:
        self.watches = Watches(watches=(CALLS, watch))
        self.detector.configure(self.watches)

    def settle(self) -> None:
        self.land(everything=True)
        self.read(everything=True)
        for _ in range(10):
            self.seed()
        assert self.detector.unseeded() == []

    def spent(self) -> dict[str, int]:
        groups, evaluator = self.detector.evaluator("budget")
        assert isinstance(evaluator, BudgetEvaluator)
        return {groups.named(n)["team"]: sum(evaluator.spent(n).values()) for n in range(len(groups))}

    def truth(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for meter in self.meters:
            for (_, members), pusd in meter.truth.items():
                sums[members[1]] = sums.get(members[1], 0) + pusd
        return sums


@pytest.mark.parametrize("seed", range(12))
def test_the_sums_are_the_truth_whenever_it_is_seeded_forgotten_or_killed(seed: int) -> None:
    world = World(seed)
    added_at, changed_at = world.chance.randint(60, 110), world.chance.randint(110, 140)
    for world.step in range(STEPS):
        world.spend()
        world.lag()
        if world.step == added_at:
            world.configure(budget())
        if world.step == changed_at:
            world.configure(budget(2 * 10**6))
        if world.chance.random() < 0.15:
            world.save()
        if world.chance.random() < 0.02:
            world.crash()
        for _ in range(world.chance.randint(0, 3)):
            world.seed()
    world.settle()
    assert world.spent() == world.truth()
    assert world.seen["forgotten"] > 0
    assert world.seen["summed"] > 0


def test_an_old_aggregate_that_arrives_while_history_is_read_makes_the_round_start_over() -> None:
    world = World(4)
    meter, members = world.meters[0], ("api", "team-0", "f", "m")
    world.configure(budget())
    for at in range(MORNING, MORNING + 10):
        meter.call(at, members, 5)
    world.topic[0] += meter.flush(0)
    meter.call(MORNING - 5, members, 7 * PUSD, block=ON_TIME - (3 * 10 + 2))
    meter.call(MORNING + 10, members, 5)
    late, newest = meter.flush(0)
    world.topic[0] += [newest, late]  # the detector gets the first of the two
    world.detector.absorb(world.topic[0][:-1], world.now_us)
    world.land(everything=True)
    world.seed()
    world.positions[0] = len(world.topic[0]) - 1
    world.seed()
    world.read(everything=True)
    world.seed()
    assert world.seen["stale"] == 1
    world.settle()
    assert world.spent() == world.truth()


def test_a_detector_without_a_snapshot_whose_topic_has_lost_its_beginning_is_seeded() -> None:
    world = World(1)
    for world.step in range(STEPS):
        world.spend()
        world.land()
        world.read()
    world.land(everything=True)
    world.detector = Detector(NAMES, LATENESS_S)
    world.configure(budget())
    world.positions = [len(records) // 2 for records in world.topic]
    world.read()
    world.settle()
    assert world.spent() == world.truth()


def test_a_budget_ends_no_alert_until_it_is_seeded_and_then_fires_for_what_was_reached() -> None:
    world = World(2)
    world.configure(budget())
    for world.step in range(STEPS):
        world.spend()
        world.read()
        world.land()
        world.save()
    world.settle()
    spent = max(world.truth().values()) // PUSD
    world.configure(budget(int(spent), thresholds=(0.9,), forecast=False, burn_rates=()))
    fired = world.detector.decide(world.now_us, is_live=True)
    assert fired == [] or all(alert.transition != "resolved" for alert in fired)
    world.settle()
    _, evaluator = world.detector.evaluator("budget")
    assert [finding.facet for finding in evaluator.findings(world.now_us) if finding.level is Level.FIRING] == ["90%"]


def test_a_restored_budget_is_seeded_again_only_if_it_was_not_seeded() -> None:
    world = World(3)
    for world.step in range(60):
        world.spend()
        world.read()
        world.land()
        world.save()
    world.configure(budget())
    world.save()
    world.crash()
    assert world.detector.unseeded() == ["budget"]
    world.settle()
    world.save()
    world.crash()
    assert world.detector.unseeded() == []
    assert world.spent() == world.truth()
    world.detector.doubt_budgets()
    assert world.detector.unseeded() == ["budget"]
