"""Priced calls land as they were sent, few or many to an insert."""

from __future__ import annotations

import pyarrow as pa
import pytest

from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.priced import PRICED_SCHEMA
from spendstream.sinks.encoders import CallEncoder, read_priced
from tests.unit.sinks.make import ipc, priced_calls, read_body, records


def test_a_lone_stream_is_passed_on_as_it_came() -> None:
    value = ipc(priced_calls(3))
    encoded = CallEncoder().encode(records([value]))
    (insert,) = encoded.inserts
    assert insert.body is value
    assert (insert.table, insert.rows) == ("calls", 3)
    assert insert.columns == tuple(PRICED_SCHEMA.names)


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
def test_what_is_no_table_of_calls_is_undecodable_and_does_not_stop_its_neighbours(value: bytes) -> None:
    encoded = CallEncoder().encode(records([ipc(priced_calls(1)), value, ipc(priced_calls(1))]))
    assert [insert.rows for insert in encoded.inserts] == [2]
    (bad,) = encoded.undecodable
    assert bad.record.offset == 1
    assert bad.reason is Reason.INVALID_VALUE


def test_a_missing_required_column_is_named() -> None:
    value = ipc(priced_calls(1).drop_columns(["team"]))
    (bad,) = CallEncoder().encode(records([value])).undecodable
    assert "team" in bad.message


def test_nulls_in_a_required_column_are_refused() -> None:
    table = priced_calls(2)
    place = table.schema.get_field_index("attempt")
    table = table.set_column(place, "attempt", pa.array([1, None], pa.int32()))
    with pytest.raises(ValueError, match="attempt"):
        read_priced(ipc(table))


def test_a_later_writers_column_is_left_out_and_an_absent_optional_one_is_null() -> None:
    table = priced_calls(2).drop_columns(["latency_ms"]).append_column("novelty", pa.array([1, 2]))
    encoded = read_priced(ipc(table))
    assert encoded.schema.equals(PRICED_SCHEMA)
    assert encoded["latency_ms"].null_count == 2


def test_unknown_cost_stays_null() -> None:
    values = [ipc(priced_calls(1, cost_usd=None)), ipc(priced_calls(1))]
    (insert,) = CallEncoder().encode(records(values)).inserts
    assert read_body(insert.body)["cost_usd"].null_count == 1
