"""Forms of usage from public reports, beside those that the providers' references show."""

from typing import Any

import pytest

from spendstream.adapters import UsageStream, usage_events
from tests.unit.adapters.doubts import fields_of, notes


def streamed(provider: str, *chunks: dict[str, Any]) -> list[dict[str, Any]]:
    stream = UsageStream(provider, service="s", model="m")
    for chunk in chunks:
        stream.add(chunk)
    return stream.events()


def test_a_line_of_claude_codes_log_with_its_own_estimate_counts_the_message() -> None:
    # https://github.com/ccusage/ccusage/issues/389: older versions write costUSD beside the message
    usage = {"input_tokens": 4, "cache_creation_input_tokens": 15_178, "cache_read_input_tokens": 0, "output_tokens": 9}
    line = {"costUSD": 0.05, "type": "assistant", "message": {"stop_reason": "end_turn", "usage": usage}}
    assert fields_of("anthropic", line) == {"input_tokens": 4, "cache_write_tokens": 15_178, "output_tokens": 9}


INTERACTION = {
    "total_input_tokens": 11,
    "input_tokens_by_modality": [{"modality": "text", "tokens": 11}],
    "total_cached_tokens": 0,
    "total_output_tokens": 90,
    "total_thought_tokens": 245,
    "total_tool_use_tokens": 0,
    "total_tokens": 346,
}


def test_an_interaction_of_gemini_has_thoughts_beside_its_output() -> None:
    # https://github.com/BerriAI/litellm/pull/33297
    expected = {"input_tokens": 11, "output_tokens": 90, "reasoning_tokens": 245}
    assert fields_of("google", {"object": "interaction", "usage": INTERACTION}) == expected
    done = {"event_type": "interaction.completed", "interaction": {"service_tier": "flex", "usage": INTERACTION}}
    (event,) = streamed("google", {"event_type": "interaction.created", "interaction": {}}, done)
    assert {name: event[name] for name in expected} == expected
    assert (event["service_tier"], event.get("usage_quality")) == ("flex", None)


def test_an_interactions_image_and_searches_are_counted() -> None:
    usage = {
        **INTERACTION,
        "total_output_tokens": 1_567,
        "total_tokens": 1_823,
        "output_tokens_by_modality": [{"modality": "image", "tokens": 1_120}],
        "grounding_tool_count": [{"type": "google_search", "count": 3}],
    }
    fields = fields_of("google", {"usage": usage})
    assert (fields["output_tokens"], fields["output_image_tokens"], fields["web_searches"]) == (447, 1_120, 3)
    assert notes("google", {"usage": usage}) == ""


def test_each_turn_of_geminis_live_session_is_a_call() -> None:
    # https://github.com/sierra-research/tau2-bench/pull/454: repeated counts of a turn are cumulative, turns are not
    def turn(sent: int, made: int, is_over: bool) -> dict[str, Any]:
        usage = {"promptTokenCount": sent, "responseTokenCount": made, "totalTokenCount": sent + made}
        return {"serverContent": {"turnComplete": is_over}, "usageMetadata": usage}

    events = streamed("google", turn(500, 40, False), turn(500, 100, True), turn(800, 50, True))
    assert [(event["input_tokens"], event["output_tokens"]) for event in events] == [(500, 100), (800, 50)]
    assert not any("usage_quality" in event for event in events)


def test_the_last_chunk_of_gemini_may_state_a_smaller_prompt() -> None:
    # https://github.com/langchain-ai/langchain-google/pull/1016
    first = {"usageMetadata": {"promptTokenCount": 11, "totalTokenCount": 11}}
    last = {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 20, "totalTokenCount": 30}}
    (event,) = streamed("google", first, {**last, "candidates": [{"finishReason": "STOP"}]})
    assert (event["input_tokens"], event["output_tokens"], event.get("usage_quality")) == (10, 20, None)


def test_an_embeddings_modalities_have_a_name_of_their_own() -> None:
    # https://github.com/BerriAI/litellm/issues/33681
    details = [{"modality": "TEXT", "tokenCount": 2}, {"modality": "IMAGE", "tokenCount": 258}]
    response = {"embedding": {}, "usageMetadata": {"promptTokenCount": 260, "promptTokenDetails": details}}
    assert fields_of("google", response) == {"input_tokens": 2, "input_image_tokens": 258, "output_tokens": 0}


def test_bedrocks_metrics_state_what_claudes_stream_leaves_out() -> None:
    # https://github.com/BerriAI/litellm/issues/34373
    metrics = {"inputTokenCount": 3, "outputTokenCount": 40, "cacheReadInputTokenCount": 11_000}
    (event,) = streamed(
        "bedrock",
        {"type": "message_start", "message": {"type": "message"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 40}},
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics},
    )
    assert (event["input_tokens"], event["cache_read_tokens"], event["output_tokens"]) == (3, 11_000, 40)
    assert "usage_quality" not in event


@pytest.mark.parametrize("body", [{}, {"usage": {"inputTokens": 100, "outputTokens": 10}}])
def test_a_record_of_bedrocks_log_of_invocations_is_a_call(body: dict[str, Any]) -> None:
    record = {
        "schemaType": "ModelInvocationLog",
        "requestId": "r",
        "modelId": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "input": {"inputTokenCount": 100, "cacheReadInputTokenCount": 500},
        "output": {"outputBodyJson": body, "outputTokenCount": 10},
    }
    (event,) = usage_events("bedrock", record, service="s")
    assert (event["input_tokens"], event["cache_read_tokens"], event["output_tokens"]) == (100, 500, 10)
    assert (event["model_served"], event["provider_response_id"]) == (record["modelId"], "r")
