"""Which snapshot of the detector a restart reads."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition

from spendstream.agents import detect_snapshots
from spendstream.agents.detect_snapshots import SnapshotStore

PROGRESS = {"clock_us": 7, "rollup_offsets": {0: 1}, "alert_offsets": {0: 2}}


class Topic:
    """The state topic, written and read: a producer and a consumer in one."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    async def write(self, topic: str, records: list[Any]) -> None:
        self.records += records

    async def read(
        self, consumer: Any, starts: Mapping[TopicPartition, int | None]
    ) -> AsyncIterator[tuple[TopicPartition, list[Any]]]:
        for at in starts:
            yield at, self.records


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    topic = Topic()
    monkeypatch.setattr(detect_snapshots, "read_to_end", topic.read)
    return topic


async def test_the_newest_whole_snapshot_is_read(topic: Topic) -> None:
    store = SnapshotStore(topic, "state")  # type: ignore[arg-type]
    for number in (1, 2, 3):
        await store.write({"book": {"n": np.array([number])}}, {"number": number, **PROGRESS})
    topic.records.pop()  # the third manifest was never written
    found = await store.read(topic)  # type: ignore[arg-type]
    assert found is not None
    manifest, sections = found
    assert (manifest.number, sections["book"]["n"].tolist()) == (2, [2])


async def test_a_snapshot_of_another_format_is_ignored(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SnapshotStore(topic, "state")  # type: ignore[arg-type]
    await store.write({"book": {"n": np.array([1])}}, {"number": 1, **PROGRESS})
    monkeypatch.setattr(detect_snapshots, "FORMAT", detect_snapshots.FORMAT + 1)
    assert await store.read(topic) is None  # type: ignore[arg-type]
    await store.write({"book": {"n": np.array([2])}}, {"number": 1, **PROGRESS})
    found = await store.read(topic)  # type: ignore[arg-type]
    assert found is not None
    assert found[1]["book"]["n"].tolist() == [2]


async def test_a_snapshot_without_a_format_is_ignored(topic: Topic) -> None:
    store = SnapshotStore(topic, "state")  # type: ignore[arg-type]
    await store.write({"book": {"n": np.array([1])}}, {"number": 1, **PROGRESS})
    manifest = topic.records[-1]
    former = manifest.value.replace(b'"format":%d,' % detect_snapshots.FORMAT, b"")
    assert former != manifest.value
    topic.records[-1] = dataclasses.replace(manifest, value=former)
    assert await store.read(topic) is None  # type: ignore[arg-type]
