"""One entry point for all providers, and an event that is ready to publish."""

import json
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from genai_prices.data import providers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spendstream.adapters import (
    PROVIDERS,
    MissingUsage,
    SeveralCalls,
    UnknownProvider,
    as_record,
    mint_event_id,
    usage_event,
    usage_events,
    usage_fields,
)
from spendstream.adapters.event import ALIASES, MAX_NOTE_LENGTH, MAX_NOTES, MAX_TAGS, OMITTED, SHAPES, usage_tags
from spendstream.adapters.shape import Counts, Reading
from spendstream.core.ledger import ledger_table
from spendstream.core.meter import MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.schemas.usage import UsageEvent
from tests.unit.log import LATER, NOON, Log

CHAT: dict[str, Any] = {
    "id": "chatcmpl-7",
    "model": "gpt-5-2025-08-07",
    "usage": {"prompt_tokens": 1_000, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 400}},
}


def test_adapters_return_only_fields_that_events_have() -> None:
    for provider in PROVIDERS:
        for shape in SHAPES:
            assert shape.buckets(Counts(Reading(provider), {}), {}).keys() <= UsageEvent.model_fields.keys()


def test_every_provider_that_the_price_book_knows_has_an_adapter() -> None:
    assert {provider.id for provider in providers} - PROVIDERS == set()


@pytest.mark.parametrize("alias", ALIASES)
def test_a_provider_counts_alike_under_each_of_its_names(alias: str) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    event = usage_event(alias, {"model": "m", "usage": usage}, service="s")
    assert event["provider"] == alias
    assert usage_fields(alias, {"usage": usage}) == usage_fields(ALIASES[alias], {"usage": usage})


def test_an_unknown_provider_gets_the_closest_name_suggested() -> None:
    with pytest.raises(UnknownProvider, match="did you mean 'anthropic'"):
        usage_fields("antropic", CHAT)


@pytest.mark.parametrize("odd", [object(), 7, "text", [CHAT]])
def test_what_is_neither_a_mapping_nor_an_sdks_object_is_refused(odd: object) -> None:
    with pytest.raises(MissingUsage, match="Pass the SDK's object, or a mapping"):
        usage_fields("openai", odd)


def test_an_event_has_what_the_response_states_and_what_the_caller_adds() -> None:
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
    assert event["occurred_at"] == "2026-03-04T12:00:00Z"
    assert UUID(event.pop("event_id")).version == 7
    assert event == {
        "occurred_at": "2026-03-04T12:00:00Z",
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


def test_bedrock_states_no_model_so_the_requested_one_is_priced_and_its_latency_is_kept() -> None:
    response = {"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}, "metrics": {"latencyMs": 840}}
    event = usage_event("aws", response, service="s", model="amazon.nova-pro-v1:0")
    assert UsageEvent.model_validate(event).model == "amazon.nova-pro-v1:0"
    assert event["latency_ms"] == 840


def test_a_field_that_events_do_not_have_gets_the_closest_suggested() -> None:
    with pytest.raises(TypeError, match="no field 'custommer'; did you mean 'customer'"):
        usage_event("openai", CHAT, service="s", custommer="acme")


def test_an_invalid_value_is_refused_at_the_producer() -> None:
    with pytest.raises(ValidationError, match="attempt"):
        usage_event("openai", CHAT, service="s", attempt=0)


def test_gpu_time_that_is_not_a_number_is_refused_at_the_producer_not_sent_as_absent() -> None:
    with pytest.raises(ValidationError, match="gpu_seconds"):
        usage_event("openai", CHAT, service="s", gpu_seconds=float("nan"))


def test_a_record_is_keyed_by_the_task_so_that_its_retries_meet() -> None:
    first = usage_event("openai", CHAT, service="s", task_id="t-1")
    again = usage_event("openai", CHAT, service="s", task_id="t-1", attempt=2)
    (key, value), (key_again, _) = as_record(first), as_record(again)
    assert key == key_again == b"t-1"
    assert UsageEvent.model_validate_json(value).input_tokens == 600
    assert first["event_id"] != again["event_id"]


def test_ids_sort_by_the_time_they_were_minted() -> None:
    later = NOON + timedelta(milliseconds=1)
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


WORKER_ONLY = ("msgspec", "polars", "pyarrow", "numpy", "genai_prices", "structlog", "aiokafka", "faust")


def test_a_service_imports_the_adapters_without_the_workers_dependencies() -> None:
    script = "import sys, spendstream.adapters, spendstream.schemas.usage; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "pydantic" in loaded
    assert not set(WORKER_ONLY) & set(loaded)


COUNTED: dict[str, Any] = {
    "id": "chatcmpl-7",
    "model": "gpt-4o",
    "usage": {
        "prompt_tokens": 1_000,
        "completion_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 0},
        "service_tier": "default",
    },
}
KEPT = {
    "usage.prompt_tokens": "1000",
    "usage.completion_tokens": "300",
    "usage.prompt_tokens_details.cached_tokens": "400",
}


def event_of(response: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return usage_event("openai", response or COUNTED, service="search", occurred_at=NOON, **fields)


def test_the_providers_own_counts_are_kept_only_on_request() -> None:
    assert "tags" not in event_of()
    assert event_of(keep_usage=True)["tags"] == KEPT


def test_a_services_own_tags_stay_and_win() -> None:
    own = {"experiment": "b", "usage.prompt_tokens": "mine"}
    assert event_of(keep_usage=True, tags=own)["tags"] == {**KEPT, **own}


def test_kept_counts_change_no_other_field() -> None:
    plain, kept = event_of(), event_of(keep_usage=True)
    assert {**plain, "event_id": None} == {**{k: v for k, v in kept.items() if k != "tags"}, "event_id": None}


def test_counts_in_a_list_are_named_by_modality_or_else_by_position() -> None:
    of_modality = [{"modality": "TEXT", "tokenCount": 5}, {"modality": "AUDIO", "tokenCount": 7}]
    assert usage_tags({"promptTokensDetails": of_modality}) == {
        "usage.promptTokensDetails.TEXT.tokenCount": "5",
        "usage.promptTokensDetails.AUDIO.tokenCount": "7",
    }
    assert usage_tags({"iterations": [{"type": "message", "n": 1}, {"type": "message", "n": 2}]}) == {
        "usage.iterations.0.n": "1",
        "usage.iterations.1.n": "2",
    }


def test_numbers_that_no_provider_would_state_are_left_out_and_counted() -> None:
    assert usage_tags({"n": 1, "a b": 2, "\x00": 3, "m": 10**40}) == {"usage.n": "1", OMITTED: "3"}


def test_text_is_never_kept() -> None:
    usage = {"note": "a prompt", "parts": [{"type": "tell me a secret", "n": 1}, {"type": "x\n", "n": 2}], "ok": True}
    assert usage_tags(usage) == {"usage.parts.0.n": "1", "usage.parts.1.n": "2"}


@pytest.mark.parametrize(("numbers", "omitted"), [(30, None), (31, 2)])
def test_counts_that_exceed_an_events_tags_are_left_out_and_counted(numbers: int, omitted: int | None) -> None:
    """Two tags are the service's own: of 32 that leaves 30, or 29 and the number of those left out."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "inner": {f"n{i}": i + 1 for i in range(numbers - 2)}}
    tags = event_of({**COUNTED, "usage": usage}, keep_usage=True, tags={"a": "1", "b": "2"})["tags"]
    assert len(tags) == MAX_TAGS
    assert tags.get(OMITTED) == (None if omitted is None else str(omitted))
    assert tags["usage.prompt_tokens"] == "1"


@pytest.mark.parametrize(("unread", "last"), [(16, "inner.n15 16 not read"), (17, "2 more")])
def test_more_notes_than_an_event_has_room_for_are_counted(unread: int, last: str) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "inner": {f"n{i}": i + 1 for i in range(unread)}}
    notes = event_of({**COUNTED, "usage": usage})["usage_notes"]
    assert len(notes) == MAX_NOTES
    assert (notes[0], notes[-1]) == ("inner.n0 1 not read", last)


def test_a_long_note_is_cut() -> None:
    (note,) = event_of({**COUNTED, "usage": {**COUNTED["usage"], "x" * 300: 5}})["usage_notes"]
    assert len(note) == MAX_NOTE_LENGTH
    assert note.endswith("x…")


@pytest.mark.parametrize("response", [None, {}, {"id": "r-1"}, b"RIFF", object()])
def test_what_the_caller_counted_makes_an_event_where_an_answer_states_nothing(response: object) -> None:
    event = usage_event("openai", response, service="s", model="tts-1", units={"characters": 1_200})
    assert event["units"] == {"characters": 1_200}
    assert "usage_quality" not in event
    assert usage_event("vllm", response, service="s", model="m", gpu_seconds=2.5)["gpu_seconds"] == 2.5
    with pytest.raises(MissingUsage):
        usage_event("openai", response, service="s", model="tts-1", units=None)


def test_an_answer_that_states_nothing_is_refused_with_what_to_do() -> None:
    with pytest.raises(MissingUsage, match="pass what you counted"):
        usage_event("openai", {"id": "r-1"}, service="s", model="tts-1")


def test_units_that_the_caller_counted_are_added_to_those_that_the_response_states() -> None:
    response = {**CHAT, "output": [{"type": "file_search_call"}]}
    event = usage_event("openai", response, service="s", units={"storage_token_hours": 5, "file_searches": 7})
    assert event["units"] == {"file_searches": 7, "storage_token_hours": 5}


def test_a_usage_object_of_no_known_shape_is_an_event_that_names_its_numbers() -> None:
    event = usage_event("openai", {"model": "m", "usage": {"holograms": 3, "zero": 0}}, service="s")
    assert event["usage_notes"] == ["holograms 3 not read"]
    with pytest.raises(MissingUsage):
        usage_event("openai", {"model": "m", "usage": {"holograms": 0}}, service="s")


FAILED_LINES: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"custom_id": "1", "response": {"status_code": 400, "body": {"error": {}}}, "error": None}),
    ("openai", {"custom_id": "1", "response": None, "error": {"code": "batch_expired"}}),
    ("anthropic", {"custom_id": "1", "result": {"type": "errored", "error": {}}}),
    ("anthropic", {"custom_id": "1", "result": {"type": "canceled"}}),
    ("google", {"key": "1", "error": {"code": 3}}),
    ("aws", {"recordId": "1", "modelInput": {}, "error": {"errorCode": 400}}),
]


@pytest.mark.parametrize(("provider", "line"), FAILED_LINES)
def test_a_line_of_a_batch_whose_request_failed_is_no_event(provider: str, line: dict[str, Any]) -> None:
    assert usage_events(provider, line, service="s", model="m") == []
    with pytest.raises(MissingUsage, match="the call failed"):
        usage_event(provider, line, service="s", model="m")


def test_the_steps_of_the_ai_sdk_are_events_of_their_own() -> None:
    def step(sent: int, model: str) -> dict[str, Any]:
        usage = {"inputTokens": sent, "outputTokens": 5, "totalTokens": sent + 5}
        return {"usage": usage, "response": {"id": f"r-{sent}", "modelId": model}}

    total = {"inputTokens": 40, "outputTokens": 10, "totalTokens": 50}
    result = {"steps": [step(10, "gpt-5"), step(30, "gpt-5-mini")], "usage": step(30, "")["usage"], "totalUsage": total}
    events = usage_events("openai", result, service="s")
    assert [(e["input_tokens"], e["model_served"]) for e in events] == [(10, "gpt-5"), (30, "gpt-5-mini")]
    with pytest.raises(SeveralCalls, match="gpt-5, gpt-5-mini"):
        usage_event("openai", result, service="s")
    (one,) = usage_events("openai", {**result, "steps": result["steps"][:1]}, service="s")
    assert one["input_tokens"] == 10


@pytest.mark.parametrize(
    ("provider", "usage", "cost"),
    [
        ("openrouter", {"cost": 0.017558, "is_byok": False}, "0.017558"),
        ("openrouter", {"cost": 1.7558e-05}, "0.000017558"),
        ("openrouter", {"cost": 0.48312120000000003}, "0.4831212"),
        ("openrouter", {"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, "0.21"),
        ("openrouter", {"cost": 0}, "0"),
        ("x-ai", {"cost_in_usd_ticks": 127_344_000}, "0.0127344"),
        ("perplexity", {"cost": {"input_tokens_cost": 0.001, "request_cost": 0.005, "total_cost": 0.006}}, "0.006"),
        ("openrouter", {"cost": None}, None),
        ("openrouter", {"cost": -1}, None),
        ("openrouter", {"cost": float("nan")}, None),
        ("openai-compatible", {"cost": 3}, None),  # perhaps not dollars
    ],
)
def test_what_a_provider_says_it_charged_stands_beside_our_amount(
    provider: str, usage: dict[str, Any], cost: str | None
) -> None:
    event = usage_event(
        provider, {"model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1, **usage}}, service="s"
    )
    assert event.get("provider_cost") == cost
    assert event.get("currency") == (None if cost is None else "USD")
    assert "usage_quality" not in event


NAMES = st.text(max_size=3) | st.sampled_from(["n", "type", "modality", "x" * 300])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.sampled_from(["TEXT", "a b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_event_is_valid_whatever_else_a_provider_states(more: dict[str, Any]) -> None:
    made = event_of({**COUNTED, "usage": {**more, **COUNTED["usage"]}}, keep_usage=True)
    assert made["tags"].items() >= KEPT.items()


def test_the_ledger_stores_the_kept_counts_and_the_rollups_ignore_them(acme_book: PriceBook) -> None:
    log = Log()
    for keep in (False, True):
        log.append(as_record(event_of(keep_usage=keep))[1])
    meter = PartitionMeter(new_marker(0, "life-1", -1), MeterRules(), acme_book)
    meter.absorb(log.batch(), LATER)
    taken = meter.take()
    assert taken.calls is not None
    rows = ledger_table(taken.calls, partition=0, source_log="life-1").to_pylist()
    assert [json.loads(row["tags"] or "{}") for row in rows] == [{}, KEPT]
    assert len(taken.rollups) == 1
    assert "tags" not in DIMENSIONS
