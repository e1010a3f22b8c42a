"""Gemini's shape: the total decides what stands inside and what beside."""

from typing import Any

import pytest

from spendstream.adapters import usage_fields
from tests.sdks.install import load
from tests.unit.adapters.doubts import fields_of, notes


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


def test_more_tool_use_inside_than_prompted_is_noted() -> None:
    usage = {"promptTokenCount": 0, "thoughtsTokenCount": 9, "toolUsePromptTokenCount": 58, "totalTokenCount": 9}
    assert notes("google", usage) == "toolUsePromptTokenCount 58 exceeds promptTokenCount 0, which includes it"


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
        "input_tokens": 200,
        "input_video_tokens": 50,
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


def test_tokens_in_the_total_alone_are_a_tools_prompt_where_thoughts_are_stated_and_thoughts_where_not() -> None:
    fields = fields_of("google", metadata(100, 50, 30, 181))
    assert fields == {"input_tokens": 101, "output_tokens": 50, "reasoning_tokens": 30, "usage_quality": "partial"}
    assert notes("google", metadata(100, 50, 30, 181)) == "totalTokenCount 181 is not the sum of its parts, 180"
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 50, "totalTokenCount": 190}
    fields = fields_of("google", usage)
    assert fields == {"input_tokens": 100, "output_tokens": 50, "reasoning_tokens": 40, "usage_quality": "partial"}


def test_a_total_below_its_parts_changes_no_count_and_is_noted() -> None:
    assert notes("google", metadata(100, 50, 0, 149)) == "totalTokenCount 149 is not the sum of its parts, 150"
    assert usage_fields("google", metadata(100, 50, 0, 149))["output_tokens"] == 50


def test_more_thoughts_inside_than_candidates_are_all_of_the_output() -> None:
    usage = metadata(100, 50, 60, 150)
    fields = usage_fields("google", usage)
    assert (fields["output_tokens"], fields["reasoning_tokens"]) == (0, 60)
    assert notes("google", usage) == "thoughtsTokenCount 60 exceeds candidatesTokenCount 50"


@pytest.mark.parametrize(
    ("cached", "fresh", "doubt"), [(100, 0, ""), (101, 100, "cache 101 exceeds promptTokenCount 100")]
)
def test_more_cached_than_prompted_was_counted_beside_the_prompt(cached: int, fresh: int, doubt: str) -> None:
    usage = metadata(100, 50, 0, 150, cachedContentTokenCount=cached)
    fields = usage_fields("google", usage)
    assert (fields["input_tokens"], fields["cache_read_tokens"]) == (fresh, cached)
    assert notes("google", usage).startswith(doubt)


def test_the_same_query_is_searched_once_and_an_empty_one_never() -> None:
    grounded = [{"groundingMetadata": {"webSearchQueries": queries}} for queries in (["a", "b", "a"], ["b", "", " "])]
    response = {"modelVersion": "gemini-3-flash-preview", "candidates": grounded, "usageMetadata": metadata(1, 1, 0, 2)}
    assert usage_fields("google", response)["web_searches"] == 2


def test_video_is_a_bucket_of_its_own_and_cached_video_counts_as_cache() -> None:
    details = [{"modality": "TEXT", "tokenCount": 100}, {"modality": "VIDEO", "tokenCount": 900}]
    live = {"promptTokenCount": 1_000, "responseTokenCount": 10, "totalTokenCount": 1_010}
    read = {"input_tokens": 100, "input_video_tokens": 900, "output_tokens": 10}
    assert usage_fields("google", {**live, "promptTokensDetails": details}) == read
    cached = {"cachedContentTokenCount": 600, "cacheTokensDetails": [{"modality": "VIDEO", "tokenCount": 600}]}
    usage = metadata(1_000, 10, 0, 1_010, promptTokensDetails=details, **cached)
    assert usage_fields("google", usage) == {**read, "input_video_tokens": 300, "cache_read_tokens": 600}


def test_prepaid_capacity_does_not_pass_for_a_call_at_list_price() -> None:
    usage = metadata(1, 1, 0, 2, trafficType="PROVISIONED_THROUGHPUT")
    assert usage_fields("vertex_ai", usage) == {"input_tokens": 1, "output_tokens": 1, "capacity": "provisioned"}


def test_maps_are_searched_apart_from_the_web() -> None:
    web = {"webSearchQueries": ["a", "b"], "groundingChunks": [{"web": {"uri": "x"}}]}
    maps = {"webSearchQueries": ["near me"], "groundingChunks": [{"maps": {"uri": "x"}}]}
    for model, expected in (("gemini-3-flash-preview", (2, 1)), ("gemini-2.5-flash", (1, 1))):
        response = {
            "modelVersion": model,
            "candidates": [{"groundingMetadata": web}, {"grounding_metadata": maps}],
            "usageMetadata": metadata(1, 1, 0, 2),
        }
        fields = usage_fields("google", response)
        assert (fields["web_searches"], fields["units"]["map_searches"]) == expected


def test_a_tools_prompt_beside_a_search_is_in_doubt_as_its_results_may_be_free() -> None:
    usage = metadata(100, 50, 0, 170, toolUsePromptTokenCount=20)
    searched = [{"groundingMetadata": {"webSearchQueries": ["a"]}}]
    assert notes("google", {"usageMetadata": usage}) == ""
    assert notes("google", {"candidates": searched, "usageMetadata": usage}).startswith("toolUsePromptTokenCount 20")


@pytest.mark.parametrize("is_sdks", [True, False])
def test_a_cache_is_input_once_and_stored_until_it_expires(is_sdks: bool) -> None:
    wire = {
        "name": "cachedContents/c-1",
        "model": "models/gemini-2.5-flash",
        "createTime": "2026-11-20T12:00:00Z",
        "expireTime": "2026-11-20T13:30:00Z",
        "usageMetadata": {"totalTokenCount": 32_000},
    }
    response = load("google.genai.types").CachedContent.model_validate(wire) if is_sdks else wire
    fields = usage_fields("google", response)
    assert fields["units"] == {"storage_token_hours": 48_000}
    assert (fields["input_tokens"], fields["output_tokens"], fields["usage_quality"]) == (32_000, 0, "partial")
    assert "no createTime" in notes("google", {**wire, "createTime": None})


def test_counts_that_only_their_details_state_are_not_lost() -> None:
    usage = {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": 30}], "candidatesTokenCount": 5}
    assert fields_of("google", {"usageMetadata": usage}) == {
        "input_tokens": 30,
        "output_tokens": 5,
        "usage_quality": "partial",
    }


def test_an_unknown_modality_is_named() -> None:
    usage = metadata(10, 1, 0, 11, promptTokensDetails=[{"modality": "SMELL", "tokenCount": 4}])
    assert notes("google", usage) == "promptTokensDetails.0.tokenCount 4 not read"


def test_a_line_of_a_batchs_results_is_billed_as_batch() -> None:
    response = {"modelVersion": "gemini-3-flash-preview", "usageMetadata": metadata(1, 1, 0, 2)}
    assert usage_fields("google", {"key": "1", "response": response})["service_tier"] == "batch"
    assert "service_tier" not in usage_fields("google", {"response": response})
