"""One door for all providers, and an event that is ready to publish."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spendstream.adapters import PROVIDERS, MissingUsage, UnknownProvider, usage_fields
from spendstream.adapters.counts import Counts
from spendstream.adapters.event import as_record, mint_event_id, usage_event
from spendstream.schemas.usage import UsageEvent

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CHAT: dict[str, Any] = {
    "id": "chatcmpl-7",
    "model": "gpt-5-2025-08-07",
    "usage": {"prompt_tokens": 1_000, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 400}},
}


def test_every_field_that_an_adapter_returns_is_an_events() -> None:
    for provider, shapes in PROVIDERS.items():
        for shape in shapes:
            assert shape.buckets(Counts(provider, {}), {}).keys() <= UsageEvent.model_fields.keys()


def test_an_unknown_provider_is_told_the_closest_name() -> None:
    with pytest.raises(UnknownProvider, match="did you mean 'anthropic'"):
        usage_fields("antropic", CHAT)


def test_an_object_that_is_no_mapping_is_told_to_dump_itself() -> None:
    with pytest.raises(MissingUsage, match="model_dump"):
        usage_fields("openai", object())  # type: ignore[arg-type]


def test_an_event_has_what_the_response_says_and_what_the_caller_adds() -> None:
    event = usage_event(
        "openai",
        CHAT,
        service="search",
        model="gpt-5",
        occurred_at=NOON,
        team="growth",
        tags={"ab": "b"},
        provider_cost=Decimal("0.0125"),
    )
    assert event["occurred_at"] == "2026-01-31T12:00:00Z"
    assert UUID(event.pop("event_id")).version == 7
    assert event == {
        "occurred_at": "2026-01-31T12:00:00Z",
        "service": "search",
        "provider": "openai",
        "model_requested": "gpt-5",
        "model_served": "gpt-5-2025-08-07",
        "provider_response_id": "chatcmpl-7",
        "input_tokens": 600,
        "cache_read_tokens": 400,
        "output_tokens": 300,
        "team": "growth",
        "tags": {"ab": "b"},
        "provider_cost": "0.0125",
    }


def test_what_the_caller_states_wins_over_the_response() -> None:
    # A batch's results say "default": only the caller knows that they came from a batch.
    event = usage_event("openai", CHAT | {"service_tier": "default"}, service="search", service_tier="batch")
    assert event["service_tier"] == "batch"


def test_bedrock_states_no_model_so_the_requested_one_is_used_and_its_latency_kept() -> None:
    response = {"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}, "metrics": {"latencyMs": 840}}
    event = usage_event("aws", response, service="s", model="amazon.nova-pro-v1:0")
    assert UsageEvent.model_validate(event).model == "amazon.nova-pro-v1:0"
    assert event["latency_ms"] == 840


def test_a_field_that_events_do_not_have_is_told_the_closest() -> None:
    with pytest.raises(TypeError, match="no field 'custommer'; did you mean 'customer'"):
        usage_event("openai", CHAT, service="s", custommer="acme")


def test_a_value_that_the_event_refuses_is_refused_at_the_producer() -> None:
    with pytest.raises(ValidationError, match="attempt"):
        usage_event("openai", CHAT, service="s", attempt=0)


def test_a_record_is_keyed_by_the_task_so_that_its_retries_meet() -> None:
    first = usage_event("openai", CHAT, service="s", task_id="t-1")
    again = usage_event("openai", CHAT, service="s", task_id="t-1", attempt=2)
    (key, value), (key_again, _) = as_record(first), as_record(again)
    assert key == key_again == b"t-1"
    assert UsageEvent.model_validate_json(value).input_tokens == 600
    assert first["event_id"] != again["event_id"]


def test_ids_sort_by_the_time_they_were_minted() -> None:
    later = datetime(2026, 1, 31, 12, 0, 0, 1_000, tzinfo=UTC)
    assert mint_event_id(NOON) < mint_event_id(later)
    assert len({mint_event_id(NOON) for _ in range(1_000)}) == 1_000


@st.composite
def chat_usage(draw: st.DrawFn) -> dict[str, Any]:
    prompt, completion = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    cached, audio = draw(st.integers(0, prompt)), draw(st.integers(0, prompt))
    image = draw(st.integers(0, prompt - audio))
    reasoning = draw(st.integers(0, completion))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": audio, "image_tokens": image},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


@given(chat_usage())
def test_buckets_of_any_consistent_usage_sum_to_the_total(usage: dict[str, Any]) -> None:
    fields = usage_fields("openai", usage)
    counts = [n for field, n in fields.items() if field.endswith("_tokens") and isinstance(n, int)]
    assert sum(counts) == usage["total_tokens"]
    assert min(counts) >= 0
