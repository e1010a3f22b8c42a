"""The generated JSON Schemas are those of the models, and say what the contract says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from spendstream.core.pricing import Unpriced
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import DeadLetter, Reason
from spendstream.schemas.generate import FOLDER, documents
from spendstream.schemas.priced import PRICED_SCHEMA, UNPRICED_REASONS
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS, DIMENSIONS
from spendstream.schemas.usage import UsageEvent
from tests.unit.log import encode, event_id, make_usage_event


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_checked_in_schema_is_the_models(path: Any) -> None:
    assert path.read_text() == documents()[path], "run `make schemas`"


def test_no_schema_is_left_of_a_model_that_is_gone() -> None:
    assert set(FOLDER.glob("*.json")) == set(documents())


def test_the_usage_schema_requires_what_the_issue_of_an_event_must_say() -> None:
    schema = json.loads((FOLDER / f"{topics.USAGE}.json").read_text())
    assert set(schema["required"]) == {"event_id", "occurred_at", "provider", "service"}


def test_the_priced_schema_lists_every_column() -> None:
    columns = json.loads((FOLDER / f"{topics.PRICED}.json").read_text())["columns"]
    assert [column["name"] for column in columns] == PRICED_SCHEMA.names


def test_every_reason_of_a_missing_price_has_its_own_word() -> None:
    assert [code.value for code in Unpriced] == list(range(len(UNPRICED_REASONS)))
    assert len(set(UNPRICED_REASONS)) == len(UNPRICED_REASONS)


def test_every_topic_has_a_version() -> None:
    assert all(name.rsplit(".v", 1)[1].isdigit() for name in topics.ALL)
    assert len(set(topics.ALL)) == len(topics.ALL)


def test_default_dimensions_leave_out_what_is_many_or_rarely_stated() -> None:
    asked_for = {"customer", "user", "inference_geo", "capacity", "account", "project", "credential", "agent"}
    assert set(DIMENSIONS) - set(DEFAULT_DIMENSIONS) == asked_for


@pytest.mark.parametrize("nil", ["00000000-0000-0000-0000-000000000000", "0" * 32])
def test_the_nil_uuid_is_nobodys_event(nil: str) -> None:
    with pytest.raises(ValidationError, match="mint an id for each call"):
        UsageEvent.model_validate_json(encode(make_usage_event(1, event_id=nil)))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sk-proj-0123456789abcdefXYZ9", "…XYZ9"),
        ("AIzaSyA0123456789abcdefghijk", "…hijk"),
        ("key_billing_eu", "key_billing_eu"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),  # an id: the secret is another value
        ("sk-...XYZ9", "sk-...XYZ9"),
    ],
)
def test_a_key_that_was_given_as_credential_is_cut_to_its_end(given: str, kept: str) -> None:
    assert UsageEvent.model_validate_json(encode(make_usage_event(1, credential=given))).credential == kept


def test_an_event_written_out_with_its_nulls_is_the_same_event() -> None:
    event = UsageEvent.model_validate_json(encode(make_usage_event(1)))
    assert UsageEvent.model_validate_json(event.model_dump_json()) == event
    nulls = dict.fromkeys(("attempt", "operation", "service_tier", "status", "usage_quality"))
    spelled_out = json.dumps({**make_usage_event(1), **nulls})
    assert UsageEvent.model_validate_json(spelled_out) == event


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"task_id": "t", "conversation_id": "c"}, b"t"),
        ({"conversation_id": "c"}, b"c"),
        ({}, event_id(1).encode()),
    ],
)
def test_retries_meet_in_one_partition(fields: dict[str, str], key: bytes) -> None:
    assert UsageEvent.model_validate_json(encode(make_usage_event(1, **fields))).partition_key == key


def test_a_dead_letter_keeps_the_original_bytes() -> None:
    letter = DeadLetter.model_validate(
        {
            "topic": topics.USAGE,
            "source_log": "life-1",
            "partition": 0,
            "offset": 1,
            "reason": "not_json",
            "message": "…",
            "recorded_at": "2026-03-04T12:00:00Z",
            "original": b"//4=",
        }
    )
    assert (letter.original, letter.reason) == (b"\xff\xfe", Reason.NOT_JSON)
    assert json.loads(letter.model_dump_json())["original"].strip() == "//4="
