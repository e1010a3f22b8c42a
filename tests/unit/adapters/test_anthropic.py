"""Anthropic's shape: cache reads and writes stand beside the input."""

from typing import Any

import pytest

from spendstream.adapters import InconsistentUsage, usage_fields


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


def test_lifetimes_that_sum_to_more_than_was_written_are_refused() -> None:
    lifetimes = {"ephemeral_5m_input_tokens": 1_600, "ephemeral_1h_input_tokens": 500}
    with pytest.raises(
        InconsistentUsage,
        match=r"ephemeral_1h_input_tokens: 500 tokens, more than the 400 that other parts leave of the 2000",
    ):
        usage_fields("anthropic", message(cache_creation_input_tokens=2_000, cache_creation=lifetimes))


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


@pytest.mark.parametrize("unpriceable", [{"service_tier": "express"}, {"speed": "fast", "service_tier": "standard"}])
def test_a_tier_nobody_knows_does_not_pass_for_standard_unseen(unpriceable: dict[str, Any]) -> None:
    fields = usage_fields("anthropic", message(input_tokens=1, output_tokens=1, **unpriceable))
    assert fields == {"input_tokens": 1, "output_tokens": 1, "usage_quality": "partial"}


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


def test_a_stream_states_its_input_when_it_starts() -> None:
    start = {"type": "message_start", "message": message(input_tokens=10, cache_read_input_tokens=90, output_tokens=1)}
    assert usage_fields("anthropic", start) == {"input_tokens": 10, "cache_read_tokens": 90, "output_tokens": 1}
