"""Gemini's shape: the total decides what stands inside and what beside."""

from typing import Any

import pytest

from spendstream.adapters import InconsistentUsage, usage_fields


def token_sum(fields: dict[str, Any]) -> int:
    return sum(count for field, count in fields.items() if field.endswith("_tokens"))


def metadata(prompt: int, candidates: int, thoughts: int, total: int, **rest: Any) -> dict[str, Any]:
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": total,
        **rest,
    }


@pytest.mark.parametrize(("total", "visible"), [(180, 50), (150, 20)], ids=["beside", "inside"])
def test_the_total_decides_whether_thoughts_are_inside_the_candidates(total: int, visible: int) -> None:
    fields = usage_fields("google", {"usageMetadata": metadata(100, 50, 30, total)})
    assert fields == {"input_tokens": 100, "output_tokens": visible, "reasoning_tokens": 30}
    assert token_sum(fields) == total


def test_without_a_total_thoughts_are_beside_as_documented() -> None:
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 50, "thoughtsTokenCount": 30}
    assert usage_fields("google", usage)["output_tokens"] == 50


def test_an_answer_that_was_thought_only_has_no_candidates() -> None:
    usage = {"promptTokenCount": 100, "thoughtsTokenCount": 64, "totalTokenCount": 164}
    assert usage_fields("google", usage) == {"input_tokens": 100, "output_tokens": 0, "reasoning_tokens": 64}


def test_cached_content_is_inside_the_prompt() -> None:
    fields = usage_fields("google", metadata(10_000, 50, 0, 10_050, cachedContentTokenCount=8_000))
    assert fields == {"input_tokens": 2_000, "cache_read_tokens": 8_000, "output_tokens": 50}


@pytest.mark.parametrize(("total", "whole_input"), [(170, 120), (150, 100)], ids=["beside", "inside"])
def test_the_total_decides_whether_tool_use_is_inside_the_prompt(total: int, whole_input: int) -> None:
    fields = usage_fields("google", metadata(100, 50, 0, total, toolUsePromptTokenCount=20))
    assert fields == {"input_tokens": whole_input, "output_tokens": 50}


def test_modalities_are_buckets_of_their_own_cached_or_not() -> None:
    usage = metadata(
        1_000,
        90,
        10,
        1_100,
        cachedContentTokenCount=400,
        promptTokensDetails=[
            {"modality": "TEXT", "tokenCount": 300},
            {"modality": "AUDIO", "tokenCount": 450},
            {"modality": "IMAGE", "tokenCount": 200},
            {"modality": "VIDEO", "tokenCount": 50},
        ],
        cacheTokensDetails=[{"modality": "TEXT", "tokenCount": 100}, {"modality": "AUDIO", "tokenCount": 300}],
        candidatesTokensDetails=[{"modality": "TEXT", "tokenCount": 20}, {"modality": "AUDIO", "tokenCount": 70}],
    )
    fields = usage_fields("google", usage)
    assert fields == {
        "input_tokens": 250,  # 200 of text and 50 of video
        "cache_read_tokens": 100,
        "cache_read_audio_tokens": 300,
        "input_audio_tokens": 150,
        "input_image_tokens": 200,
        "output_tokens": 20,
        "output_audio_tokens": 70,
        "reasoning_tokens": 10,
    }
    assert token_sum(fields) == 1_100


def test_generated_images_and_documents_that_were_read_are_images() -> None:
    usage = metadata(
        600,
        1_300,
        0,
        1_900,
        promptTokensDetails=[{"modality": "DOCUMENT", "tokenCount": 516}],
        candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": 1_290}],
    )
    assert usage_fields("google", usage) == {
        "input_tokens": 84,
        "input_image_tokens": 516,
        "output_tokens": 10,
        "output_image_tokens": 1_290,
    }


def test_the_sdks_spelling_reads_as_the_wires() -> None:
    response = {
        "model_version": "gemini-2.5-pro",
        "usage_metadata": {
            "prompt_token_count": 1_000,
            "cached_content_token_count": 400,
            "candidates_token_count": 50,
            "thoughts_token_count": 30,
            "total_token_count": 1_080,
            "prompt_tokens_details": [{"modality": "MediaModality.AUDIO", "token_count": 100}],
            "traffic_type": "TrafficType.ON_DEMAND_PRIORITY",
        },
    }
    assert usage_fields("gcp.vertex_ai", response) == {
        "input_tokens": 500,
        "cache_read_tokens": 400,
        "input_audio_tokens": 100,
        "output_tokens": 50,
        "reasoning_tokens": 30,
        "service_tier": "priority",
    }


@pytest.mark.parametrize(("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3-flash-preview", 2)])
def test_searches_are_paid_by_the_answer_before_gemini_3_and_by_the_query_since(model: str, searches: int) -> None:
    response = {
        "modelVersion": model,
        "candidates": [{"groundingMetadata": {"webSearchQueries": ["one", "two"]}}],
        "usageMetadata": metadata(1, 1, 0, 2),
    }
    assert usage_fields("google", response)["web_searches"] == searches


def test_a_total_that_fits_no_reading_is_refused() -> None:
    with pytest.raises(InconsistentUsage, match="totalTokenCount: 181 is not prompt"):
        usage_fields("google", metadata(100, 50, 30, 181))


def test_more_thoughts_inside_than_candidates_is_refused() -> None:
    with pytest.raises(InconsistentUsage, match="thoughtsTokenCount: 60 tokens, more than the 50"):
        usage_fields("google", metadata(100, 50, 60, 150))


def test_more_cached_than_prompted_is_refused() -> None:
    with pytest.raises(InconsistentUsage, match="cachedContentTokenCount: 101 tokens, more than the 100"):
        usage_fields("google", metadata(100, 50, 0, 150, cachedContentTokenCount=101))
