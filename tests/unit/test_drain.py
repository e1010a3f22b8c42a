"""What counts as drained, partition by partition."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError
from aiokafka.structs import OffsetAndMetadata

import spendstream.drain
from spendstream.drain import DrainReport, PartitionState, TopicsMissing, _Offsets, drain
from spendstream.settings import Settings

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
async def test_a_coordinator_that_is_still_loading_does_not_count_as_no_commits(answered: int) -> None:
    """aiokafka drops the error that Kafka puts above the list of partitions, and the list is empty."""
    with pytest.raises(GroupCoordinatorNotAvailableError):
        await committed(dict.fromkeys(PARTITIONS[:answered], 7))


class Connections:
    """Stands for `_Offsets`: counts how often it was opened, and fails to open so many times at first."""

    opened = 0
    topics_missing = 0

    def __init__(self, _settings: Settings) -> None:
        type(self).opened += 1

    async def __aenter__(self) -> Connections:
        if type(self).opened <= type(self).topics_missing:
            raise TopicsMissing("t: no such topic")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> type[Connections]:
    kind = type("Connections", (Connections,), {"opened": 0, "topics_missing": 0})
    monkeypatch.setattr(spendstream.drain, "_Offsets", kind)
    return kind


def answers(monkeypatch: pytest.MonkeyPatch, *looks: bool | None) -> list[bool | None]:
    """Let each look find this: drained or not, or None where the broker does not answer as it should."""
    left = list(looks)

    async def states(*_: Any) -> tuple[list[PartitionState], bool]:
        found = left.pop(0)
        if found is None:
            raise KafkaError("not now")
        return [], found

    monkeypatch.setattr(spendstream.drain, "_states", states)
    return left


async def test_with_no_time_left_it_looks_once(connections: type[Connections], monkeypatch: pytest.MonkeyPatch) -> None:
    left = answers(monkeypatch, False, True)
    assert not (await drain(Settings(), 0.0)).is_drained
    assert len(left) == 1


async def test_a_slow_first_look_is_waited_for_though_no_time_is_left(
    connections: type[Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine one look took over a second, and `reconcile` gave up after thirty without an answer."""
    monkeypatch.setattr(spendstream.drain, "_FIRST_LOOK_WITHIN_S", 1.5)

    async def states(*_: Any) -> tuple[list[PartitionState], bool]:
        await asyncio.sleep(1.1)
        return [], True

    monkeypatch.setattr(spendstream.drain, "_states", states)
    assert (await drain(Settings(), 0.0)).is_drained


async def test_a_look_without_an_answer_is_repeated_with_new_connections(
    connections: type[Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, False, None, None, True)
    assert (await drain(Settings(), 30.0)).is_drained
    assert connections.opened == 3


async def test_a_broker_that_has_just_started_may_know_no_topic_for_a_moment(
    connections: type[Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    connections.topics_missing = 2
    answers(monkeypatch, True)
    assert (await drain(Settings(), 30.0)).is_drained


async def test_topics_that_stay_missing_are_an_error(
    connections: type[Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    connections.topics_missing = 10**6
    monkeypatch.setattr(spendstream.drain, "_TOPICS_WITHIN_S", 0.0)
    with pytest.raises(TopicsMissing):
        await drain(Settings(), 30.0)
