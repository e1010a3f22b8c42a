"""Bedrock Converse's shape: the cache stands beside the input."""

from typing import Any

from spendstream.adapters import usage_fields
from tests.unit.adapters.doubts import notes


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


def test_an_unknown_lifetime_is_named() -> None:
    details = [{"ttl": "24h", "inputTokens": 1_000}]
    assert notes("aws", converse(5_300, cacheDetails=details)) == "cacheDetails.0.inputTokens 1000 not read"


def test_a_stream_states_its_usage_in_its_metadata() -> None:
    metadata = converse(5_300) | {"serviceTier": {"type": "priority"}}
    assert usage_fields("bedrock", {"metadata": metadata})["service_tier"] == "priority"
