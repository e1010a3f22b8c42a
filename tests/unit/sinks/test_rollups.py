"""Rollups land exact, the last total of each key, and odd ones are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS, cost_column, tokens_field
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.rollup import DIMENSIONS, CostRollup
from spendstream.schemas.usage import EARLIEST, LATEST
from spendstream.sinks.encoders import Encoded, RollupEncoder
from tests.unit.sinks.make import NOON, make_rollup, read_body, records, rollup_value

pico_dollars = st.integers(0, 10**30)


def land(*values: bytes | None) -> Encoded:
    return RollupEncoder().encode(records(values))


def rows(encoded: Encoded) -> list[dict[str, Any]]:
    (insert,) = encoded.inserts
    table = read_body(insert.body)
    assert insert.columns == tuple(table.schema.names)
    assert insert.rows == table.num_rows
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def changed(**fields: Any) -> bytes:
    """A rollup's value with fields replaced by what the model would not take."""
    return json.dumps(json.loads(rollup_value()) | fields).encode()


def test_every_field_has_its_column() -> None:
    rollup = make_rollup(
        dimensions={name: f"{name} é" for name in DIMENSIONS},
        tokens={bucket: n for n, bucket in enumerate(TOKEN_BUCKETS, 1)},
        cost_usd_by_bucket={bucket: Decimal(n).scaleb(-12) for n, bucket in enumerate(COST_BUCKETS, 1)},
        correction_block=3,
        failed_calls=1,
        latency_ms_sum=5,
    )
    (row,) = rows(land(rollup.model_dump_json().encode()))
    nested = ("dimensions", "tokens", "cost_usd_by_bucket")
    known = {name: value for name, value in rollup if name not in nested}
    known |= rollup.dimensions
    known |= {tokens_field(bucket): count for bucket, count in rollup.tokens.items()}
    known |= {cost_column(bucket): cost for bucket, cost in rollup.cost_usd_by_bucket.items()}
    assert row == known


def test_absent_dimensions_are_empty_and_absent_buckets_zero() -> None:
    (row,) = rows(land(rollup_value(dimensions={"service": "api"}, tokens={}, cost_usd_by_bucket={})))
    assert [row[name] for name in DIMENSIONS] == ["api"] + [""] * (len(DIMENSIONS) - 1)
    assert {row[tokens_field(bucket)] for bucket in TOKEN_BUCKETS} == {0}
    assert {row[cost_column(bucket)] for bucket in COST_BUCKETS} == {Decimal(0)}


@given(pico_dollars)
def test_money_is_exact_to_the_pico_dollar(pusd: int) -> None:
    amount = Decimal(pusd).scaleb(-12)
    (row,) = rows(land(rollup_value(cost_usd=amount)))
    assert row["cost_usd"] == amount


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 5)), min_size=1))
def test_of_each_key_only_the_total_that_absorbed_most_becomes_a_row(written: list[tuple[str, int]]) -> None:
    values = [rollup_value(through, dimensions={"service": service}) for service, through in written]
    greatest: dict[str, int] = {}
    for service, through in written:
        greatest[service] = max(through, greatest.get(service, 0))
    assert {row["service"]: row["through_offset"] for row in rows(land(*values))} == greatest


def test_of_two_totals_through_the_same_offset_the_later_one_stays() -> None:
    (row,) = rows(land(rollup_value(5, calls=1), rollup_value(5, calls=2)))
    assert row["calls"] == 2


@pytest.mark.parametrize(
    "other",
    [
        {"source_log": "log-2"},
        {"source_partition": 1},
        {"minute": NOON + timedelta(minutes=1)},
        {"correction_block": 0},
        {"dimensions": {"service": "api", "team": "other"}},
    ],
)
def test_totals_of_another_key_are_rows_of_their_own(other: dict[str, Any]) -> None:
    assert len(rows(land(rollup_value(9), rollup_value(1, **other)))) == 2


def test_a_topic_of_tombstones_makes_no_insert() -> None:
    assert land(None, None) == Encoded((), ())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b"\xff\xfe", Reason.NOT_JSON),
        (b"[]", Reason.INVALID_VALUE),
        (changed(calls=-1), Reason.INVALID_VALUE),
        (changed(calls=2**63), Reason.INVALID_VALUE),
        (changed(source_partition=2**31), Reason.INVALID_VALUE),
        (changed(cost_usd=0.1), Reason.INVALID_VALUE),
        (changed(cost_usd="0.0000000000001"), Reason.INVALID_VALUE),
        (changed(cost_usd="NaN"), Reason.INVALID_VALUE),
        (changed(cost_usd="1" + "0" * 26), Reason.INVALID_VALUE),
        (changed(cost_usd_by_bucket={"input": "free"}), Reason.INVALID_VALUE),
        (changed(minute="2026-03-04T12:00:00"), Reason.INVALID_VALUE),
        (changed(minute="2026-03-04T12:00:00.5Z"), Reason.INVALID_VALUE),
    ],
)
def test_what_is_no_rollup_is_undecodable_and_does_not_stop_its_neighbours(value: bytes, reason: Reason) -> None:
    encoded = land(rollup_value(calls=1), value, rollup_value(calls=2, source_partition=1))
    assert [row["calls"] for row in rows(encoded)] == [1, 2]
    assert [(bad.record.offset, bad.reason) for bad in encoded.undecodable] == [(1, reason)]


@pytest.mark.parametrize(
    "value",
    [changed(dimensions={"planet": "mars"}), changed(tokens={"smell": 1}), changed(cost_usd_by_bucket={"smell": "1"})],
)
def test_a_dimension_or_bucket_without_a_column_is_refused_not_left_out(value: bytes) -> None:
    assert land(value).inserts == ()
    assert len(land(value).undecodable) == 1


def test_a_later_writers_field_is_left_out() -> None:
    assert len(rows(land(changed(novelty=1)))) == 1


# Hypothesis takes the bounds without a zone.
@given(st.datetimes(EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None), timezones=st.just(UTC)))
def test_event_times_are_exact_to_the_microsecond(time: datetime) -> None:
    (row,) = rows(land(rollup_value(first_event_at=time)))
    assert row["first_event_at"] == time


def test_the_fast_reader_takes_what_the_contract_writes_by_default() -> None:
    required = {name for name, field in CostRollup.model_fields.items() if field.is_required()}
    least = make_rollup().model_dump_json(include=required).encode()
    (row,) = rows(land(least))
    assert row["correction_block"] == CostRollup.model_fields["correction_block"].default
