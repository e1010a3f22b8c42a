"""Anthropic's shape: cache reads and writes stand beside the input."""

from typing import Any

import pytest

from spendstream.adapters import SeveralCalls, usage_event, usage_events, usage_fields
from tests.unit.adapters.doubts import fields_of, notes, units


def message(**usage: Any) -> dict[str, Any]:
    return {"id": "msg_01", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "usage": usage}


def test_cache_reads_and_writes_are_added_to_the_input_not_taken_from_it() -> None:
    fields = usage_fields(
        "anthropic",
        message(
            input_tokens=120,
            cache_read_input_tokens=9_000,
            cache_creation_input_tokens=2_000,
            cache_creation={"ephemeral_5m_input_tokens": 1_500, "ephemeral_1h_input_tokens": 500},
            output_tokens=700,
            server_tool_use={"web_search_requests": 3, "web_fetch_requests": 1},
            service_tier="standard",
        ),
    )
    assert fields == {
        "input_tokens": 120,
        "cache_read_tokens": 9_000,
        "cache_write_5m_tokens": 1_500,
        "cache_write_1h_tokens": 500,
        "output_tokens": 700,
        "web_searches": 3,
        "service_tier": "standard",
    }


def test_writes_that_no_lifetime_accounts_for_are_the_remainder() -> None:
    lifetimes = {"ephemeral_5m_input_tokens": 1_200, "ephemeral_1h_input_tokens": 500}
    fields = usage_fields("anthropic", message(cache_creation_input_tokens=2_000, cache_creation=lifetimes))
    assert fields["cache_write_tokens"] == 300
    assert sum(int(fields[f"cache_write{life}_tokens"]) for life in ("", "_5m", "_1h")) == 2_000


def test_writes_without_lifetimes_are_all_remainder() -> None:
    fields = usage_fields("anthropic", message(input_tokens=1, cache_creation_input_tokens=2_000, cache_creation=None))
    assert fields == {"input_tokens": 1, "cache_write_tokens": 2_000, "output_tokens": 0}


@pytest.mark.parametrize(("written", "doubt"), [(2_100, ""), (2_099, "exceeds cache_creation_input_tokens 2099")])
def test_lifetimes_that_sum_to_more_than_was_written_count_and_are_noted(written: int, doubt: str) -> None:
    lifetimes = {"ephemeral_5m_input_tokens": 1_600, "ephemeral_1h_input_tokens": 500}
    response = message(input_tokens=0, cache_creation_input_tokens=written, cache_creation=lifetimes)
    fields = usage_fields("anthropic", response)
    assert (fields["cache_write_5m_tokens"], fields["cache_write_1h_tokens"]) == (1_600, 500)
    assert "cache_write_tokens" not in fields
    assert notes("anthropic", response).endswith(doubt)


def test_thinking_is_inside_the_output() -> None:
    fields = usage_fields(
        "anthropic", message(input_tokens=5, output_tokens=900, output_tokens_details={"thinking_tokens": 650})
    )
    assert (fields["output_tokens"], fields["reasoning_tokens"]) == (250, 650)


@pytest.mark.parametrize("tier", ["standard", "batch", "priority"])
def test_the_tier_is_the_one_that_served(tier: str) -> None:
    assert (
        usage_fields("anthropic", message(input_tokens=1, output_tokens=1, service_tier=tier))["service_tier"] == tier
    )


def test_a_tier_nobody_knows_does_not_pass_for_standard_unseen() -> None:
    response = message(input_tokens=1, output_tokens=1, service_tier="express")
    assert fields_of("anthropic", response) == {"input_tokens": 1, "output_tokens": 1, "usage_quality": "partial"}
    assert notes("anthropic", response) == "tier express unknown, priced as standard"


@pytest.mark.parametrize("provider", ["anthropic", "litellm"])
def test_fast_mode_is_a_tier_of_its_own_and_not_openais_priority(provider: str) -> None:
    fields = usage_fields(provider, message(input_tokens=1, output_tokens=1, speed="fast", service_tier="standard"))
    assert fields == {"input_tokens": 1, "output_tokens": 1, "service_tier": "fast"}
    of_litellm = {"prompt_tokens": 1, "completion_tokens": 1, "speed": "fast"}
    assert usage_fields(provider, {"usage": of_litellm})["service_tier"] == "fast"


@pytest.mark.parametrize(("stated", "geo"), [("us", "us"), ("global", "global"), ("not_available", None), (None, None)])
def test_where_the_call_was_bound_to_stay_is_a_field(stated: str | None, geo: str | None) -> None:
    response = message(input_tokens=1, output_tokens=1, inference_geo=stated)
    assert usage_fields("anthropic", response).get("inference_geo") == geo
    assert notes("anthropic", response) == ""


def test_a_compaction_is_billed_with_the_call_it_made_room_for() -> None:
    iterations = [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
        {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000},
    ]
    fields = usage_fields("anthropic", message(input_tokens=23_000, output_tokens=1_000, iterations=iterations))
    assert (fields["input_tokens"], fields["output_tokens"]) == (203_000, 4_500)


@pytest.mark.parametrize("provider", ["aws", "google", "azure"])
def test_claude_on_another_cloud_keeps_its_shape(provider: str) -> None:
    fields = usage_fields(provider, message(input_tokens=10, cache_read_input_tokens=90, output_tokens=5))
    assert fields == {"input_tokens": 10, "cache_read_tokens": 90, "output_tokens": 5}


def test_a_part_of_a_stream_does_not_pass_for_the_whole() -> None:
    start = {"type": "message_start", "message": message(input_tokens=10, cache_read_input_tokens=90, output_tokens=1)}
    fields = {"input_tokens": 10, "cache_read_tokens": 90, "output_tokens": 1, "usage_quality": "partial"}
    assert fields_of("anthropic", start) == fields
    assert notes("anthropic", start) == "message_start alone: output not final"
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 550}}
    assert notes("anthropic", delta) == "input_tokens not stated: a stream states them in message_start"
    whole = {**delta, "usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 550}}
    assert notes("anthropic", whole) == ""
    logged = {**message(input_tokens=10, output_tokens=1), "stop_reason": None}
    assert notes("anthropic", {"type": "assistant", "message": logged}) == "output not final: no stop_reason"


ADVISED: dict[str, Any] = {
    "input_tokens": 412,
    "output_tokens": 531,
    "iterations": [
        {"type": "message", "input_tokens": 412, "output_tokens": 89},
        {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 823, "output_tokens": 1_612},
        {"type": "message", "input_tokens": 0, "output_tokens": 442},
    ],
}


def test_an_advisor_is_a_call_of_its_own_that_one_event_would_drop() -> None:
    first, advisor = usage_events("anthropic", message(**ADVISED), service="s")
    assert (first["model_served"], first["input_tokens"], first["output_tokens"]) == ("claude-sonnet-4-5", 412, 531)
    assert (advisor["model_served"], advisor["input_tokens"], advisor["output_tokens"]) == (
        "claude-opus-4-8",
        823,
        1_612,
    )
    assert first["event_id"] != advisor["event_id"]
    with pytest.raises(
        SeveralCalls, match="2 priced calls, of claude-sonnet-4-5, claude-opus-4-8; one event would drop 1"
    ):
        usage_event("anthropic", message(**ADVISED), service="s")
    with pytest.raises(SeveralCalls, match="usage_events"):
        usage_fields("anthropic", message(**ADVISED))


def test_messages_that_sum_to_more_than_the_top_level_are_billed_and_noted() -> None:
    """With an advisor, the top level states the input of the first message alone."""
    first, second = (
        {"type": "message", "input_tokens": 412, "output_tokens": 89},
        {
            "type": "message",
            "input_tokens": 1_348,
            "cache_read_input_tokens": 412,
            "output_tokens": 442,
        },
    )
    response = message(input_tokens=412, output_tokens=531, iterations=[first, second])
    assert fields_of("anthropic", response) == {
        "input_tokens": 1_760,
        "cache_read_tokens": 412,
        "output_tokens": 531,
        "usage_quality": "partial",
    }
    assert notes("anthropic", response).startswith("the messages among iterations sum to 1760 input_tokens, not 412")
    assert notes("anthropic", message(input_tokens=1_760, cache_read_input_tokens=412, output_tokens=531)) == ""


def test_the_ids_of_several_events_follow_from_the_callers() -> None:
    event_id = "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77"
    ids = [
        [event["event_id"] for event in usage_events("anthropic", message(**ADVISED), service="s", event_id=event_id)]
        for _ in range(2)
    ]
    assert ids[0] == ids[1]
    assert ids[0][0] == event_id != ids[0][1]


def test_an_unknown_kind_of_iteration_and_an_unknown_lifetime_are_named() -> None:
    iterations = [{"type": "critic", "input_tokens": 7, "output_tokens": 0}]
    assert notes("anthropic", message(input_tokens=1, output_tokens=1, iterations=iterations)) == (
        "iterations.0.input_tokens 7 not read"
    )
    created = {"ephemeral_5m_input_tokens": 1, "ephemeral_24h_input_tokens": 9}
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 10, "cache_creation": created, "output_tokens": 1}
    assert notes("anthropic", message(**usage)) == "cache_creation.ephemeral_24h_input_tokens 9 not read"


def test_what_raises_the_price_and_no_event_can_state_is_named() -> None:
    one = {"input_tokens": 1, "output_tokens": 1}
    redeemed = {"status": {"type": "redeemed"}}
    assert notes("anthropic", message(**one, fallback_credit=redeemed)) == "fallback credit redeemed, not priced"
    assert units("anthropic", message(**one, server_tool_use={"code_execution_requests": 2})) == {"code_executions": 2}


@pytest.mark.parametrize("provider", ["anthropic", "litellm", "aws", "databricks", "openai-compatible"])
@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ({"cache_creation_input_tokens": 0}, {"input_tokens": 1_000}),
        ({"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}, {"input_tokens": 1_000}),
        ({"cache_read_input_tokens": 800}, {"input_tokens": 200, "cache_read_tokens": 800}),
        (
            {
                "cache_read_input_tokens": 400,
                "cache_creation_input_tokens": 500,
                "prompt_tokens_details": {
                    "cached_tokens": 400,
                    "text_tokens": 100,
                    "cache_creation_tokens": 500,
                    "cache_creation_token_details": {
                        "ephemeral_5m_input_tokens": 200,
                        "ephemeral_1h_input_tokens": 300,
                    },
                },
            },
            {
                "input_tokens": 100,
                "cache_read_tokens": 400,
                "cache_write_5m_tokens": 200,
                "cache_write_1h_tokens": 300,
            },
        ),
    ],
)
def test_claude_in_openais_shape_counts_the_cache_inside_the_prompt(
    provider: str, cache: dict[str, Any], expected: dict[str, int]
) -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 50, "total_tokens": 1_050, **cache}
    assert usage_fields(provider, {"model": "claude-sonnet-4-6", "usage": usage}) == {**expected, "output_tokens": 50}
    assert usage_fields(provider, usage) == {**expected, "output_tokens": 50}


def test_a_gateway_that_counts_under_both_apis_names_is_read_once() -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 50, "total_tokens": 1_050, "cache_read_input_tokens": 800}
    for same in ({"input_tokens": 200, "output_tokens": 50}, {"input_tokens": 1_000, "output_tokens": 50}):
        assert usage_fields("anthropic", {**usage, **same}) == {
            "input_tokens": 200,
            "cache_read_tokens": 800,
            "output_tokens": 50,
        }
    assert "input_tokens 300 is not" in notes("anthropic", {**usage, "input_tokens": 300, "output_tokens": 50})


def test_a_line_of_a_batchs_results_is_billed_as_batch() -> None:
    body = message(input_tokens=24, output_tokens=8, service_tier="standard")
    line = {"custom_id": "r-1", "result": {"type": "succeeded", "message": body}}
    assert usage_fields("anthropic", line) == {"input_tokens": 24, "output_tokens": 8, "service_tier": "batch"}
    assert usage_fields("aws", {"recordId": "1", "modelInput": {}, "modelOutput": body})["service_tier"] == "batch"
