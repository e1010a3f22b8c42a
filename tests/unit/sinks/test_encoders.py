"""Records become exact rows: calls as sent, the last total of each key; unreadable records become dead letters."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS, cost_column, tokens_field
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.priced import DEFAULTS, PRICED_SCHEMA, REQUIRED
from spendstream.schemas.rate_card_record import RateCardRecord, RateStep
from spendstream.schemas.rollup import DIMENSIONS, CostRollup
from spendstream.schemas.usage import EARLIEST, LATEST
from spendstream.sinks.calls import CallEncoder, read_priced
from spendstream.sinks.encoders import (
    DeadLetterEncoder,
    Encoded,
    RateCardEncoder,
    RollupEncoder,
    Undecodable,
    undecodable_insert,
)
from tests.unit.sinks.make import (
    NOON,
    FakeRecord,
    dead_letter_value,
    ipc,
    make_rollup,
    priced_calls,
    read_body,
    records,
    rollup_value,
)


def test_a_single_stream_is_passed_on_unchanged() -> None:
    value = ipc(priced_calls(3))
    encoded = CallEncoder().encode(records([value]))
    (insert,) = encoded.inserts
    assert insert.body is value
    assert (insert.table, insert.rows) == ("calls", 3)
    assert set(insert.columns) == set(PRICED_SCHEMA.names)


def test_a_stream_without_some_columns_is_passed_on_unchanged() -> None:
    value = ipc(priced_calls(3).drop_columns(sorted(DEFAULTS)))
    (insert,) = CallEncoder().encode(records([value])).inserts
    assert insert.body is value
    assert set(insert.columns) == REQUIRED


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_a_column_that_one_of_two_streams_leaves_out_has_its_default(name: str) -> None:
    whole, bare = priced_calls(2), priced_calls(1).drop_columns(sorted(DEFAULTS))
    (insert,) = CallEncoder().encode(records([ipc(whole.select([*sorted(REQUIRED), name])), ipc(bare)])).inserts
    assert set(insert.columns) == REQUIRED | {name}
    assert read_body(insert.body)[name].to_pylist() == [*whole[name].to_pylist(), DEFAULTS[name]]


def test_small_streams_share_an_insert_and_keep_every_row() -> None:
    tables = [priced_calls(2, team=["a", "b"]), priced_calls(3, team=["c", "a", "c"])]
    (insert,) = CallEncoder().encode(records([ipc(table) for table in tables])).inserts
    encoded = read_body(insert.body)
    assert insert.rows == 5
    assert encoded["team"].to_pylist() == ["a", "b", "c", "a", "c"]
    assert encoded["event_id"].to_pylist() == pa.concat_tables(tables)["event_id"].to_pylist()


def test_streams_that_share_an_insert_share_one_dictionary_a_column() -> None:
    values = [ipc(priced_calls(1, team=team)) for team in ("a", "b", "c")]
    (insert,) = CallEncoder().encode(records(values)).inserts
    dictionaries = [chunk.dictionary.to_pylist() for chunk in read_body(insert.body)["team"].chunks]
    assert dictionaries == [["a", "b", "c"]] * 3


def test_a_stream_of_several_batches_is_not_passed_on_because_their_dictionaries_may_differ() -> None:
    table = pa.concat_tables([priced_calls(1, team="a"), priced_calls(1, team="b")])
    value = ipc(table)
    (insert,) = CallEncoder().encode(records([value])).inserts
    assert insert.body != value
    assert read_body(insert.body)["team"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(("max_rows", "expected"), [(6, [6]), (5, [4, 2])])
def test_an_insert_takes_streams_until_the_next_would_exceed_its_rows(max_rows: int, expected: list[int]) -> None:
    values = [ipc(priced_calls(2)) for _ in range(3)]
    assert [insert.rows for insert in CallEncoder(max_rows).encode(records(values)).inserts] == expected


def test_a_stream_above_the_limit_is_an_insert_of_its_own() -> None:
    values = [ipc(priced_calls(n)) for n in (1, 50, 1)]
    assert [insert.rows for insert in CallEncoder(10).encode(records(values)).inserts] == [1, 50, 1]


def test_streams_without_rows_and_tombstones_make_no_insert() -> None:
    assert CallEncoder().encode(records([None, ipc(priced_calls(0)), ipc(PRICED_SCHEMA.empty_table())])).inserts == ()


def damaged() -> bytes:
    """A stream whose only index points beyond its dictionary."""
    table = priced_calls(1)
    place = table.schema.get_field_index("team")
    bad = pa.DictionaryArray.from_arrays(pa.array([7], pa.int32()), pa.array(["a"]), safe=False)
    return ipc(table.set_column(place, PRICED_SCHEMA.field("team"), bad))


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"\xff" * 100, ipc(priced_calls(3))[:-400], ipc(pa.table({"a": [1]})), damaged()],
    ids=["empty", "json", "noise", "truncated", "another table", "index out of range"],
)
def test_an_invalid_table_of_calls_is_undecodable_and_does_not_stop_the_others(value: bytes) -> None:
    encoded = CallEncoder().encode(records([ipc(priced_calls(1)), value, ipc(priced_calls(1))]))
    assert [insert.rows for insert in encoded.inserts] == [2]
    (bad,) = encoded.undecodable
    assert bad.record.offset == 1
    assert bad.reason is Reason.INVALID_VALUE


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_required_column_is_named(name: str) -> None:
    value = ipc(priced_calls(1).drop_columns([name]))
    (bad,) = CallEncoder().encode(records([value])).undecodable
    assert name in bad.message


def test_nulls_in_a_required_column_are_refused() -> None:
    table = priced_calls(2)
    place = table.schema.get_field_index("attempt")
    table = table.set_column(place, "attempt", pa.array([1, None], pa.int32()))
    with pytest.raises(ValueError, match="attempt"):
        read_priced(ipc(table))


def test_a_later_writers_column_is_left_out() -> None:
    value = ipc(priced_calls(2).append_column("novelty", pa.array([1, 2])))
    assert read_priced(value).schema.equals(PRICED_SCHEMA)
    (insert,) = CallEncoder().encode(records([value])).inserts
    assert "novelty" not in read_body(insert.body).schema.names


def test_unknown_cost_stays_null() -> None:
    values = [ipc(priced_calls(1, cost_usd=None)), ipc(priced_calls(1))]
    (insert,) = CallEncoder().encode(records(values)).inserts
    assert read_body(insert.body)["cost_usd"].null_count == 1


pico_dollars = st.integers(0, 10**30)


def encode(*values: bytes | None) -> Encoded:
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
    (row,) = rows(encode(rollup.model_dump_json().encode()))
    nested = ("dimensions", "tokens", "cost_usd_by_bucket")
    known = {name: value for name, value in rollup if name not in nested}
    known |= rollup.dimensions
    known |= {tokens_field(bucket): count for bucket, count in rollup.tokens.items()}
    known |= {cost_column(bucket): cost for bucket, cost in rollup.cost_usd_by_bucket.items()}
    assert row == known


def test_absent_dimensions_are_empty_and_absent_buckets_zero() -> None:
    (row,) = rows(encode(rollup_value(dimensions={"service": "api"}, tokens={}, cost_usd_by_bucket={})))
    assert [row[name] for name in DIMENSIONS] == ["api"] + [""] * (len(DIMENSIONS) - 1)
    assert {row[tokens_field(bucket)] for bucket in TOKEN_BUCKETS} == {0}
    assert {row[cost_column(bucket)] for bucket in COST_BUCKETS} == {Decimal(0)}


@given(pico_dollars)
def test_money_is_exact_to_the_pico_dollar(pusd: int) -> None:
    amount = Decimal(pusd).scaleb(-12)
    (row,) = rows(encode(rollup_value(cost_usd=amount)))
    assert row["cost_usd"] == amount


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 5)), min_size=1))
def test_only_the_total_that_absorbed_most_of_each_key_becomes_a_row(written: list[tuple[str, int]]) -> None:
    values = [rollup_value(through, dimensions={"service": service}) for service, through in written]
    greatest: dict[str, int] = {}
    for service, through in written:
        greatest[service] = max(through, greatest.get(service, 0))
    assert {row["service"]: row["through_offset"] for row in rows(encode(*values))} == greatest


def test_the_later_of_two_totals_through_the_same_offset_stays() -> None:
    (row,) = rows(encode(rollup_value(5, calls=1), rollup_value(5, calls=2)))
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
    assert len(rows(encode(rollup_value(9), rollup_value(1, **other)))) == 2


def test_a_topic_of_tombstones_makes_no_insert() -> None:
    assert encode(None, None) == Encoded((), ())


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
def test_an_invalid_rollup_is_undecodable_and_does_not_stop_the_others(value: bytes, reason: Reason) -> None:
    encoded = encode(rollup_value(calls=1), value, rollup_value(calls=2, source_partition=1))
    assert [row["calls"] for row in rows(encoded)] == [1, 2]
    assert [(bad.record.offset, bad.reason) for bad in encoded.undecodable] == [(1, reason)]


@pytest.mark.parametrize(
    "value",
    [changed(dimensions={"planet": "mars"}), changed(tokens={"smell": 1}), changed(cost_usd_by_bucket={"smell": "1"})],
)
def test_a_dimension_or_bucket_without_a_column_is_refused_not_left_out(value: bytes) -> None:
    assert encode(value).inserts == ()
    assert len(encode(value).undecodable) == 1


def test_a_later_writers_field_is_left_out() -> None:
    assert len(rows(encode(changed(novelty=1)))) == 1


# Hypothesis takes the bounds without a zone.
@given(st.datetimes(EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None), timezones=st.just(UTC)))
def test_event_times_are_exact_to_the_microsecond(time: datetime) -> None:
    (row,) = rows(encode(rollup_value(first_event_at=time)))
    assert row["first_event_at"] == time


def test_the_fast_reader_takes_what_the_contract_writes_by_default() -> None:
    required = {name for name, field in CostRollup.model_fields.items() if field.is_required()}
    least = make_rollup().model_dump_json(include=required).encode()
    (row,) = rows(encode(least))
    assert row["correction_block"] == CostRollup.model_fields["correction_block"].default


@pytest.mark.parametrize("original", [b"", b"{}", b"\x00\xff\xfe", "é".encode()])
def test_the_original_bytes_are_kept(original: bytes) -> None:
    (insert,) = DeadLetterEncoder().encode(records([dead_letter_value(7, original)])).inserts
    (row,) = read_body(insert.body).to_pylist()
    assert row["original"] == original
    assert (row["topic"], row["source_log"], row["partition"], row["offset"]) == ("llm.usage.v1", "log-1", 0, 7)
    assert (row["reason"], row["recorded_at"]) == ("not_json", NOON)


def test_an_unreadable_field_is_empty_and_a_missing_key_is_null() -> None:
    (insert,) = DeadLetterEncoder().encode(records([dead_letter_value()])).inserts
    (row,) = read_body(insert.body).to_pylist()
    assert (row["field"], row["event_id"], row["service"], row["key"]) == ("", "", "", None)


@pytest.mark.parametrize("value", [b"", b"noise", b"[]", b"{}", b"\xff"])
def test_an_invalid_dead_letter_becomes_a_dead_letter_of_its_own_topic(value: bytes) -> None:
    encoded = DeadLetterEncoder().encode([FakeRecord(value, topic="llm.usage.dlq.v1", offset=3)])
    assert encoded.inserts == ()
    (row,) = read_body(undecodable_insert(encoded.undecodable).body).to_pylist()
    assert (row["topic"], row["offset"], row["original"]) == ("llm.usage.dlq.v1", 3, value)


def test_two_lives_of_a_topic_keep_two_rows_for_one_offset() -> None:
    lives = [FakeRecord(b"x", timestamp=timestamp) for timestamp in (1_000, 2_000)]
    insert = undecodable_insert([Undecodable(record, Reason.NOT_JSON, "not JSON") for record in lives])
    assert len({row["source_log"] for row in read_body(insert.body).to_pylist()}) == 2


@pytest.mark.parametrize(
    ("timestamp_ms", "expected"),
    [
        (-1, datetime(1970, 1, 1, tzinfo=UTC)),
        (2**63 - 1, datetime(2100, 1, 1, tzinfo=UTC)),
        (1_500, datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
    ],
)
def test_any_kafka_timestamp_becomes_a_time_that_the_table_accepts(timestamp_ms: int, expected: datetime) -> None:
    insert = undecodable_insert([Undecodable(FakeRecord(b"x", timestamp=timestamp_ms), Reason.NOT_JSON, "")])
    assert read_body(insert.body)["recorded_at"].to_pylist() == [expected]


def card_value(card_id: str = "c-1", **fields: Any) -> bytes:
    steps = (
        RateStep(above_input_tokens=0, usd_per_mtok={"input": Decimal(3)}, usd_per_request=Decimal("0.01")),
        RateStep(above_input_tokens=200_000, usd_per_mtok={"input": Decimal("6.000000000000000001")}),
    )
    if "usd_per_request" in fields:
        fee = {"usd_per_request": fields.pop("usd_per_request")}
        steps = (steps[0].model_copy(update=fee), steps[1].model_copy(update=fee))
    given = {"source": "custom", "provider": "acme", "model": "m-1", "service_tier": "standard", "steps": steps}
    return RateCardRecord(rate_card_id=card_id, **{**given, **fields}).model_dump_json().encode()


def test_a_rate_card_is_one_row_with_every_rate_to_the_last_digit_and_the_record_as_it_came() -> None:
    value = card_value(valid_from=NOON).replace(b"{", b'{"added_later": 1, ', 1)
    (insert,) = RateCardEncoder().encode(records([value])).inserts
    (row,) = read_body(insert.body).to_pylist()
    assert (insert.table, insert.rows) == ("rate_cards", 1)
    assert row["record"].encode() == value
    assert (row["rate_card_id"], row["provider"], row["deployment"], row["valid_from"]) == ("c-1", "acme", "", NOON)
    rates = {(rate["item"], rate["above_input_tokens"]): rate for rate in row["rates"]}
    assert rates["input", 200_000]["usd"] == Decimal("6.000000000000000001")
    assert rates["input", 0]["up_to_input_tokens"] == 200_000
    assert rates["input", 200_000]["up_to_input_tokens"] is None
    assert (rates["request", 0]["per"], rates["request", 0]["unit"]) == (1, "requests")
    assert rates["input", 0]["per"] == 1_000_000


def test_a_rate_finer_than_its_column_is_stated_for_a_million_and_kept_in_the_record() -> None:
    value = card_value(usd_per_request=Decimal("0.0000000000000000025"))
    (row,) = read_body(RateCardEncoder().encode(records([value])).inserts[0].body).to_pylist()
    fees = {(rate["usd"], rate["per"]) for rate in row["rates"] if rate["item"] == "request"}
    assert fees == {(Decimal("0.0000000000025"), 1_000_000)}
    assert '"0.0000000000000000025"' in row["record"]


def test_a_rate_card_that_comes_twice_is_one_row() -> None:
    values = [card_value("c-1"), None, card_value("c-2"), card_value("c-1")]
    (insert,) = RateCardEncoder().encode(records(values)).inserts
    assert sorted(read_body(insert.body)["rate_card_id"].to_pylist()) == ["c-1", "c-2"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"noise", Reason.NOT_JSON),
        (b"\xff", Reason.NOT_JSON),
        (b"{}", Reason.INVALID_VALUE),
        (card_value().replace(b'"steps":[', b'"steps":[{},'), Reason.INVALID_VALUE),
        (card_value().replace(b'"6.0', b'"6' + b"0" * 30 + b".0"), Reason.INVALID_VALUE),
    ],
    ids=["noise", "not text", "empty", "a step without rates", "larger than the column"],
)
def test_an_invalid_rate_card_is_undecodable_and_does_not_stop_the_others(value: bytes, reason: Reason) -> None:
    encoded = RateCardEncoder().encode(records([card_value("c-1"), value, card_value("c-2")]))
    assert [insert.rows for insert in encoded.inserts] == [2]
    (bad,) = encoded.undecodable
    assert (bad.record.offset, bad.reason) == (1, reason)
    assert bad.message.startswith("not a rate card: ")
