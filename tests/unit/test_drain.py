"""What counts as drained, partition by partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import OffsetAndMetadata

from streams.drain import DrainReport, PartitionState, _Offsets
from streams.settings import Settings

PARTITIONS = [TopicPartition("t", 0), TopicPartition("t", 1)]


class Admin:
    """A coordinator that answers with these offsets; -1 is "never committed"."""

    def __init__(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._offsets = offsets

    async def list_consumer_group_offsets(self, _group: str, **_: Any) -> dict[TopicPartition, OffsetAndMetadata]:
        return {each: OffsetAndMetadata(offset, "") for each, offset in self._offsets.items()}


async def committed(offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    asked = _Offsets(Settings())
    await asked._admin.close()
    asked._admin = Admin(offsets)
    try:
        return await asked._committed("g", PARTITIONS)
    finally:
        await asked._consumer.stop()


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


async def test_a_partition_without_a_commit_is_left_out() -> None:
    assert await committed(dict(zip(PARTITIONS, (7, -1), strict=True))) == {PARTITIONS[0]: 7}


@pytest.mark.parametrize("answered", [0, 1])
async def test_a_coordinator_that_is_still_loading_is_not_taken_for_one_that_knows_of_no_commit(answered: int) -> None:
    """aiokafka drops the error that Kafka puts above the list of partitions, and the list is empty."""
    with pytest.raises(GroupCoordinatorNotAvailableError):
        await committed(dict.fromkeys(PARTITIONS[:answered], 7))
