"""Usage as libraries hand it on, and usage that is not in tokens alone."""

import json
from typing import Any

import pytest

from spendstream.adapters import MissingUsage, usage_event, usage_events, usage_fields
from tests.unit.adapters.doubts import fields_of, notes, units


@pytest.mark.parametrize("provider", ["anthropic", "openai", "google", "aws"])
def test_langchain_counts_the_cache_inside_the_input_for_every_provider(provider: str) -> None:
    usage = {
        "input_tokens": 350,
        "output_tokens": 240,
        "total_tokens": 590,
        "input_token_details": {"audio": 10, "cache_creation": 200, "cache_read": 100},
        "output_token_details": {"audio": 10, "reasoning": 200},
    }
    expected = {
        "input_tokens": 40,
        "cache_read_tokens": 100,
        "cache_write_tokens": 200,
        "input_audio_tokens": 10,
        "output_tokens": 30,
        "reasoning_tokens": 200,
        "output_audio_tokens": 10,
    }
    assert usage_fields(provider, usage) == expected
    metadata = {"model_name": "gpt-5", "id": "chatcmpl-7"}
    message = {"type": "ai", "id": "run-1", "usage_metadata": usage, "response_metadata": metadata}
    assert usage_fields(provider, message) == expected
    event = usage_event(provider, message, service="s")
    assert (event["model_served"], event["provider_response_id"]) == ("gpt-5", "chatcmpl-7")


def test_langchain_states_lifetimes_instead_of_the_tokens_written() -> None:
    details = {"cache_read": 0, "cache_creation": 0, "ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 50}
    usage = {"input_tokens": 300, "output_tokens": 1, "total_tokens": 301, "input_token_details": details}
    assert usage_fields("anthropic", usage) == {
        "input_tokens": 50,
        "cache_write_5m_tokens": 200,
        "cache_write_1h_tokens": 50,
        "output_tokens": 1,
    }


def test_langchain_names_the_tier_in_its_details() -> None:
    usage = {
        "input_tokens": 100,
        "output_tokens": 50,
        "total_tokens": 150,
        "input_token_details": {"flex": 60, "flex_cache_read": 40},
        "output_token_details": {"flex": 20, "flex_reasoning": 30},
    }
    assert usage_fields("openai", usage) == {
        "input_tokens": 60,
        "cache_read_tokens": 40,
        "output_tokens": 20,
        "reasoning_tokens": 30,
        "service_tier": "flex",
    }


def test_a_detail_of_langchain_that_nobody_reads_is_named() -> None:
    usage = {"input_tokens": 5, "output_tokens": 1, "input_token_details": {"cache_read": 1, "smell": 3}}
    assert notes("google", usage) == "input_token_details.smell 3 not read"
    usage = {"input_tokens": 5, "output_tokens": 1, "input_token_details": {"cache_read": 1, "video": 3}}
    assert usage_fields("google", usage)["input_video_tokens"] == 3


AI_SDK_6: dict[str, Any] = {
    "inputTokens": 1_000,
    "inputTokenDetails": {"noCacheTokens": 200, "cacheReadTokens": 700, "cacheWriteTokens": 100},
    "outputTokens": 50,
    "outputTokenDetails": {"textTokens": 20, "reasoningTokens": 30},
    "totalTokens": 1_050,
    "reasoningTokens": 30,
    "cachedInputTokens": 700,
    "raw": {"input_tokens": 200},
}


@pytest.mark.parametrize("provider", ["anthropic", "openai", "aws"])
def test_the_ai_sdk_counts_the_cache_inside_the_input_since_version_6(provider: str) -> None:
    expected = {
        "input_tokens": 200,
        "cache_read_tokens": 700,
        "cache_write_tokens": 100,
        "output_tokens": 20,
        "reasoning_tokens": 30,
    }
    assert usage_fields(provider, AI_SDK_6) == expected
    of_provider = {
        "inputTokens": {"total": 1_000, "noCache": 200, "cacheRead": 700, "cacheWrite": 100},
        "outputTokens": {"total": 50, "text": 20, "reasoning": 30},
    }
    assert usage_fields(provider, of_provider) == expected
    result = {"usage": AI_SDK_6, "response": {"modelId": "claude-sonnet-4-6", "id": "msg_1"}}
    assert usage_event(provider, result, service="s")["model_served"] == "claude-sonnet-4-6"


def test_the_ai_sdk_left_claudes_cache_beside_the_input_until_version_5() -> None:
    usage = {"inputTokens": 200, "outputTokens": 50, "totalTokens": 250, "cachedInputTokens": 700}
    written = {"anthropic": {"cacheCreationInputTokens": 100}}
    assert usage_fields("anthropic", {"usage": usage, "providerMetadata": written}) == {
        "input_tokens": 200,
        "cache_read_tokens": 700,
        "cache_write_tokens": 100,
        "output_tokens": 50,
    }
    assert notes("anthropic", usage) == "cache writes not stated: pass the result with its providerMetadata"
    assert usage_fields("openai", {**usage, "inputTokens": 900, "totalTokens": 950}) == {
        "input_tokens": 200,
        "cache_read_tokens": 700,
        "output_tokens": 50,
    }


def test_the_ai_sdks_names_of_version_4_are_read() -> None:
    usage = {"promptTokens": 10, "completionTokens": 5, "totalTokens": 15}
    assert usage_fields("openai", usage) == {"input_tokens": 10, "output_tokens": 5}


def test_cohere_bills_less_than_its_model_saw() -> None:
    usage = {
        "billed_units": {"input_tokens": 5, "output_tokens": 418},
        "tokens": {"input_tokens": 71, "output_tokens": 420},
        "cached_tokens": 0,
    }
    assert usage_fields("cohere", {"id": "c-1", "usage": usage}) == {"input_tokens": 5, "output_tokens": 418}
    first = {"generation_id": "g-1", "meta": {"api_version": {"version": "1"}, **usage}}
    assert usage_fields("cohere", first) == {"input_tokens": 5, "output_tokens": 418}
    assert notes("cohere", {"usage": {"tokens": usage["tokens"]}}) == "billed_units not stated, tokens taken"


def test_a_reranking_is_billed_by_its_search_units() -> None:
    response = {"results": [{"index": 0, "relevance_score": 0.9}], "meta": {"billed_units": {"search_units": 1}}}
    assert units("cohere", response) == {"search_units": 1}


def test_cohere_bills_images_by_their_tokens_where_it_states_them() -> None:
    billed = {"input_tokens": 5, "image_tokens": 900, "images": 2}
    assert fields_of("cohere", {"meta": {"billed_units": billed}}) == {
        "input_tokens": 5,
        "input_image_tokens": 900,
        "output_tokens": 0,
    }
    assert units("cohere", {"meta": {"billed_units": {"images": 2}}}) == {"input_images": 2}
    inside = {"input_tokens": 905, "text_tokens": 5, "image_tokens": 900}
    assert fields_of("cohere", {"meta": {"billed_units": inside}})["input_tokens"] == 5


OCR: dict[str, Any] = {"model": "mistral-ocr-latest", "pages": [], "usage_info": {"pages_processed": 10}}
TITAN: dict[str, Any] = {"inputTextTokenCount": 7, "results": [{"tokenCount": 3}, {"tokenCount": 2}]}


@pytest.mark.parametrize(
    ("provider", "response", "expected"),
    [
        ("openai", {"text": "…", "usage": {"type": "duration", "seconds": 11}}, {"audio_seconds": 11}),
        ("openai", {"text": "…", "usage": {"type": "duration", "seconds": 8.47}}, {"audio_seconds": "8.47"}),
        ("groq", {"text": "…", "duration": 8.47, "language": "en"}, {"audio_seconds": "8.47"}),
        ("openai", {"type": "session.closed", "usage": {"seconds": 60.0, "active_seconds": 60}}, {"audio_seconds": 60}),
        ("mistral", {**OCR, "usage_info": {"pages_processed": 10, "doc_size_bytes": 1}}, {"pages": 10}),
        ("mistral", {**OCR, "document_annotation": "{}"}, {"annotated_pages": 10}),
        ("mistral", {"usage": {"prompt_audio_seconds": 3}}, {"audio_seconds": 3}),
        ("openai", {"data": [{"url": "x"}, {"url": "y"}], "created": 1}, {"images": 2}),
        ("openai", {"object": "video", "status": "completed", "seconds": "8"}, {"video_seconds": 8}),
        ("google", {"generated_images": [{"image": {"mime_type": "x"}}, {"rai_filtered_reason": "x"}]}, {"images": 1}),
        ("google", {"metadata": {"billable_character_count": 12}}, {"characters": 12}),
    ],
)
def test_what_is_not_billed_by_tokens_is_counted_in_units(
    provider: str, response: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert units(provider, response) == expected


@pytest.mark.parametrize("status", ["failed", "in_progress"])
def test_a_video_that_was_not_made_is_not_billed(status: str) -> None:
    with pytest.raises(MissingUsage):
        usage_fields("openai", {"object": "video", "status": status, "seconds": "8"})


def test_time_that_a_session_paused_has_a_rate_that_is_not_known() -> None:
    usage = {"seconds": 60.0, "active_seconds": 50, "paused_seconds": 10}
    assert notes("openai", {"type": "session.closed", "usage": usage}).startswith("paused_seconds 10")


def test_audio_that_mistral_bills_by_the_second_is_not_counted_in_tokens_too() -> None:
    usage = {"prompt_audio_seconds": 15, "prompt_tokens": 4, "completion_tokens": 20, "total_tokens": 244}
    chat = {"model": "voxtral-small-latest", "choices": [], "usage": usage}
    assert usage_fields("mistral", chat) == {"input_tokens": 4, "output_tokens": 20, "units": {"audio_seconds": 15}}
    heard = {"model": "voxtral-mini-2602", "text": "…", "language": "en", "usage": usage}
    assert usage_fields("mistral", heard) == {"input_tokens": 0, "output_tokens": 0, "units": {"audio_seconds": 15}}


def test_mistrals_connectors_add_to_the_prompt_and_are_billed_by_the_call() -> None:
    usage = {
        "prompt_tokens": 188,
        "completion_tokens": 55,
        "total_tokens": 7_355,
        "connector_tokens": 7_112,
        "connectors": {"web_search": 2, "image_generation": 1},
    }
    fields = usage_fields("mistral", {"conversation_id": "c", "outputs": [], "usage": usage})
    assert fields == {"input_tokens": 7_300, "output_tokens": 55, "web_searches": 2, "units": {"images": 1}}


@pytest.mark.parametrize(
    ("response", "sent", "answered"),
    [
        ({"generation": "…", "prompt_token_count": 7, "generation_token_count": 5, "stop_reason": "stop"}, 7, 5),
        (TITAN, 7, 5),
        ({"model": "llama3", "prompt_eval_count": 7, "eval_count": 5, "eval_duration": 10**9, "done": True}, 7, 5),
        ({"body": TITAN, "contentType": "application/json"}, 7, 5),
        ({"body": json.dumps(TITAN).encode()}, 7, 5),
        ({"recordId": "1", "modelOutput": TITAN}, 7, 5),
    ],
)
def test_models_that_state_two_counts_of_their_own_are_read(response: dict[str, Any], sent: int, answered: int) -> None:
    fields = usage_fields("aws", response)
    assert (fields["input_tokens"], fields["output_tokens"]) == (sent, answered)
    assert notes("aws", response) == ""


def test_vertex_states_the_tokens_of_each_embedding() -> None:
    embeddings = [{"values": [0.1], "statistics": {"token_count": n}} for n in (5.0, 7.0)]
    assert usage_fields("google", {"embeddings": embeddings}) == {"input_tokens": 12, "output_tokens": 0}


def test_what_claudes_agent_sums_by_model_is_an_event_of_each() -> None:
    def of_model(sent: int) -> dict[str, Any]:
        counts = {"inputTokens": sent, "outputTokens": 5, "cacheReadInputTokens": 90, "cacheCreationInputTokens": 7}
        return {**counts, "webSearchRequests": 1, "costUSD": 0.25, "contextWindow": 200_000}

    result = {
        "type": "result",
        "usage": {"input_tokens": 40, "output_tokens": 10},
        "modelUsage": {"claude-opus-4-8": of_model(10), "claude-haiku-4-5": of_model(30)},
    }
    events = usage_events("anthropic", result, service="s")
    assert [(e["model_served"], e["input_tokens"], e["web_searches"]) for e in events] == [
        ("claude-opus-4-8", 10, 1),
        ("claude-haiku-4-5", 30, 1),
    ]
    assert all(e["usage_notes"] == [SUM_OF_SESSION] for e in events)


SUM_OF_SESSION = "the sum of a session: rates that depend on a call's length can't be applied"


@pytest.mark.parametrize(
    "name", ["mean_latency", "tokens_per_sec", "total_time", "acceptance_rate", "ttft_ms", "latency"]
)
def test_times_and_speeds_are_nothing_that_is_billed(name: str) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, name: 0.5}
    assert notes("openai-compatible", {"usage": usage}) == ""


def test_minimax_bills_speech_by_the_character() -> None:
    response = {
        "data": {"audio": "…"},
        "extra_info": {"usage_characters": 26, "audio_length": 9_900, "bitrate": 128_000},
    }
    assert units("minimax", response) == {"characters": 26}


def test_vertex_states_the_traffic_of_other_models_in_extra_properties() -> None:
    usage = {
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "total_tokens": 2,
        "extra_properties": {"google": {"traffic_type": "PROVISIONED_THROUGHPUT"}},
    }
    assert usage_fields("vertex_ai", {"usage": usage})["capacity"] == "provisioned"
