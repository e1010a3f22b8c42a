"""What BI reads: deduplicated, exact, honest about what has no price, and quick for a day."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.client import INSERT_SETTINGS
from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import DeadLetterEncoder, RollupEncoder, RowEncoder
from tests.unit.sinks.make import NOON, dead_letter_value, ipc, priced_calls, records, rollup_value

pytestmark = pytest.mark.clickhouse


class Database:
    """A migrated database of its own; `insert` writes as the sinks do."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = f"db_{uuid.uuid4().hex[:12]}"
        Migrator(client, MigrationSettings(Target(self.name))).up()

    def insert(self, encoder: RowEncoder, *values: bytes) -> None:
        for insert in encoder.encode(records(values)).inserts:
            self.client.raw_insert(
                f"{self.name}.{insert.table}",
                insert.columns,
                insert.body,
                fmt="ArrowStream",
                settings=INSERT_SETTINGS,
            )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(sql.replace("{db}", self.name)).result_rows]


@pytest.fixture
def db(client: Client) -> Iterator[Database]:
    database = Database(client)
    yield database
    client.command(f"DROP DATABASE {database.name} SYNC")


def test_a_call_written_twice_is_one_row_in_one_insert_or_in_two(db: Database) -> None:
    calls = priced_calls(2)
    db.insert(CallEncoder(), ipc(calls), ipc(calls))
    db.insert(CallEncoder(), ipc(calls))
    assert db.rows("SELECT count() FROM {db}.calls") > [(2,)]
    assert db.rows("SELECT count(), sum(cost_usd) FROM {db}.calls_v") == [(2, Decimal("0.072"))]


def test_of_a_call_priced_twice_the_later_price_stays_whatever_came_last(db: Database) -> None:
    event_id = uuid.uuid4()
    for priced_at, cost in ((NOON + timedelta(hours=1), "2"), (NOON, "1")):
        call = priced_calls(1, event_id=event_id.bytes, priced_at=priced_at, cost_usd=Decimal(cost))
        db.insert(CallEncoder(), ipc(call))
    assert db.rows("SELECT event_id, cost_usd FROM {db}.calls_v") == [(event_id, Decimal(2))]


@pytest.mark.parametrize(
    ("column", "before", "after"), [("task_id", "t-old", "t-new"), ("cost_usd", Decimal(1), Decimal(2))]
)
def test_a_filter_on_what_a_later_write_changed_does_not_bring_back_the_earlier_row(
    db: Database, column: str, before: Any, after: Any
) -> None:
    event_id = uuid.uuid4().bytes
    for priced_at, value in ((NOON, before), (NOON + timedelta(hours=1), after)):
        db.insert(CallEncoder(), ipc(priced_calls(1, event_id=event_id, priced_at=priced_at, **{column: value})))
    found = {
        value: db.rows(f"SELECT count() FROM {{db}}.calls_v WHERE {column} = '{value}'") for value in (before, after)
    }
    assert found == {before: [(0,)], after: [(1,)]}


@pytest.mark.parametrize("column", ["event_id", "task_id", "conversation_id", "trace_id"])
def test_a_call_is_looked_up_through_a_filter_on_its_id(db: Database, column: str) -> None:
    db.insert(CallEncoder(), ipc(priced_calls(2)))
    value = uuid.uuid4()
    plan = db.rows(f"EXPLAIN indexes = 1 SELECT * FROM {{db}}.calls_v WHERE {column} = '{value}'")
    assert any(f"{column}_bloom" in line for (line,) in plan)


def test_a_call_without_a_price_has_no_cost_and_no_saving(db: Database) -> None:
    db.insert(CallEncoder(), ipc(priced_calls(1, cost_usd=None)))
    assert db.rows("SELECT cost_usd, savings_cache_usd, total_tokens FROM {db}.calls_v") == [
        (None, None, len(TOKEN_BUCKETS))
    ]


@pytest.mark.parametrize(("unpriced_calls", "cost"), [(0, Decimal("0.036")), (1, Decimal("0.036")), (2, None)])
def test_spend_is_null_only_where_every_call_is_unpriced(db: Database, unpriced_calls: int, cost: Any) -> None:
    db.insert(RollupEncoder(), rollup_value(calls=2, unpriced_calls=unpriced_calls))
    assert db.rows("SELECT cost_usd, unpriced_calls FROM {db}.spend_1m") == [(cost, unpriced_calls)]


def test_a_later_total_replaces_an_earlier_one_whatever_came_last(db: Database) -> None:
    for through, calls in ((9, 2), (19, 5), (14, 3)):
        db.insert(RollupEncoder(), rollup_value(through, calls=calls))
    assert db.rows("SELECT calls FROM {db}.spend_1m") == [(5,)]


def test_spend_sums_over_partitions_corrections_and_lives_of_the_topic(db: Database) -> None:
    parts: list[dict[str, Any]] = [{}, {"source_partition": 1}, {"correction_block": 7}, {"source_log": "log-2"}]
    db.insert(
        RollupEncoder(), *(rollup_value(**part, cost_usd=Decimal(n).scaleb(-12)) for n, part in enumerate(parts, 1))
    )
    assert db.rows("SELECT minute, calls, input_tokens, total_tokens, cost_usd FROM {db}.spend_1m") == [
        (NOON.replace(tzinfo=None), 8, 2400, 4000, Decimal("0.000000000010"))
    ]


def test_a_recreated_topic_overwrites_no_old_minute(db: Database) -> None:
    db.insert(RollupEncoder(), rollup_value(1_000, calls=7))
    db.insert(RollupEncoder(), rollup_value(0, calls=1, source_log="log-2"))
    assert db.rows("SELECT calls FROM {db}.spend_1m") == [(8,)]


def test_hours_and_days_add_up_to_the_minutes(db: Database) -> None:
    for minutes in (0, 59, 60, 12 * 60):
        db.insert(RollupEncoder(), rollup_value(minute=NOON + timedelta(minutes=minutes)))
    hours = db.rows("SELECT toHour(hour), calls, cost_usd FROM {db}.spend_1h ORDER BY hour")
    assert hours == [(12, 4, Decimal("0.072")), (13, 2, Decimal("0.036")), (0, 2, Decimal("0.036"))]
    days = db.rows("SELECT toString(day), calls, cost_usd FROM {db}.spend_1d ORDER BY day")
    assert days == [("2026-03-04", 6, Decimal("0.108")), ("2026-03-05", 2, Decimal("0.036"))]


def test_latency_is_averaged_over_the_calls_that_reported_one(db: Database) -> None:
    db.insert(RollupEncoder(), rollup_value(latency_ms_sum=300, latency_ms_max=200, latency_calls=2))
    db.insert(RollupEncoder(), rollup_value(source_partition=1, latency_ms_sum=30, latency_ms_max=30, latency_calls=1))
    db.insert(RollupEncoder(), rollup_value(minute=NOON + timedelta(minutes=1)))
    rows = db.rows("SELECT latency_ms_avg, latency_ms_max FROM {db}.spend_1m ORDER BY minute")
    assert rows == [(110.0, 200), (None, 0)]


def test_savings_are_what_the_same_calls_would_have_cost_less_their_cost(db: Database) -> None:
    db.insert(RollupEncoder(), rollup_value(cost_usd=Decimal(2), cost_without_cache_usd=Decimal(5)))
    assert db.rows("SELECT savings_cache_usd, savings_tier_usd FROM {db}.spend_1m") == [(3, 0)]


def test_a_replayed_dead_letter_stays_replayed_when_the_sink_repeats_it(db: Database) -> None:
    db.insert(DeadLetterEncoder(), dead_letter_value(1), dead_letter_value(2))
    db.client.command(
        f"INSERT INTO {db.name}.dead_letters SELECT * REPLACE (now64(6) AS replayed_at) "
        f"FROM {db.name}.dead_letters WHERE offset = 1"
    )
    db.insert(DeadLetterEncoder(), dead_letter_value(1))
    rows = db.rows("SELECT offset, replayed_at IS NOT NULL, hex(original) FROM {db}.dead_letters_v ORDER BY offset")
    assert rows == [(1, 1, "FF007B"), (2, 0, "FF007B")]


MONTH = """
INSERT INTO {db}.rollups_1m
    (minute, source_log, source_partition, correction_block, team, calls, cost_usd, through_offset)
SELECT toDateTime('2026-01-01 00:00:00', 'UTC') + 60 * intDiv(number, 10), 'log', 0, -1,
    toString(number % 10), 1, 0.001, number
FROM numbers(432000)
"""


@pytest.mark.parametrize(
    ("view", "where"),
    [
        ("spend_1m", "minute >= '2026-01-15 00:00:00' AND minute < '2026-01-16 00:00:00'"),
        ("spend_1m", "toDate(minute) = '2026-01-15'"),
        ("spend_1h", "hour >= '2026-01-15 00:00:00' AND hour < '2026-01-16 00:00:00'"),
        ("spend_1d", "day = '2026-01-15'"),
    ],
)
def test_a_day_of_a_month_reads_a_tenth_of_it_at_most(db: Database, view: str, where: str) -> None:
    db.client.command(MONTH.replace("{db}", db.name))
    result = db.client.query(f"SELECT sum(calls), sum(cost_usd) FROM {db.name}.{view} WHERE {where}")
    assert result.result_rows == [(14_400, Decimal("14.4"))]
    assert int(result.summary["read_rows"]) <= 43_200
