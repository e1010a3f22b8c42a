"""What absolute rollups add is exact, whatever is written twice, out of order, late, or across a restart."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.detect.rollups import REWRITTEN_WITHIN_MS, Changes, RollupBook, RollupRecord
from spendstream.schemas.measures import COLUMN, COST, SUMS
from tests.unit.detect.rollup_log import NAMES, Members, RollupLog, minute

LATENESS_S = 600
Spend = dict[tuple[int, Members], int]


def book() -> RollupBook:
    return RollupBook(NAMES, LATENESS_S)


def add(spend: Spend, of: RollupBook, changes: Changes) -> None:
    for member, at_us, sums in zip(changes.combinations, changes.minutes_us, changes.sums, strict=True):
        spend[int(at_us), of.combinations[member]] += int(sums[COLUMN[COST]])


def members(number: int) -> Members:
    return ("api", f"team-{number % 2}", f"feature-{number}", "m")


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[list[tuple[int, int, int]]], int]:
    """Flushes of calls (minute, group, cost), and a seed for what goes wrong."""
    call = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 10**14))
    return draw(st.lists(st.lists(call, max_size=6), min_size=1, max_size=8)), draw(st.integers(0, 10**6))


@given(traffic())
@settings(max_examples=150, deadline=None)
def test_changes_sum_to_the_truth_whatever_is_repeated_reordered_or_restarted(
    case: tuple[list[list[tuple[int, int, int]]], int],
) -> None:
    flushes, seed = case
    chance = random.Random(seed)
    log, known = RollupLog(), book()
    spend: Spend = defaultdict(int)
    history: list[RollupRecord] = []
    for number, calls in enumerate(flushes):
        for at, group, pusd in calls:
            log.call(at, members(group), pusd)
        records = log.flush(number * 250)
        # a worker that lost its partition writes what it knew once more
        stale = chance.sample(history, k=min(len(history), chance.randint(0, 3)))
        batch = [*stale, *records] if chance.random() < 0.5 else [*records, *stale]
        history += records
        add(spend, known, known.absorb(batch))
        if chance.random() < 0.4:
            former, known = known, book()
            known.restore(former.snapshot())
    assert {k: v for k, v in spend.items() if v} == {k: v for k, v in log.truth.items() if v}


def test_within_one_fetch_only_the_newest_total_of_an_aggregate_counts() -> None:
    log, known = RollupLog(), book()
    spend: Spend = defaultdict(int)
    log.call(0, members(0), 5)
    older = log.flush(0)
    log.call(0, members(0), 7)
    newer = log.flush(250)
    add(spend, known, known.absorb([*newer, *older]))
    assert dict(spend) == {(minute(0), members(0)): 12}


def test_an_aggregate_is_kept_while_late_events_may_revise_it() -> None:
    log, known = RollupLog(), book()
    log.call(0, members(0), 5)
    known.absorb(log.flush(0))
    log.call(LATENESS_S // 60, members(0), 5)
    for at_ms in range(0, 2 * REWRITTEN_WITHIN_MS, 5_000):  # time in which something is written
        known.absorb(log.everything(at_ms))
    assert known.forget_final() == 0


def with_final_aggregates() -> tuple[RollupLog, RollupBook]:
    """A log and a book of 40 minutes, the first of which are final and can't be written again."""
    log, known = RollupLog(), book()
    for number in range(40):
        log.call(number, members(0), 5)
        known.absorb(log.flush(number * 9_000))
    assert REWRITTEN_WITHIN_MS < 39 * 9_000
    return log, known


def test_an_aggregate_is_forgotten_once_it_is_final_and_no_meter_can_write_it_again() -> None:
    log, known = with_final_aggregates()
    assert known.forget_final() > 0
    assert known.absorb(log.flush(39 * 9_000)).sums.size == 0


def test_while_a_seeding_is_under_way_nothing_is_forgotten() -> None:
    _, known = with_final_aggregates()
    boundaries = known.begin_seeding()
    assert known.forget_final() == 0
    assert not known.holds_any_before(boundaries)
    known.end_seeding()
    assert known.forget_final() > 0


def test_an_aggregate_before_a_boundary_is_noticed_when_it_arrives_and_one_of_a_new_source_is_not() -> None:
    log, known = with_final_aggregates()
    known.forget_final()
    boundaries = known.begin_seeding()
    other = RollupLog(source_log="another")
    other.call(0, members(0), 5)
    known.absorb(other.flush(0))
    assert not known.holds_any_before(boundaries)
    known.absorb(log.everything(39 * 9_000)[:1])
    assert known.holds_any_before(boundaries)


def test_a_standstill_of_hours_does_not_count_as_time_in_which_a_meter_could_have_rewritten() -> None:
    log, known = RollupLog(), book()
    for number in range(40):
        log.call(number, members(0), 5)
    known.absorb(log.flush(0))
    log.call(40, members(0), 5)
    known.absorb(log.flush(24 * 3_600_000))
    assert known.forget_final() == 0


def test_a_correction_is_kept_while_its_block_of_offsets_may_still_grow() -> None:
    log, known = RollupLog(), book()
    log.call(0, members(0), 5, block=0)
    known.absorb(log.flush(0))
    log.call(500, members(1), 5)
    for at_ms in range(0, 2 * REWRITTEN_WITHIN_MS, 5_000):
        known.absorb(log.everything(at_ms)[1:])
    before = len(known)
    assert known.forget_final() == 0
    for _ in range(2 * CORRECTION_BLOCK_OFFSETS):
        log.call(500, members(1), 1)
    known.absorb(log.flush(2 * REWRITTEN_WITHIN_MS))
    assert known.forget_final() == 1
    assert len(known) == before - 1


def test_what_is_not_a_rollup_is_listed_and_the_rest_counts() -> None:
    log, known = RollupLog(), book()
    log.call(0, members(0), 5)
    changes = known.absorb([RollupRecord(0, 0, b"odd", b'{"not": "a rollup"}'), *log.flush(0)])
    assert changes.sums[:, COLUMN[COST]].tolist() == [5]
    assert "odd" in str(known.unreadable[0])


def test_every_measure_comes_through() -> None:
    log, known = RollupLog(), book()
    sums = {name: number + 1 for number, name in enumerate(SUMS) if name not in ("calls", COST)}
    log.call(0, members(0), 123_456_789_012_345, **sums)
    changes = known.absorb(log.flush(0))
    expected = np.array([{**sums, "calls": 1, COST: 123_456_789_012_345}[name] for name in SUMS])
    assert (changes.sums[0] == expected).all()


def test_a_dimension_that_is_no_longer_metered_is_summed_over_after_a_restart() -> None:
    log, known = RollupLog(), book()
    log.call(0, ("api", "a", "one", "m"), 5)
    log.call(0, ("api", "a", "two", "m"), 7)
    known.absorb(log.flush(0))
    narrow = RollupBook(("team",), LATENESS_S)
    narrow.restore(known.snapshot())
    assert narrow.combinations == [("a",)]
    assert narrow.known_since(0).sums[:, COLUMN[COST]].tolist() == pytest.approx([5, 7])


def test_a_snapshot_taken_before_a_measure_was_added_is_restored_with_zeros_for_it() -> None:
    log, known = RollupLog(), book()
    log.call(0, members(0), 5, retries=2)
    known.absorb(log.flush(0))
    snapshot = known.snapshot()
    older = [name for name in SUMS if name != "web_searches"][::-1]
    snapshot |= {"measures": np.array(older), "sums": snapshot["sums"][:, [COLUMN[name] for name in older]]}
    restored = book()
    restored.restore(snapshot)
    (sums,) = restored.known_since(0).sums
    assert (sums[COLUMN[COST]], sums[COLUMN["retries"]], sums[COLUMN["web_searches"]]) == (5, 2, 0)
    log.call(0, members(0), 7, web_searches=3)
    (added,) = restored.absorb(log.flush(250)).sums
    assert (added[COLUMN[COST]], added[COLUMN["retries"]], added[COLUMN["web_searches"]]) == (7, 0, 3)


@pytest.mark.parametrize(
    ("field", "value"), [("cost_usd", "free"), ("cost_usd", "9223372.036854775808"), ("cost_usd", "1e-13")]
)
def test_an_amount_that_cannot_be_counted_is_named_and_its_neighbours_count(field: str, value: str) -> None:
    log, known = RollupLog(), book()
    for group, pusd in enumerate((5, 6, 7)):
        log.call(0, members(group), pusd)
    first, second, third = log.flush(0)
    odd = second._replace(value=json.dumps(json.loads(second.value) | {field: value}).encode())
    changes = known.absorb([first, odd, third])
    assert changes.sums[:, COLUMN[COST]].tolist() == [5, 7]
    assert [repr(second.key) in str(error) for error in known.unreadable] == [True]
    assert known.absorb([second]).sums[:, COLUMN[COST]].tolist() == [6]
