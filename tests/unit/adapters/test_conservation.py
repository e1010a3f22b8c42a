"""No count of a usage object disappears, whatever the object: laws over random objects of each shape."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spendstream.adapters import AdapterError, UsageStream, usage_events
from spendstream.adapters.event import read
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field

COUNT = st.integers(0, 1_000) | st.just(0)


def details(*names: str) -> st.SearchStrategy[Any]:
    return st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(names, st.none() | COUNT))


def modalities(name: str) -> st.SearchStrategy[Any]:
    entry = st.fixed_dictionaries(
        {"modality": st.sampled_from(["TEXT", "AUDIO", "IMAGE", "VIDEO", "DOCUMENT"]), name: COUNT}
    )
    return st.lists(entry, max_size=3)


@dataclass(frozen=True)
class Random:
    """Random usage objects of a shape: ``total`` is its total's field; ``ignored`` ends the paths of leaves by rule."""

    provider: str
    required: dict[str, st.SearchStrategy[Any]]
    optional: dict[str, st.SearchStrategy[Any]]
    total: str | None
    ignored: tuple[str, ...] = ()

    @property
    def objects(self) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(self.required, optional=self.optional)


PROMPT = ("cached_tokens", "audio_tokens", "image_tokens", "text_tokens", "video_tokens", "cache_creation_tokens")
COMPLETION = ("reasoning_tokens", "audio_tokens", "image_tokens", "text_tokens", "accepted_prediction_tokens")
INSIDE = ("text_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens", "video_tokens")
LIFETIMES = details("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")

RANDOM: dict[str, Random] = {
    "chat": Random(
        "openai",
        {"prompt_tokens": COUNT, "completion_tokens": COUNT},
        {
            "total_tokens": COUNT,
            "prompt_tokens_details": details(*PROMPT),
            "completion_tokens_details": details(*COMPLETION),
        },
        "total_tokens",
        INSIDE,
    ),
    "gemini as chat": Random(
        "google",
        {"prompt_tokens": COUNT, "completion_tokens": COUNT},
        {"total_tokens": COUNT, "completion_tokens_details": details("reasoning_tokens")},
        "total_tokens",
    ),
    "litellm": Random(
        "anthropic",
        {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT},
        {
            "cache_read_input_tokens": COUNT,
            "cache_creation_input_tokens": COUNT,
            "cache_creation": LIFETIMES,
            "input_tokens": COUNT,
            "output_tokens": COUNT,
            "prompt_tokens_details": details(*PROMPT),
            "completion_tokens_details": details(*COMPLETION),
            "server_tool_use": details("web_search_requests"),
        },
        "total_tokens",
        INSIDE,
    ),
    "deepseek": Random(
        "deepseek",
        {"prompt_tokens": COUNT, "completion_tokens": COUNT},
        {"total_tokens": COUNT, "prompt_cache_hit_tokens": COUNT, "prompt_cache_miss_tokens": COUNT},
        "total_tokens",
    ),
    "responses": Random(
        "openai",
        {"input_tokens": COUNT, "output_tokens": COUNT},
        {
            "total_tokens": COUNT,
            "input_tokens_details": details("cached_tokens", "cache_write_tokens", "text_tokens", "image_tokens"),
            "output_tokens_details": details("reasoning_tokens", "text_tokens", "image_tokens"),
        },
        "total_tokens",
        INSIDE,
    ),
    "anthropic": Random(
        "anthropic",
        {"input_tokens": COUNT, "output_tokens": COUNT},
        {
            "cache_read_input_tokens": st.none() | COUNT,
            "cache_creation_input_tokens": st.none() | COUNT,
            "cache_creation": LIFETIMES,
            "output_tokens_details": details("thinking_tokens"),
            "server_tool_use": details("web_search_requests", "code_execution_requests"),
            "total_tokens": COUNT,
        },
        "total_tokens",
    ),
    "bedrock": Random(
        "aws",
        {"inputTokens": COUNT, "outputTokens": COUNT},
        {
            "totalTokens": COUNT,
            "cacheReadInputTokens": COUNT,
            "cacheWriteInputTokens": COUNT,
            "cacheDetails": st.lists(
                st.fixed_dictionaries({"ttl": st.sampled_from(["5m", "1h", "2h"]), "inputTokens": COUNT}), max_size=3
            ),
        },
        None,
    ),
    "gemini": Random(
        "google",
        {"promptTokenCount": COUNT},
        {
            "candidatesTokenCount": COUNT,
            "totalTokenCount": COUNT,
            "thoughtsTokenCount": COUNT,
            "toolUsePromptTokenCount": COUNT,
            "cachedContentTokenCount": COUNT,
            "promptTokensDetails": modalities("tokenCount"),
            "candidatesTokensDetails": modalities("tokenCount"),
            "cacheTokensDetails": modalities("tokenCount"),
        },
        "totalTokenCount",
        ("tokenCount",),  # of text and of video, they stay in the count that they detail
    ),
    "langchain": Random(
        "anthropic",
        {"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT},
        {
            "input_token_details": details("cache_read", "cache_creation", "audio", "ephemeral_5m_input_tokens"),
            "output_token_details": details("reasoning", "audio"),
        },
        "total_tokens",
    ),
    "ai sdk": Random(
        "openai",
        {"inputTokens": COUNT, "outputTokens": COUNT},
        {
            "totalTokens": COUNT,
            "cachedInputTokens": COUNT,
            "reasoningTokens": COUNT,
            "inputTokenDetails": details("noCacheTokens", "cacheReadTokens", "cacheWriteTokens"),
            "outputTokenDetails": details("textTokens", "reasoningTokens"),
        },
        None,
        ("textTokens",),
    ),
    "cohere": Random(
        "cohere",
        {"billed_units": details("input_tokens", "output_tokens", "search_units", "classifications").filter(bool)},
        {"tokens": details("input_tokens", "output_tokens"), "cached_tokens": COUNT},
        None,
        ("tokens.input_tokens", "tokens.output_tokens"),
    ),
}


def reading(provider: str, usage: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (the event's counts, what is in doubt) of a usage object."""
    (call,) = read(provider, {"usage": usage}).calls
    counts = {**call.fields, **call.fields.get("units", {})}
    counts.pop("units", None)
    notes = counts.pop("usage_notes", [])
    assert bool(notes) == (counts.pop("usage_quality", "") == "partial")
    return {name: float(n) for name, n in counts.items()}, notes


def tokens_of(counts: Mapping[str, Any]) -> int:
    return sum(counts.get(tokens_field(bucket), 0) for bucket in TOKEN_BUCKETS)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the numbers that are not 0."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from paths(inner, (*path, name))
    if isinstance(value, int) and value:
        yield path


def changed(usage: dict[str, Any], path: tuple[Any, ...], by: int) -> dict[str, Any]:
    other = copy.deepcopy(usage)
    holder: Any = other
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] += by
    return other


@pytest.mark.parametrize("shape", RANDOM)
@given(data=st.data())
@settings(max_examples=80)
def test_buckets_of_an_event_that_nothing_is_in_doubt_about_sum_to_the_total(shape: str, data: st.DataObject) -> None:
    of = RANDOM[shape]
    usage = data.draw(of.objects)
    counts, doubts = reading(of.provider, usage)
    assert min(counts.values()) >= 0
    if of.total and usage.get(of.total) and not doubts:
        assert tokens_of(counts) == usage[of.total]


@pytest.mark.parametrize("shape", RANDOM)
@given(data=st.data())
@settings(max_examples=60)
def test_each_count_matters(shape: str, data: st.DataObject) -> None:
    """One more of any count that is not ignored by rule changes a bucket, or what is in doubt."""
    of = RANDOM[shape]
    usage = data.draw(of.objects)
    before = reading(of.provider, usage)
    for path in paths(usage):
        if not ".".join(map(str, path)).endswith(of.ignored):
            after = reading(of.provider, changed(usage, path, 1))
            assert after != before or before[1], path


@pytest.mark.parametrize("shape", RANDOM)
@given(data=st.data())
@settings(max_examples=50)
def test_a_number_that_no_adapter_knows_is_named(shape: str, data: st.DataObject) -> None:
    of = RANDOM[shape]
    usage = data.draw(of.objects)
    holders = [usage, *(inner for inner in usage.values() if isinstance(inner, dict) and inner)]
    position = data.draw(st.integers(0, len(holders) - 1))
    if holders[position] is usage.get("tokens"):
        return  # Cohere: ignored as a whole
    holders[position]["hologram_tokens"] = data.draw(st.integers(1, 10**9))
    _, doubts = reading(of.provider, usage)
    assert any("hologram" in doubt for doubt in doubts)


@pytest.mark.parametrize("shape", RANDOM)
@given(data=st.data())
@settings(max_examples=50)
def test_any_json_beside_the_counts_gives_an_event(shape: str, data: st.DataObject) -> None:
    of = RANDOM[shape]
    usage = data.draw(of.objects)
    names = st.sampled_from([*of.required, *of.optional, "cost", "iterations", "x"])
    odd = st.none() | st.booleans() | st.text(max_size=3) | st.floats() | st.lists(st.integers(), max_size=2)
    more = data.draw(
        st.dictionaries(
            names.filter(lambda name: name not in (*of.required, "input_tokens", "output_tokens")), odd, max_size=3
        )
    )
    counts, _ = reading(of.provider, {**usage, **more})
    assert min(counts.values()) >= 0


FIELDS = (
    *("steps", "messages", "generations", "modelUsage", "choices", "output", "candidates", "data", "tools", "name"),
    *("usage", "usageMetadata", "message", "response", "result", "body", "metadata", "meta", "trace", "tool_usage"),
    *("svg_usage", "usage_breakdown", "x_groq", "embeddings", "predictions", "generated_images", "ResponseMetadata"),
    *("groundingMetadata", "groundingChunks", "webSearchQueries", "executed_tools", "iterations", "server_tool_use"),
    *("prompt_tokens", "input_tokens", "inputTokens", "promptTokenCount", "billed_units", "seconds", "type", "model"),
    *("prompt_tokens_details", "input_token_details", "cacheDetails", "promptTokensDetails", "statistics", "duration"),
    *(
        "connectors",
        "extra_properties",
        "google",
        "image_gen",
        "models",
        "results",
        "delta",
        "session",
        "event",
        "text",
    ),
)
TANGLE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["", "message", "x", "batch"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(["openai", "anthropic", "google", "aws", "cohere", "mistral", "groq", "perplexity"]), TANGLE)
@settings(max_examples=400)
def test_whatever_an_answer_holds_it_is_events_or_a_refusal_that_says_why(provider: str, answer: Any) -> None:
    with contextlib.suppress(AdapterError, ValidationError):  # the event refuses more than 100 million tokens
        assert all(event["service"] == "s" for event in usage_events(provider, answer, service="s", model="m"))
    stream = UsageStream(provider, service="s", model="m")
    if isinstance(answer, dict):
        stream.add(answer)
        with contextlib.suppress(AdapterError, ValidationError):
            assert stream.events()
