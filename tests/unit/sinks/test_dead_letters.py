"""Dead letters keep the original bytes, and what no sink can read becomes one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from spendstream.schemas.dead_letter import Reason
from spendstream.sinks.encoders import DeadLetterEncoder, Undecodable, undecodable_insert
from tests.unit.sinks.make import NOON, FakeRecord, dead_letter_value, read_body, records


@pytest.mark.parametrize("original", [b"", b"{}", b"\x00\xff\xfe", "é".encode()])
def test_the_original_bytes_are_kept(original: bytes) -> None:
    (insert,) = DeadLetterEncoder().encode(records([dead_letter_value(7, original)])).inserts
    (row,) = read_body(insert.body).to_pylist()
    assert row["original"] == original
    assert (row["topic"], row["source_log"], row["partition"], row["offset"]) == ("llm.usage.v1", "log-1", 0, 7)
    assert (row["reason"], row["recorded_at"]) == ("not_json", NOON)


def test_what_could_not_be_read_is_empty_and_a_missing_key_is_null() -> None:
    (insert,) = DeadLetterEncoder().encode(records([dead_letter_value()])).inserts
    (row,) = read_body(insert.body).to_pylist()
    assert (row["field"], row["event_id"], row["service"], row["key"]) == ("", "", "", None)


@pytest.mark.parametrize("value", [b"", b"noise", b"[]", b"{}", b"\xff"])
def test_a_dead_letter_that_is_none_becomes_one_of_its_own_topic(value: bytes) -> None:
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
def test_any_kafka_timestamp_becomes_a_time_that_the_table_takes(timestamp_ms: int, expected: datetime) -> None:
    insert = undecodable_insert([Undecodable(FakeRecord(b"x", timestamp=timestamp_ms), Reason.NOT_JSON, "")])
    assert read_body(insert.body)["recorded_at"].to_pylist() == [expected]
