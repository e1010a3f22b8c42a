"""Every reason code can be reached, names the field at fault, and says what is wrong and how to fix it."""

from __future__ import annotations

from typing import Any

import pytest

from spendstream.core import decode as decoding
from spendstream.core.decode import decode
from spendstream.schemas.dead_letter import Reason
from tests.unit.log import encode, make_usage_event


def event(**fields: Any) -> bytes:
    return encode(make_usage_event(1, **fields))


def without(name: str) -> bytes:
    return encode({k: v for k, v in make_usage_event(1).items() if k != name})


REJECTED = [
    (None, Reason.EMPTY, None, "publish a usage event"),
    (b"", Reason.EMPTY, None, "publish a usage event"),
    (b"{", Reason.NOT_JSON, None, "Invalid JSON"),
    (b"\xff\xfe", Reason.NOT_JSON, None, "Invalid JSON"),
    (b"\xef\xbb\xbf" + event(), Reason.NOT_JSON, None, "Invalid JSON"),
    (b"[" * 5000, Reason.NOT_JSON, None, "recursion limit"),
    (b"[]", Reason.NOT_AN_OBJECT, None, "publish {...}"),
    (b"null", Reason.NOT_AN_OBJECT, None, "publish {...}"),
    (b'"text"', Reason.NOT_AN_OBJECT, None, "publish {...}"),
    (b" " * 1_000_001, Reason.TOO_LARGE, None, "at most 1000000"),
    (without("event_id"), Reason.MISSING_FIELD, "event_id", "Field required"),
    (without("occurred_at"), Reason.MISSING_FIELD, "occurred_at", "Field required"),
    (without("service"), Reason.MISSING_FIELD, "service", "Field required"),
    (without("provider"), Reason.MISSING_FIELD, "provider", "Field required"),
    (without("model_served"), Reason.MISSING_FIELD, "model_requested", "give model_served or model_requested"),
    (event(input_tokens=None, output_tokens=None), Reason.MISSING_FIELD, "input_tokens", "0 if none were"),
    (event(event_id=5), Reason.WRONG_TYPE, "event_id", "e.g. 0192f0c1-"),
    (event(event_id="{0192f0c1-7e1c-7d3a-9f51-000000000001}"), Reason.WRONG_TYPE, "event_id", "should be a UUID"),
    (event(event_id="0" * 32), Reason.INVALID_VALUE, "event_id", "mint an id for each call"),
    (event(event_id="00000000-0000-0000-0000-000000000000"), Reason.INVALID_VALUE, "event_id", "nil UUID"),
    (event(occurred_at=1772625600), Reason.WRONG_TYPE, "occurred_at", "RFC 3339"),
    (event(occurred_at="2026-03-04T12:00:00"), Reason.WRONG_TYPE, "occurred_at", "with a zone"),
    (event(occurred_at="2019-12-31T23:59:59Z"), Reason.OUT_OF_RANGE, "occurred_at", "greater than or equal to 2020"),
    (event(occurred_at="2100-01-01T00:00:00Z"), Reason.OUT_OF_RANGE, "occurred_at", "less than 2100"),
    (event(input_tokens="5"), Reason.WRONG_TYPE, "input_tokens", "valid integer; got '5'"),
    (event(input_tokens=5.0), Reason.WRONG_TYPE, "input_tokens", "valid integer; got 5.0"),
    (event(input_tokens=True), Reason.WRONG_TYPE, "input_tokens", "got True"),
    (event(input_tokens=-1), Reason.OUT_OF_RANGE, "input_tokens", "greater than or equal to 0; got -1"),
    (event(input_tokens=100_000_000_001), Reason.OUT_OF_RANGE, "input_tokens", "less than or equal to 100000000000"),
    (event(input_tokens=10**40), Reason.OUT_OF_RANGE, "input_tokens", "less than or equal to"),
    (event(service=""), Reason.OUT_OF_RANGE, "service", "at least 1 character"),
    (event(team="x" * 257), Reason.OUT_OF_RANGE, "team", "at most 256"),
    (event(team=7), Reason.WRONG_TYPE, "team", "valid string; got 7"),
    (event()[:-1] + b',"feature":"\\u0000"}', Reason.INVALID_VALUE, "feature", "NUL"),
    (event(service_tier="default"), Reason.INVALID_VALUE, "service_tier", "'flex', 'priority' or 'fast'"),
    (event(currency="usd"), Reason.INVALID_VALUE, "currency", "^[A-Z]{3}$"),
    (event(provider_cost="1000000.1"), Reason.OUT_OF_RANGE, "provider_cost", "less than or equal to 1000000"),
    (event(gpu_seconds=-1), Reason.OUT_OF_RANGE, "gpu_seconds", "greater than or equal to 0"),
    (event(attempt=0), Reason.OUT_OF_RANGE, "attempt", "greater than or equal to 1"),
    (event(tags={f"k{i}": "" for i in range(33)}), Reason.OUT_OF_RANGE, "tags", "at most 32"),
    (event(tags={"a": 1}), Reason.WRONG_TYPE, "tags.a", "valid string"),
    (event(prompt_tools_tokens=601), Reason.INCONSISTENT_USAGE, "prompt_parts", "601 tokens, more than"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "reason", "field", "message"), REJECTED)
@pytest.mark.parametrize("max_one_by_one", [0, 200])
def test_a_record_is_rejected_for_a_reason_and_by_its_field(
    monkeypatch: pytest.MonkeyPatch,
    max_one_by_one: int,
    value: bytes | None,
    reason: Reason,
    field: str | None,
    message: str,
) -> None:
    monkeypatch.setattr(decoding, "MAX_ONE_BY_ONE", max_one_by_one)
    rejection = decode([value]).rejected[0]
    assert (rejection.reason, rejection.field) == (reason, field)
    assert message in rejection.message
    assert field is None or rejection.message.startswith(f"{field}: ")


def test_every_reason_of_the_decoder_is_in_the_table() -> None:
    assert {reason for _, reason, _, _ in REJECTED} == set(Reason) - {Reason.OCCURRED_IN_FUTURE, Reason.INTERNAL_ERROR}


def test_a_rejection_names_the_sender_if_the_record_states_it() -> None:
    rejection = decode([event(input_tokens=-1)]).rejected[0]
    assert rejection.event_id == make_usage_event(1)["event_id"]
    assert rejection.service == "api"


def test_further_errors_are_counted() -> None:
    assert decode([event(input_tokens=-1, attempt=0)]).rejected[0].message.endswith("(and 1 more error)")


@pytest.mark.parametrize("record", [event()[:-1] + b',"attempt":' + b"9" * 4000 + b"}", event(team="x" * 10_000)])
def test_a_message_stays_short_whatever_the_value(record: bytes) -> None:
    assert len(decode([record]).rejected[0].message) < 300
