"""OpenAI's shape: cached inside the prompt, reasoning inside the completion, unless the total says otherwise."""

from typing import Any

import pytest

from spendstream.adapters import InconsistentUsage, MissingUsage, SeveralCalls, usage_event, usage_events, usage_fields
from tests.unit.adapters.doubts import fields_of, notes, units


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


def test_thoughts_that_gemini_counts_in_the_total_alone_are_reasoning_as_a_guess() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    fields = fields_of("google", usage)
    assert fields == {"input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 100, "usage_quality": "partial"}
    assert notes("google", usage) == "total_tokens 115 is not the sum of its parts, 15"


def test_where_reasoning_is_stated_tokens_in_the_total_alone_are_a_tools_prompt_as_a_guess() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    usage_0 = {**usage, "completion_tokens_details": {"reasoning_tokens": 0}}
    fields = fields_of("vertex_ai", usage_0)
    assert fields == {"input_tokens": 110, "output_tokens": 5, "usage_quality": "partial"}


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


def test_as_many_cached_as_prompt_tokens_are_inside_and_one_more_are_beside() -> None:
    assert usage_fields("openai", chat(400, 1, prompt_tokens_details={"cached_tokens": 400}))["input_tokens"] == 0
    usage = chat(400, 1, prompt_tokens_details={"cached_tokens": 401})
    fields = usage_fields("openai", usage)
    assert (fields["input_tokens"], fields["cache_read_tokens"]) == (400, 401)
    assert notes("openai", usage) == "cache 401 exceeds prompt_tokens 400: counted beside it"


def test_a_total_that_includes_the_cache_shows_that_it_is_beside_the_prompt() -> None:
    usage = chat(400, 1, prompt_tokens_details={"cached_tokens": 100}) | {"total_tokens": 501}
    assert usage_fields("openai", usage) == {"input_tokens": 400, "cache_read_tokens": 100, "output_tokens": 1}


def test_more_reasoning_than_completion_is_all_of_the_output() -> None:
    for total in (101, 102):  # the second is the total of prompt and reasoning
        usage = {**chat(1, 100, completion_tokens_details={"reasoning_tokens": 101}), "total_tokens": total}
        fields = usage_fields("openai", usage)
        assert (fields["output_tokens"], fields["reasoning_tokens"]) == (0, 101)
        assert notes("openai", usage).endswith("reasoning_tokens 101 exceeds completion_tokens 100")


@pytest.mark.parametrize("total", [29, 31])
def test_a_total_that_fits_no_reading_is_noted(total: int) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": total}
    fields = fields_of("openai", usage)
    assert fields == {"input_tokens": 10, "output_tokens": 20, "usage_quality": "partial"}
    assert notes("openai", usage) == f"total_tokens {total} is not the sum of its parts, 30"


def test_a_number_that_nobody_reads_is_named() -> None:
    usage = chat(10, 5, prompt_tokens_details={"cached_tokens": 0, "hologram_tokens": 7, "zero_tokens": 0}, fee=0.5)
    assert notes("openai", usage) == "prompt_tokens_details.hologram_tokens 7 not read; fee 0.5 not read"


def test_times_speeds_and_parts_of_counts_are_ignored_by_rule() -> None:
    usage = chat(
        10,
        5,
        prompt_tokens_details={"text_tokens": 10},
        completion_tokens_details={"text_tokens": 5, "accepted_prediction_tokens": 1, "rejected_prediction_tokens": 1},
        queue_time=0.02,
        prompt_time=0.1,
        completion_time=0.3,
        total_time=0.4,
    )
    assert notes("groq", usage) == ""


def test_a_part_that_is_no_count_is_named_and_reads_as_none() -> None:
    usage = chat(10, 5, prompt_tokens_details={"cached_tokens": -3})
    assert usage_fields("openai", usage)["input_tokens"] == 10
    assert notes("openai", usage) == "prompt_tokens_details.cached_tokens -3 is not a count"


def test_a_whole_number_written_as_a_float_is_a_count() -> None:
    assert usage_fields("openai", chat(10, 5) | {"prompt_tokens": 10.0}) == {"input_tokens": 10, "output_tokens": 5}


@pytest.mark.parametrize("count", [-1, 1.5, "12", True])
def test_a_count_that_is_not_a_whole_number_is_refused(count: Any) -> None:
    with pytest.raises(InconsistentUsage, match="expected a whole number of tokens"):
        usage_fields("openai", {"prompt_tokens": count, "completion_tokens": 0})


@pytest.mark.parametrize("response", [{"choices": [], "usage": None}, {"usage": {"note": "none"}}, {}, {"usage": 5}])
def test_a_response_without_token_counts_says_how_to_get_them(response: dict[str, Any]) -> None:
    with pytest.raises(MissingUsage, match="include_usage"):
        usage_fields("openai", response)


def test_groq_states_a_streams_usage_in_a_place_of_its_own() -> None:
    chunk = {"model": "openai/gpt-oss-120b", "choices": [], "x_groq": {"id": "req_1", "usage": chat(100, 20)}}
    assert usage_fields("groq", chunk) == {"input_tokens": 100, "output_tokens": 20}


@pytest.mark.parametrize("stated", ["default", "auto", None])
def test_a_line_of_a_batchs_results_is_billed_as_batch(stated: str | None) -> None:
    body = {"model": "gpt-4o-mini", "service_tier": stated, "usage": chat(24, 8)}
    line = {"id": "batch_req_1", "custom_id": "r-1", "response": {"status_code": 200, "body": body}, "error": None}
    assert usage_fields("openai", line) == {"input_tokens": 24, "output_tokens": 8, "service_tier": "batch"}
    assert usage_fields("mistral", line)["service_tier"] == "batch"


def test_fast_is_the_newer_name_of_priority() -> None:
    assert usage_fields("openai", {"service_tier": "fast", "usage": chat(1, 1)})["service_tier"] == "priority"


@pytest.mark.parametrize("tier", ["scale", "reserved"])
def test_prepaid_capacity_is_no_tier_and_never_at_list_price(tier: str) -> None:
    fields = usage_fields("openai", {"service_tier": tier, "usage": chat(1, 1)})
    assert fields == {"input_tokens": 1, "output_tokens": 1, "capacity": "provisioned"}


IMAGE_TOOL: dict[str, Any] = {
    "id": "resp_1",
    "model": "gpt-5.5",
    "output": [],
    "usage": {"input_tokens": 1_820, "output_tokens": 210, "total_tokens": 2_030},
    "tool_usage": {
        "image_gen": {
            "input_tokens": 50,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
            "output_tokens": 7_024,
            "output_tokens_details": {"image_tokens": 7_024, "text_tokens": 0},
            "total_tokens": 7_074,
        },
        "web_search": {"num_requests": 0},
    },
}


@pytest.mark.parametrize(
    ("tools", "model"), [([], "gpt-image-2"), ([{"type": "image_generation", "model": "gpt-image-1"}], "gpt-image-1")]
)
def test_an_image_that_a_tool_made_is_a_call_of_its_own(tools: list[dict[str, str]], model: str) -> None:
    response = {**IMAGE_TOOL, "tools": tools}
    answer, image = usage_events("openai", response, service="s")
    assert (answer["model_served"], answer["input_tokens"], answer["output_tokens"]) == ("gpt-5.5", 1_820, 210)
    assert image["model_served"] == model
    assert (image["input_tokens"], image["input_image_tokens"], image["output_image_tokens"]) == (10, 40, 7_024)
    assert "usage_quality" not in answer
    assert image.get("usage_quality") == (None if tools else "partial")
    assert image["provider_response_id"] == answer["provider_response_id"] == "resp_1"
    with pytest.raises(SeveralCalls):
        usage_event("openai", response, service="s")


def test_a_tool_that_made_no_image_is_no_call_and_its_searches_are_counted_once() -> None:
    idle = {"image_gen": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, "web_search": {"num_requests": 2}}
    searched = {**IMAGE_TOOL, "output": [{"type": "web_search_call"}], "tool_usage": idle}
    (event,) = usage_events("openai", searched, service="s")
    assert event["web_searches"] == 2
    assert "usage_quality" not in event
    half = {**searched, "output": [{"type": "web_search_call"}] * 3}
    assert usage_fields("openai", half)["web_searches"] == 2  # one is not billed
    free = {**half, "tool_usage": {"web_search": {"num_requests": 0}}}
    assert "web_searches" not in usage_fields("openai", free)
    assert notes("openai", free) == "web searches 3 made, 0 billed"
    unknown = {**IMAGE_TOOL, "tool_usage": {"video_gen": {"output_tokens": 9}}}
    assert notes("openai", unknown) == "response.tool_usage.video_gen.output_tokens 9 not read"


def test_tools_with_a_fee_are_counted_in_units() -> None:
    searched = [{"type": "file_search_call"}, {"type": "file_search_call"}]
    ran = [{"type": "code_interpreter_call", "container_id": c} for c in ("c-1", "c-1", "c-2")]
    assert units("openai", {"output": searched + ran, "usage": chat(1, 1)}) == {
        "file_searches": 2,
        "code_execution_sessions": 2,
    }


def test_xais_searches_are_counted_and_its_other_tools_are_units() -> None:
    details = {"web_search_calls": 1, "x_search_calls": 2, "mcp_calls": 3, "code_interpreter_calls": 4}
    usage = chat(10, 5, server_side_tool_usage_details=details, num_server_side_tools_used=10)
    assert usage_fields("x-ai", usage)["web_searches"] == 3
    assert units("x-ai", usage) == {"code_executions": 4}


@pytest.mark.parametrize(("model", "searches"), [("gpt-4o-search-preview", 1), ("gpt-5-search-api", 1), ("gpt-4o", 0)])
def test_a_model_that_searches_before_each_answer_is_billed_for_it(model: str, searches: int) -> None:
    fields = usage_fields("openai", {"model": model, "usage": chat(1, 1)})
    assert fields.get("web_searches", 0) == searches


def test_a_whole_batch_is_billed_as_batch_and_its_calls_are_unknown() -> None:
    batch = {"id": "b-1", "object": "batch", "model": "gpt-5", "usage": {"input_tokens": 10, "output_tokens": 5}}
    assert usage_fields("openai", batch)["service_tier"] == "batch"
    assert notes("openai", batch).startswith("the sum of a batch")


def test_voyage_bills_pixels_beside_the_text_and_not_the_tokens_they_make() -> None:
    usage = {"text_tokens": 12, "image_pixels": 2_000_000, "total_tokens": 3_583}
    fields = usage_fields("voyageai", {"object": "list", "data": [], "model": "voyage-multimodal-3", "usage": usage})
    assert fields == {"input_tokens": 12, "output_tokens": 0, "units": {"input_pixels": 2_000_000}}


def test_an_image_whose_tokens_no_tool_usage_states_is_named() -> None:
    made = {"output": [{"type": "image_generation_call"}], "usage": chat(1, 1)}
    assert notes("openai", made) == "image_generation_call 1: tool_usage does not state its tokens"


def test_deep_research_bills_reasoning_beside_the_completion_and_each_query() -> None:
    usage = chat(108, 3_256, citation_tokens=7_299, num_search_queries=74, reasoning_tokens=73_248)
    response = {"model": "sonar-deep-research", "usage": usage}
    fields = usage_fields("perplexity", response)
    assert (fields["output_tokens"], fields["reasoning_tokens"], fields["web_searches"]) == (3_256, 73_248, 74)
    assert units("perplexity", response) == {"citation_tokens": 7_299}
    other = {"model": "sonar-pro", "usage": chat(108, 3_256, citation_tokens=7_299, num_search_queries=2)}
    assert usage_fields("perplexity", other) == {"input_tokens": 108, "output_tokens": 3_256}


@pytest.mark.parametrize(
    "response",
    [
        {"object": "list", "data": [{"embedding": [0.5]}], "usage": {"total_tokens": 1_000}},
        {"object": "list", "data": [{"relevance_score": 0.5}], "usage": {"total_tokens": 1_000}},
        {"results": [{"relevance_score": 0.5}], "usage": {"total_tokens": 1_000}},
    ],
)
def test_the_total_of_an_embedding_or_a_reranking_is_its_input(response: dict[str, Any]) -> None:
    assert usage_fields("openai-compatible", response) == {"input_tokens": 1_000, "output_tokens": 0}
    assert usage_fields("voyageai", {"usage": response["usage"]}) == {"input_tokens": 1_000, "output_tokens": 0}


def test_a_total_alone_of_an_unknown_call_is_a_guess() -> None:
    assert notes("openai", {"usage": {"total_tokens": 1_000}}) == "input_tokens not stated"
    assert notes("openai", {"usage": {"completion_tokens": 7, "total_tokens": 10}}) == "prompt_tokens not stated"
    assert usage_fields("openai", {"prompt_tokens": 10, "total_tokens": 30})["output_tokens"] == 20
    assert notes("openai", {"prompt_tokens": 10, "total_tokens": 30}) != ""


def test_a_cache_written_for_12_hours_is_named_and_the_usual_lifetime_is_not() -> None:
    def usage(ttl_30m: int, ttl_12h: int) -> dict[str, Any]:
        lifetimes = {"ttl_30m_tokens": ttl_30m, "ttl_12h_tokens": ttl_12h}
        details = {"cached_tokens": 0, "cache_write_tokens": 50, "cache_write_tokens_details": lifetimes}
        return {"input_tokens": 100, "input_tokens_details": details, "output_tokens": 1, "total_tokens": 101}

    assert usage_fields("openai", usage(50, 0)) == {"input_tokens": 50, "cache_write_tokens": 50, "output_tokens": 1}
    assert "ttl_12h_tokens 30: no rate of their own" in notes("openai", usage(20, 30))
    assert "is not the sum of its parts, 50" in notes("openai", usage(51, 0))


def test_cached_images_are_a_bucket_of_their_own_where_they_are_stated() -> None:
    image = {
        "input_tokens": 100,
        "input_tokens_details": {"text_tokens": 20, "image_tokens": 80},
        "cached_tokens": 60,
        "cached_tokens_details": {"cached_image_tokens": 60, "cached_text_tokens": 0},
        "output_tokens": 10,
        "total_tokens": 110,
    }
    _, made = usage_events("openai", {**IMAGE_TOOL, "tool_usage": {"image_gen": image}}, service="s")
    assert (made["cache_read_image_tokens"], made["input_image_tokens"], made["output_image_tokens"]) == (60, 20, 10)
    assert "cache_read_tokens" not in made
