"""The provider's own counts, kept beside ours where a service asks for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.adapters.event import as_record, usage_event
from spendstream.adapters.raw import MAX_TAGS, OMITTED, usage_tags
from spendstream.core.ledger import ledger_table
from spendstream.core.meter import MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.schemas.rollup import DIMENSIONS
from tests.unit.log import LATER, NOON, Log

CHAT: dict[str, Any] = {
    "id": "chatcmpl-7",
    "model": "gpt-4o",
    "usage": {
        "prompt_tokens": 1_000,
        "completion_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 0},
        "service_tier": "default",
    },
}
KEPT = {
    "usage.prompt_tokens": "1000",
    "usage.completion_tokens": "300",
    "usage.prompt_tokens_details.cached_tokens": "400",
}


def event(response: dict[str, Any] = CHAT, **fields: Any) -> dict[str, Any]:
    return usage_event("openai", response, service="search", occurred_at=NOON, **fields)


def test_the_providers_counts_are_kept_only_where_asked_for() -> None:
    assert "tags" not in event()
    assert event(keep_usage=True)["tags"] == KEPT


def test_a_services_own_tags_stay_and_win() -> None:
    own = {"experiment": "b", "usage.prompt_tokens": "mine"}
    assert event(keep_usage=True, tags=own)["tags"] == {**KEPT, **own}


def test_kept_counts_change_no_other_field() -> None:
    plain, kept = event(), event(keep_usage=True)
    assert {**plain, "event_id": None} == {**{k: v for k, v in kept.items() if k != "tags"}, "event_id": None}


def test_what_a_list_counts_goes_by_its_modality_or_by_its_place() -> None:
    of_modality = [{"modality": "TEXT", "tokenCount": 5}, {"modality": "AUDIO", "tokenCount": 7}]
    assert usage_tags({"promptTokensDetails": of_modality}) == {
        "usage.promptTokensDetails.TEXT.tokenCount": "5",
        "usage.promptTokensDetails.AUDIO.tokenCount": "7",
    }
    assert usage_tags({"iterations": [{"type": "message", "n": 1}, {"type": "message", "n": 2}]}) == {
        "usage.iterations.0.n": "1",
        "usage.iterations.1.n": "2",
    }


def test_numbers_that_no_provider_would_say_are_left_out_and_counted() -> None:
    assert usage_tags({"n": 1, "a b": 2, "\x00": 3, "m": 10**40}) == {"usage.n": "1", OMITTED: "3"}


def test_text_is_never_kept() -> None:
    said = {"note": "a prompt", "parts": [{"type": "tell me a secret", "n": 1}, {"type": "x\n", "n": 2}], "ok": True}
    assert usage_tags(said) == {"usage.parts.0.n": "1", "usage.parts.1.n": "2"}


@pytest.mark.parametrize(("numbers", "omitted"), [(30, None), (31, 2)])
def test_counts_beyond_the_tags_that_an_event_may_have_are_counted(numbers: int, omitted: int | None) -> None:
    """Two tags are the service's own: of 32 that leaves 30, or 29 and the number of those left out."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "inner": {f"n{i}": i + 1 for i in range(numbers - 2)}}
    tags = event({**CHAT, "usage": usage}, keep_usage=True, tags={"a": "1", "b": "2"})["tags"]
    assert len(tags) == MAX_TAGS
    assert tags.get(OMITTED) == (None if omitted is None else str(omitted))
    assert tags["usage.prompt_tokens"] == "1"


NAMES = st.text(max_size=3) | st.sampled_from(["n", "type", "modality", "x" * 300])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.sampled_from(["TEXT", "a b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=8))
@settings(max_examples=60, deadline=None)
def test_whatever_else_a_provider_says_the_event_stays_valid(more: dict[str, Any]) -> None:
    made = event({**CHAT, "usage": {**more, **CHAT["usage"]}}, keep_usage=True)
    assert made["tags"].items() >= KEPT.items()


def test_the_ledger_keeps_them_and_the_rollups_know_nothing_of_them(acme_book: PriceBook) -> None:
    log = Log()
    for keep in (False, True):
        log.append(as_record(event(keep_usage=keep))[1])
    meter = PartitionMeter(new_marker(0, "life-1", -1), MeterRules(), acme_book)
    meter.absorb(log.batch(), LATER)
    taken = meter.take()
    assert taken.calls is not None
    rows = ledger_table(taken.calls, partition=0, source_log="life-1").to_pylist()
    assert [json.loads(row["tags"] or "{}") for row in rows] == [{}, KEPT]
    assert len(taken.rollups) == 1
    assert "tags" not in DIMENSIONS
