"""What counts as drained, partition by partition."""

from __future__ import annotations

import pytest

from streams.drain import DrainReport, PartitionState


@pytest.mark.parametrize(
    ("committed", "begin", "end", "behind"),
    [
        (None, 0, 0, 0),  # never a record, so never a commit
        (None, 0, 5, 5),
        (None, 5, 5, 0),  # all its records were deleted by retention
        (5, 0, 5, 0),
        (4, 0, 5, 1),
        (2, 4, 5, 1),  # what retention deleted can't be waited for
        (9, 0, 5, 0),  # a commit from before the topic was made anew
    ],
)
def test_a_partition_is_behind_by_the_records_that_are_there_and_not_committed(
    committed: int | None, begin: int, end: int, behind: int
) -> None:
    assert PartitionState("g", "t", 0, committed, begin, end).behind == behind


def test_a_report_names_the_partitions_that_are_behind() -> None:
    done, late = PartitionState("g", "t", 0, 5, 0, 5), PartitionState("g", "t", 1, 1, 0, 4)
    report = DrainReport((done, late), 1.0, False)
    assert report.behind == (late,)
    assert (report.records, report.records_behind) == (9, 3)
