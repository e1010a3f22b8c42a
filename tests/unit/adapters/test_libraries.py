"""Usage as libraries hand it on, and usage that is not in tokens alone."""

from typing import Any

import pytest

from spendstream.adapters import usage_event, usage_fields
from tests.unit.adapters.doubts import notes


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
    usage = {"input_tokens": 5, "output_tokens": 1, "input_token_details": {"cache_read": 1, "video": 3}}
    assert notes("google", usage) == "input_token_details.video 3 not read"


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


def test_a_search_of_a_reranking_has_no_field_and_is_named() -> None:
    response = {"results": [{"index": 0, "relevance_score": 0.9}], "meta": {"billed_units": {"search_units": 1}}}
    assert usage_fields("cohere", response) == {"input_tokens": 0, "output_tokens": 0, "usage_quality": "partial"}
    assert notes("cohere", response) == "search_units 1 not priced"


@pytest.mark.parametrize(
    ("provider", "response", "doubt"),
    [
        ("openai", {"text": "…", "usage": {"type": "duration", "seconds": 11}}, "audio_seconds 11 not priced"),
        ("mistral", {"pages": [], "usage_info": {"pages_processed": 10, "doc_size_bytes": 1}}, "pages 10 not priced"),
        (
            "mistral",
            {"usage": {"prompt_audio_seconds": 3, "prompt_tokens": 4, "total_tokens": 4}},
            "prompt_audio_seconds 3",
        ),
    ],
)
def test_seconds_and_pages_have_no_field_and_are_named(provider: str, response: dict[str, Any], doubt: str) -> None:
    assert notes(provider, response).startswith(doubt)
