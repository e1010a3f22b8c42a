"""The first transition at once, the rest together; and what may be committed meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spendstream.notifiers.delivery import MAX_BATCH, NotificationQueue, OffsetTracker, QueuedAlert
from tests.unit.notifiers.make import make_alert


def queued(offset: int, watch: str = "spend", partition: int = 0) -> QueuedAlert:
    return QueuedAlert(make_alert(offset + 1, watch=watch), partition, offset, 0.0)


def offsets(batches: list[list[QueuedAlert]]) -> list[list[int]]:
    return [[one.offset for one in batch] for batch in batches]


def test_the_first_is_due_at_once_and_the_watch_then_waits_for_its_interval() -> None:
    queue = NotificationQueue(10.0)
    queue.add(queued(0))
    assert offsets(queue.take_due(100.0)) == [[0]]
    queue.mark_sent("spend", 100.5)
    queue.add(queued(1))
    queue.add(queued(2))
    assert queue.take_due(110.4) == []
    assert queue.next_due_s(110.4) == 110.5
    assert offsets(queue.take_due(110.5)) == [[1, 2]]
    assert len(queue) == 0
    assert queue.next_due_s(110.5) is None


def test_other_watches_do_not_wait_but_one_with_a_notification_under_way_does() -> None:
    queue = NotificationQueue(10.0)
    queue.mark_sent("spend", 100.0)
    queue.add(queued(0))
    queue.add(queued(1, "other"))
    assert offsets(queue.take_due(101.0, busy={"other"})) == []
    assert offsets(queue.take_due(101.0)) == [[1]]


def test_a_batch_has_a_maximum_size() -> None:
    queue = NotificationQueue(0.0)
    for offset in range(MAX_BATCH + 1):
        queue.add(queued(offset))
    assert [len(batch) for batch in queue.take_due(0.0)] == [MAX_BATCH]
    assert offsets(queue.take_due(0.0)) == [[MAX_BATCH]]


def test_partitions_that_others_read_now_are_forgotten() -> None:
    queue = NotificationQueue(0.0)
    queue.add(queued(0, partition=0))
    queue.add(queued(0, "other", partition=1))
    queue.forget([0])
    assert [batch[0].partition for batch in queue.take_due(0.0)] == [1]


def test_nothing_is_committed_beyond_the_first_open_record() -> None:
    tracker = OffsetTracker()
    for offset in (5, 7, 8):
        tracker.open(0, offset)
    tracker.skip(0, 9)
    assert tracker.committable() == {0: 5}
    tracker.close(0, 7)
    assert tracker.committable() == {0: 5}
    tracker.close(0, 5)
    assert tracker.committable() == {0: 8}
    tracker.mark_committed({0: 8})
    assert tracker.committable() == {}
    tracker.close(0, 8)
    assert tracker.committable() == {0: 10}


def test_closing_a_record_of_a_forgotten_partition_commits_nothing() -> None:
    tracker = OffsetTracker()
    tracker.open(0, 5)
    tracker.forget([0])
    tracker.close(0, 5)
    assert tracker.committable() == {}


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40), st.randoms())
def test_a_commit_never_passes_an_open_record_and_ends_at_the_end(
    records: list[tuple[int, bool]], random: object
) -> None:
    tracker = OffsetTracker()
    open_records: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    ends: dict[int, int] = {}
    for offset, (partition, is_wanted) in enumerate(records):
        ends[partition] = offset + 1
        if is_wanted:
            tracker.open(partition, offset)
            open_records[partition].add(offset)
        else:
            tracker.skip(partition, offset)
    left = [(partition, offset) for partition, some in open_records.items() for offset in some]
    random.shuffle(left)  # type: ignore[attr-defined]
    for partition, offset in left:
        for at, end in tracker.committable().items():
            assert end <= min(open_records[at] | {ends[at]})
        tracker.close(partition, offset)
        open_records[partition].discard(offset)
    assert tracker.committable() == ends
