"""OpenAI's shape: cached inside the prompt, reasoning inside the completion, unless the total says otherwise."""

from typing import Any

import pytest

from spendstream.adapters import InconsistentUsage, MissingUsage, usage_fields


def chat(prompt: int, completion: int, **rest: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **rest}


def token_sum(fields: dict[str, Any]) -> int:
    return sum(count for field, count in fields.items() if field.endswith("_tokens"))


def test_cached_and_reasoning_tokens_are_taken_out_of_the_counts_that_include_them() -> None:
    response = {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "model": "gpt-5-2025-08-07",
        "service_tier": "default",
        "usage": chat(
            1_000,
            300,
            prompt_tokens_details={"cached_tokens": 400, "audio_tokens": 0},
            completion_tokens_details={"reasoning_tokens": 120, "audio_tokens": 0, "rejected_prediction_tokens": 5},
        ),
    }
    fields = usage_fields("openai", response)
    assert fields == {
        "input_tokens": 600,
        "cache_read_tokens": 400,
        "output_tokens": 180,
        "reasoning_tokens": 120,
        "service_tier": "standard",
    }
    assert token_sum(fields) == 1_300


def test_responses_api_reads_the_same_as_chat_completions() -> None:
    usage = {
        "input_tokens": 1_000,
        "input_tokens_details": {"cached_tokens": 400},
        "output_tokens": 300,
        "output_tokens_details": {"reasoning_tokens": 120},
        "total_tokens": 1_300,
    }
    response = {"id": "resp_1", "model": "gpt-5", "service_tier": "flex", "output": [], "usage": usage}
    assert usage_fields("openai", response) == {
        "input_tokens": 600,
        "cache_read_tokens": 400,
        "output_tokens": 180,
        "reasoning_tokens": 120,
        "service_tier": "flex",
    }


def test_tokens_written_to_cache_are_inside_the_prompt_too() -> None:
    usage = chat(1_000, 10, prompt_tokens_details={"cached_tokens": 400, "cache_write_tokens": 500})
    fields = usage_fields("openai", usage)
    assert fields == {"input_tokens": 100, "cache_read_tokens": 400, "cache_write_tokens": 500, "output_tokens": 10}


def test_audio_is_a_bucket_of_its_own_on_both_sides() -> None:
    usage = chat(500, 200, prompt_tokens_details={"audio_tokens": 350}, completion_tokens_details={"audio_tokens": 150})
    assert usage_fields("openai", usage) == {
        "input_tokens": 150,
        "input_audio_tokens": 350,
        "output_tokens": 50,
        "output_audio_tokens": 150,
    }


def test_realtime_says_how_much_of_the_cached_input_was_audio() -> None:
    usage = {
        "total_tokens": 1_200,
        "input_tokens": 1_000,
        "input_token_details": {
            "text_tokens": 300,
            "audio_tokens": 600,
            "image_tokens": 100,
            "cached_tokens": 450,
            "cached_tokens_details": {"text_tokens": 200, "audio_tokens": 250, "image_tokens": 0},
        },
        "output_tokens": 200,
        "output_token_details": {"text_tokens": 50, "audio_tokens": 150},
    }
    fields = usage_fields("openai", {"type": "response.done", "response": {"usage": usage}})
    assert fields == {
        "input_tokens": 100,
        "cache_read_tokens": 200,
        "cache_read_audio_tokens": 250,
        "input_audio_tokens": 350,
        "input_image_tokens": 100,
        "output_tokens": 50,
        "output_audio_tokens": 150,
    }
    assert token_sum(fields) == 1_200


def test_unstated_overlap_of_cache_and_audio_is_the_least_that_adds_up() -> None:
    usage = chat(1_000, 0, prompt_tokens_details={"cached_tokens": 900, "audio_tokens": 300})
    fields = usage_fields("openai", usage)
    assert fields["cache_read_audio_tokens"] == 200
    assert (fields["cache_read_tokens"], fields["input_audio_tokens"], fields["input_tokens"]) == (700, 100, 0)
    assert token_sum(fields) == 1_000


def test_images_api_output_is_images_though_it_gives_no_details() -> None:
    usage = {
        "input_tokens": 50,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
        "output_tokens": 4_160,
        "total_tokens": 4_210,
    }
    fields = usage_fields("openai", {"data": [{"b64_json": "…"}], "usage": usage})
    assert fields == {"input_tokens": 10, "input_image_tokens": 40, "output_image_tokens": 4_160}


def test_embeddings_have_no_completion() -> None:
    response = {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    assert usage_fields("openai", response) == {"input_tokens": 8, "output_tokens": 0}


def test_searches_of_a_response_are_counted_and_opened_pages_are_not() -> None:
    output = [
        {"type": "web_search_call", "action": {"type": "search", "query": "…"}},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "web_search_call"},
        {"type": "message"},
    ]
    assert usage_fields("openai", {"output": output, "usage": chat(1, 1)})["web_searches"] == 2


def test_the_total_shows_whether_reasoning_is_beside_the_completion() -> None:
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }
    fields = usage_fields("x-ai", usage)
    assert (fields["output_tokens"], fields["reasoning_tokens"]) == (9, 94)
    assert token_sum(fields) == 135


def test_thoughts_that_gemini_counts_in_the_total_alone_are_reasoning() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    assert usage_fields("google", usage) == {"input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 100}


@pytest.mark.parametrize(
    ("provider", "usage"),
    [
        ("deepseek", chat(100, 1, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=36)),
        ("moonshotai", chat(100, 1, cached_tokens=64)),
        ("mistral", chat(100, 1, prompt_tokens_details={"cached_tokens": 64})),
    ],
)
def test_providers_with_their_own_names_for_the_cache_are_read(provider: str, usage: dict[str, Any]) -> None:
    assert usage_fields(provider, usage) == {"input_tokens": 36, "cache_read_tokens": 64, "output_tokens": 1}


def test_as_many_cached_as_prompt_tokens_are_consistent_and_one_more_is_not() -> None:
    assert usage_fields("openai", chat(400, 1, prompt_tokens_details={"cached_tokens": 400}))["input_tokens"] == 0
    with pytest.raises(InconsistentUsage, match=r"cached_tokens: 401 tokens, more than the 400 of prompt_tokens") as e:
        usage_fields("openai", chat(400, 1, prompt_tokens_details={"cached_tokens": 401}))
    assert e.value.field == "prompt_tokens_details.cached_tokens"
    assert "Pass one call's usage object" in str(e.value)


def test_more_reasoning_than_completion_is_refused() -> None:
    usage = chat(1, 100, completion_tokens_details={"reasoning_tokens": 101})
    with pytest.raises(InconsistentUsage, match=r"reasoning_tokens: 101 tokens, more than the 100 of completion_tok"):
        usage_fields("openai", usage)


def test_a_total_that_fits_no_reading_is_refused() -> None:
    with pytest.raises(InconsistentUsage, match=r"total_tokens: 31 is neither"):
        usage_fields("openai", {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 31})


@pytest.mark.parametrize("count", [-1, 1.5, "12", True])
def test_a_count_that_is_not_a_whole_number_is_refused(count: Any) -> None:
    with pytest.raises(InconsistentUsage, match="expected a whole number of tokens"):
        usage_fields("openai", {"prompt_tokens": count, "completion_tokens": 0})


@pytest.mark.parametrize(
    "response", [{"choices": [], "usage": None}, {"usage": {"type": "duration", "seconds": 12}}, {}, {"usage": 5}]
)
def test_a_response_without_token_counts_says_how_to_get_them(response: dict[str, Any]) -> None:
    with pytest.raises(MissingUsage, match="include_usage"):
        usage_fields("openai", response)
