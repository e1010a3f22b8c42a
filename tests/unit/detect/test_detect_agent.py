"""The detecting agent: a backlog in slices, and when the seeder may read history."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from aiokafka import TopicPartition

from spendstream.agents import detect_seed
from spendstream.agents.detect import SLICE_US, slices
from spendstream.agents.detect_seed import ReadPosition, Seeder
from spendstream.clickhouse.client import ClickHouseSettings
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.rollups import RollupRecord
from spendstream.core.timestamps import US
from spendstream.schemas.watch import Watches
from spendstream.settings import Settings
from spendstream.waiting import Backoff
from tests.unit.detect.rollup_log import BEGAN_US, NAMES
from tests.unit.detect.test_seeding import CALLS, budget


def record(at_s: float, partition: int = 0) -> RollupRecord:
    return RollupRecord(partition, (BEGAN_US + round(at_s * US)) // 1000, b"k", b"{}")


def test_live_records_are_one_slice() -> None:
    records = [record(0.2), record(0.1, 1)]
    ((some, until),) = slices(records, BEGAN_US, BEGAN_US + US)
    assert (sorted(some), until) == (sorted(records), BEGAN_US + US)


def test_a_backlog_is_split_into_minutes_in_order_of_time() -> None:
    records = [record(at, partition) for partition in (0, 1) for at in (10, 70, 130, 185)]
    cut = list(slices(records, BEGAN_US, BEGAN_US + 190 * US))
    assert [len(some) for some, _ in cut] == [2, 2, 2, 2]
    assert [until for _, until in cut] == [BEGAN_US + n * SLICE_US for n in (1, 2, 3)] + [BEGAN_US + 190 * US]


def test_records_ahead_of_the_clock_are_in_the_last_slice() -> None:
    cut = list(slices([record(10), record(500)], BEGAN_US, BEGAN_US + 90 * US))
    assert [len(some) for some, _ in cut] == [1, 1]


def test_minutes_without_a_record_are_slices_too() -> None:
    cut = list(slices([], BEGAN_US, BEGAN_US + 300 * US))
    assert [until - BEGAN_US for _, until in cut] == [n * SLICE_US for n in range(1, 6)]


def test_a_clock_that_never_ran_begins_at_the_first_record() -> None:
    cut = list(slices([record(0), record(61)], 0, BEGAN_US + 90 * US))
    assert [len(some) for some, _ in cut] == [1, 1]


class Admin:
    """Answers what a sink has committed, by partition; -1 where it never did. ``None``: an empty answer."""

    def __init__(self, committed: dict[int, int] | None) -> None:
        self._committed = committed

    async def list_consumer_group_offsets(self, group: str, *, partitions: list[TopicPartition]) -> dict[Any, Any]:
        assert group == "spendstream-sink-rollups"
        known = self._committed or {}
        return {each: SimpleNamespace(offset=known[each.partition]) for each in partitions if each.partition in known}


def seeder(detector: Detector | None = None, **overrides: Any) -> Seeder:
    async def in_writer(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    return Seeder(
        Settings(**overrides),
        detector or Detector(NAMES, 60),
        asyncio.Lock(),
        in_writer,
        lambda: ReadPosition({0: 0}, {0: 0}, 1_767_225_600_000_000, 0.0),
        Backoff(0.01, 0.02),
    )


@pytest.mark.parametrize(
    ("committed", "begins", "missing"),
    [
        ({0: 10, 1: 20}, {0: 0, 1: 0}, 0),
        ({0: 12, 1: 25}, {0: 0, 1: 0}, 0),
        ({0: 7, 1: 20}, {0: 0, 1: 0}, 3),
        ({0: 10, 1: -1}, {0: 0, 1: 0}, 20),
        (None, {0: 0, 1: 0}, 30),
        ({0: 10, 1: -1}, {0: 0, 1: 20}, 0),
        ({0: 10, 1: -1}, {0: 0, 1: 15}, 5),
    ],
)
async def test_what_the_detector_read_from_kafka_must_be_inserted(
    committed: dict[int, int] | None, begins: dict[int, int], missing: int
) -> None:
    position = ReadPosition({0: 10, 1: 20, 2: 0}, begins, 0, 0.0)
    assert await seeder()._missing(Admin(committed), position) == missing


async def test_while_clickhouse_is_away_no_round_begins_and_it_is_tried_again() -> None:
    detector = Detector(NAMES, 60)
    detector.configure(Watches(watches=(CALLS, budget())))
    trying = asyncio.create_task(seeder(detector, clickhouse_url="http://127.0.0.1:9").run())
    await asyncio.sleep(1.5)
    assert not trying.done()
    trying.cancel()
    assert detector.unseeded() == ["budget"]
    assert not detector.book._is_seeding


async def test_history_is_read_from_the_cluster_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ClickHouseSettings] = []

    def open_client(connection: ClickHouseSettings) -> MagicMock:
        opened.append(connection)
        return MagicMock()

    monkeypatch.setattr(detect_seed, "open_client", open_client)
    await seeder(clickhouse_cluster="main", clickhouse_user="meter")._check_clickhouse()
    assert [(one.cluster, one.user) for one in opened] == [("main", "meter")]
