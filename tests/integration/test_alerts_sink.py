"""Alert transitions become rows of `alerts`, each once, with money exact; what is none becomes a dead letter."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC
from decimal import Decimal
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target
from spendstream.schemas.alert import Alert, alert_id
from spendstream.schemas.dead_letter import Reason
from spendstream.sinks.alerts import AlertEncoder
from tests.unit.notifiers.make import BUDGET, NOON, make_alert
from tests.unit.sinks.make import records

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def database(client: Client) -> Iterator[str]:
    name = f"db_{uuid.uuid4().hex[:12]}"
    Migrator(client, MigrationSettings(Target(name))).up()
    yield name
    client.command(f"DROP DATABASE {name} SYNC")


def insert(client: Client, database: str, *alerts: Alert) -> None:
    encoded = AlertEncoder().encode(records([alert.model_dump_json().encode() for alert in alerts]))
    assert encoded.undecodable == ()
    for one in encoded.inserts:
        client.raw_insert(f"{database}.{one.table}", one.columns, one.body, fmt="ArrowStream")


def rows(client: Client, sql: str) -> list[dict[str, Any]]:
    return list(client.query(sql).named_results())


def test_a_transition_written_twice_is_one_row(client: Client, database: str) -> None:
    first, second = make_alert(1), make_alert(2, "updated")
    insert(client, database, first, second)
    insert(client, database, second)
    insert(client, database, first)
    found = rows(client, f"SELECT seq, transition, transition_id FROM {database}.alerts_v ORDER BY seq")
    assert [(row["seq"], row["transition"]) for row in found] == [(1, "firing"), (2, "updated")]
    assert [row["transition_id"] for row in found] == [first.transition_id, second.transition_id]


def test_the_current_state_is_the_last_transition_of_each_alert(client: Client, database: str) -> None:
    quiet = make_alert(1, watch="other")
    insert(client, database, make_alert(3, "resolved"), make_alert(1), make_alert(2, "updated"), quiet)
    found = rows(client, f"SELECT watch, state, seq, ends_at FROM {database}.alerts_current ORDER BY watch")
    assert [(row["watch"], row["state"], row["seq"]) for row in found] == [
        ("other", "firing", 1),
        ("spend", "resolved", 3),
    ]
    assert found[0]["ends_at"] is None
    still = f"SELECT watch FROM {database}.alerts_current WHERE state = 'firing'"
    assert rows(client, still) == [{"watch": "other"}]


def test_all_of_an_alert_arrives_to_the_last_digit(client: Client, database: str) -> None:
    alert = make_alert(budget=BUDGET, notified_at=NOON, limit=7.5, score=9.25, silenced_by="night")
    insert(client, database, alert)
    (row,) = rows(client, f"SELECT *, group['feature'] AS feature FROM {database}.alerts_v")
    assert row["feature"] == "code_agent"
    assert row["group"] == alert.group
    times = [
        row[name].replace(tzinfo=UTC) for name in ("started_at", "at", "notified_at")
    ]  # the driver's are naive UTC
    assert [*times, row["ends_at"]] == [NOON, alert.at, NOON, None]
    assert (row["observed"], row["expected"], row["limit_value"], row["score"]) == (41.2, 5.1, 7.5, 9.25)
    assert row["budget_spent_usd"] == BUDGET.spent_usd == Decimal("801.000000000001")
    assert row["excess_by_end_of_month_usd"] == Decimal("26000.123456789012")
    assert row["reason"] == "more calls: 412 a minute instead of 51"
    assert sum(row["factor_changes_usd"].values()) == row["attributed_observed_usd"] - row["attributed_expected_usd"]
    assert row["factor_words"]["tokens_per_call"] == "longer prompts"
    assert (row["notify"], row["notifiers"], row["silenced_by"], row["runbook"]) == (
        True,
        ["hook"],
        "night",
        alert.runbook,
    )
    unnested = f"SELECT c.value AS value, c.share AS share FROM {database}.alerts_v ARRAY JOIN contributors AS c"
    assert rows(client, unnested) == [{"value": "customer-007", "share": 0.71}]


def test_missing_parts_of_an_alert_are_null_and_never_zero(client: Client, database: str) -> None:
    bare = {"attribution": None, "projection": None, "expected": None, "runbook": None, "group": {}}
    insert(client, database, make_alert(**bare), make_alert(watch="full"))
    (row,) = rows(client, f"SELECT * FROM {database}.alerts_v WHERE watch = 'spend'")
    nulls = ("expected", "limit_value", "attributed_observed_usd", "excess_by_end_of_hour_usd", "budget_spent_usd")
    assert [row[name] for name in nulls] == [None] * len(nulls)
    assert (row["factor_changes_usd"], row["contributors"], row["group"], row["reason"]) == ({}, [], {}, "")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"noise", Reason.NOT_JSON),
        (b"\xff", Reason.NOT_JSON),
        (b"{}", Reason.INVALID_VALUE),
        (make_alert().model_dump_json().replace('"41.2"', '"41.2000000000001"').encode(), Reason.INVALID_VALUE),
    ],
)
def test_an_invalid_alert_is_undecodable_and_does_not_stop_the_others(value: bytes, reason: Reason) -> None:
    good = make_alert().model_dump_json().encode()
    encoded = AlertEncoder().encode(records([good, value, None, good]))
    assert [one.reason for one in encoded.undecodable] == [reason]
    assert encoded.inserts[0].rows == 2


def test_alerts_of_one_watch_and_hour_stay_apart(client: Client, database: str) -> None:
    groups = [{"team": f"team-{number}"} for number in range(20)]
    insert(client, database, *(make_alert(group=group) for group in groups))
    ids = {row["alert_id"] for row in rows(client, f"SELECT alert_id FROM {database}.alerts_current")}
    assert ids == {alert_id("spend", "up", group, NOON) for group in groups}
