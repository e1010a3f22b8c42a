"""Bedrock Converse's shape: the cache stands beside the input."""

from typing import Any

import pytest

from spendstream.adapters import usage_event, usage_fields
from tests.unit.adapters.doubts import notes, units


def converse(total: int, **rest: Any) -> dict[str, Any]:
    usage = {
        "inputTokens": 100,
        "cacheReadInputTokens": 4_000,
        "cacheWriteInputTokens": 1_000,
        "outputTokens": 200,
        "totalTokens": total,
        **rest,
    }
    return {"stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1_275}}


def test_cache_is_added_to_the_input_and_the_total_has_everything() -> None:
    fields = usage_fields("aws", converse(5_300))
    assert fields == {
        "input_tokens": 100,
        "cache_read_tokens": 4_000,
        "cache_write_tokens": 1_000,
        "output_tokens": 200,
    }
    assert sum(map(int, fields.values())) == 5_300


def test_lifetimes_are_separate_buckets_and_their_remainder_is_kept() -> None:
    details = [{"ttl": "5m", "inputTokens": 600}, {"ttl": "1h", "inputTokens": 300}]
    fields = usage_fields("aws.bedrock", converse(5_300, cacheDetails=details))
    assert [fields[f"cache_write{life}_tokens"] for life in ("_5m", "_1h", "")] == [600, 300, 100]


def test_a_total_without_the_cache_changes_nothing() -> None:
    assert usage_fields("aws", converse(300)) == usage_fields("aws", converse(5_300))


def test_a_total_that_fits_no_reading_is_noted() -> None:
    assert notes("aws", converse(301)) == "totalTokens 301 is not the sum of its parts, 5300"
    assert usage_fields("aws", converse(301)).items() >= usage_fields("aws", converse(300)).items()


def test_counts_that_are_repeated_under_an_older_name_are_read_once() -> None:
    again = {"cacheReadInputTokenCount": 4_000, "cacheWriteInputTokenCount": 1_000}
    assert usage_fields("aws", converse(5_300, **again)) == usage_fields("aws", converse(5_300))
    doubt = "cacheReadInputTokens 4000 is not cacheReadInputTokenCount 4001"
    assert doubt in notes("aws", converse(5_301, cacheReadInputTokenCount=4_001))


def test_lifetimes_without_what_was_written_are_billed_and_noted() -> None:
    usage = converse(4_300, cacheWriteInputTokens=0, cacheDetails=[{"ttl": "5m", "inputTokens": 600}])
    assert usage_fields("aws", usage)["cache_write_5m_tokens"] == 600
    assert "cacheDetails 600 exceed cacheWriteInputTokens 0" in notes("aws", usage)


def test_an_unknown_lifetime_is_named() -> None:
    details = [{"ttl": "24h", "inputTokens": 1_000}]
    assert notes("aws", converse(5_300, cacheDetails=details)) == "cacheDetails.0.inputTokens 1000 not read"


def test_lower_latency_has_a_price_of_its_own_that_is_not_known() -> None:
    assert notes("aws", converse(5_300) | {"performanceConfig": {"latency": "standard"}}) == ""
    assert notes("aws", converse(5_300) | {"performanceConfig": {"latency": "optimized"}}).startswith("latency")


def test_the_text_units_of_guardrails_are_counted_by_policy_and_free_ones_are_not() -> None:
    def applied(**usage: int) -> dict[str, Any]:
        return {"invocationMetrics": {"usage": usage}}

    guardrail = {
        "inputAssessment": {"g": applied(contentPolicyUnits=2, sensitiveInformationPolicyFreeUnits=2)},
        "outputAssessments": {"g": [applied(contentPolicyUnits=1, topicPolicyUnits=3), applied(topicPolicyUnits=0)]},
    }
    expected = {"guardrail_content_policy_units": 3, "guardrail_topic_policy_units": 3}
    assert units("aws", converse(5_300) | {"trace": {"guardrail": guardrail}}) == expected


@pytest.mark.parametrize(
    ("model", "region"),
    [
        ("arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/abc", "eu-west-1"),
        ("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/anthropic.claude-sonnet-4-5", "us-gov-west-1"),
        ("projects/p/locations/europe-west4/publishers/google/models/gemini-3.5-flash", "europe-west4"),
        ("anthropic.claude-sonnet-4-5", None),
    ],
)
def test_the_region_is_that_of_the_models_full_name_unless_the_caller_states_one(
    model: str, region: str | None
) -> None:
    event = usage_event("aws", converse(5_300), service="s", model=model)
    assert event.get("region") == region
    assert usage_event("aws", converse(5_300), service="s", model=model, region="mars")["region"] == "mars"


def test_a_stream_states_its_usage_in_its_metadata() -> None:
    metadata = converse(5_300) | {"serviceTier": {"type": "priority"}}
    assert usage_fields("bedrock", {"metadata": metadata})["service_tier"] == "priority"
