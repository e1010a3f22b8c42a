"""The first at once, the rest together; and what may be committed meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spendstream.notifiers.bundles import LARGEST, Bundles, Waiting
from spendstream.notifiers.progress import Progress
from tests.unit.notifiers.make import make_alert


def waiting(offset: int, watch: str = "spend", partition: int = 0) -> Waiting:
    return Waiting(make_alert(offset + 1, watch=watch), partition, offset, 0.0)


def offsets(bundles: list[list[Waiting]]) -> list[list[int]]:
    return [[one.offset for one in bundle] for bundle in bundles]


def test_the_first_is_due_at_once_and_a_watch_is_quiet_until_its_interval_is_over() -> None:
    bundles = Bundles(10.0)
    bundles.add(waiting(0))
    assert offsets(bundles.take(100.0)) == [[0]]
    bundles.told("spend", 100.5)
    bundles.add(waiting(1))
    bundles.add(waiting(2))
    assert bundles.take(110.4) == []
    assert bundles.next_due_s(110.4) == 110.5
    assert offsets(bundles.take(110.5)) == [[1, 2]]
    assert len(bundles) == 0
    assert bundles.next_due_s(110.5) is None


def test_other_watches_do_not_wait_and_one_that_is_being_told_does() -> None:
    bundles = Bundles(10.0)
    bundles.told("spend", 100.0)
    bundles.add(waiting(0))
    bundles.add(waiting(1, "other"))
    assert offsets(bundles.take(101.0, busy={"other"})) == []
    assert offsets(bundles.take(101.0)) == [[1]]


def test_a_bundle_has_an_end() -> None:
    bundles = Bundles(0.0)
    for offset in range(LARGEST + 1):
        bundles.add(waiting(offset))
    assert [len(bundle) for bundle in bundles.take(0.0)] == [LARGEST]
    assert offsets(bundles.take(0.0)) == [[LARGEST]]


def test_partitions_that_others_have_are_forgotten() -> None:
    bundles = Bundles(0.0)
    bundles.add(waiting(0, partition=0))
    bundles.add(waiting(0, "other", partition=1))
    bundles.forget([0])
    assert [bundle[0].partition for bundle in bundles.take(0.0)] == [1]


def test_nothing_is_committed_beyond_what_is_open() -> None:
    progress = Progress()
    for offset in (5, 7, 8):
        progress.read(0, offset)
    progress.passed(0, 9)
    assert progress.committable() == {0: 5}
    progress.done(0, 7)
    assert progress.committable() == {0: 5}
    progress.done(0, 5)
    assert progress.committable() == {0: 8}
    progress.committed({0: 8})
    assert progress.committable() == {}
    progress.done(0, 8)
    assert progress.committable() == {0: 10}


def test_what_is_done_of_a_forgotten_partition_commits_nothing() -> None:
    progress = Progress()
    progress.read(0, 5)
    progress.forget([0])
    progress.done(0, 5)
    assert progress.committable() == {}


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40), st.randoms())
def test_a_commit_never_passes_an_open_record_and_ends_at_the_end(
    records: list[tuple[int, bool]], random: object
) -> None:
    progress = Progress()
    open_records: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    ends: dict[int, int] = {}
    for offset, (partition, is_wanted) in enumerate(records):
        ends[partition] = offset + 1
        if is_wanted:
            progress.read(partition, offset)
            open_records[partition].add(offset)
        else:
            progress.passed(partition, offset)
    left = [(partition, offset) for partition, some in open_records.items() for offset in some]
    random.shuffle(left)  # type: ignore[attr-defined]
    for partition, offset in left:
        for at, end in progress.committable().items():
            assert end <= min(open_records[at] | {ends[at]})
        progress.done(partition, offset)
        open_records[partition].discard(offset)
    assert progress.committable() == ends
