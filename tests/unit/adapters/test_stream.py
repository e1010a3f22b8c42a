"""Streamed calls, chunk by chunk: the whole, and what is left of one that broke off."""

import json
from typing import Any

import pytest

from spendstream.adapters import UsageStream, as_record, usage_event

COUNTS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "web_searches",
)

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
RESPONSE = {
    "id": "resp_1",
    "model": "gpt-5",
    "service_tier": "flex",
    "output": [{"type": "web_search_call"}, {"type": "message"}],
    "usage": {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120},
}


def chat(**rest: Any) -> dict[str, Any]:
    return {"id": "c-1", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": [], **rest}


def said(text: str, finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]


def invoked(body: dict[str, Any]) -> dict[str, Any]:
    """Return an event of Bedrock's InvokeModelWithResponseStream."""
    return {"chunk": {"bytes": json.dumps(body).encode()}}


STREAMS: dict[str, tuple[str, list[dict[str, Any]], dict[str, int], str]] = {
    "chat": (
        "openai",
        [chat(choices=said("a")), chat(choices=said("", "stop"), usage=None), chat(usage=USAGE)],
        {"input_tokens": 100, "output_tokens": 20},
        "gpt-4o",
    ),
    "cumulative chat": (
        "perplexity",
        [
            chat(choices=said("a"), usage={**USAGE, "completion_tokens": 1, "total_tokens": 101}),
            chat(choices=said("b", "stop"), usage=USAGE),
        ],
        {"input_tokens": 100, "output_tokens": 20},
        "gpt-4o",
    ),
    "groq": (
        "groq",
        [chat(choices=said("a"), x_groq={"id": "r"}), chat(choices=said("", "stop"), x_groq={"usage": USAGE})],
        {"input_tokens": 100, "output_tokens": 20},
        "gpt-4o",
    ),
    "responses": (
        "openai",
        [
            {"type": "response.created", "response": {"id": "resp_1", "model": "gpt-5", "usage": None}},
            {"type": "response.output_text.delta", "delta": "a"},
            {"type": "response.completed", "response": RESPONSE},
        ],
        {"input_tokens": 100, "output_tokens": 20, "web_searches": 1},
        "gpt-5",
    ),
    "anthropic": (
        "anthropic",
        [
            {
                "type": "message_start",
                "message": {
                    "id": "msg_1",
                    "type": "message",
                    "model": "claude-sonnet-4-6",
                    "stop_reason": None,
                    "usage": {
                        "input_tokens": 14,
                        "cache_creation_input_tokens": 8_012,
                        "cache_read_input_tokens": 120_000,
                        "output_tokens": 1,
                    },
                },
            },
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 550}},
            {"type": "message_stop"},
        ],
        {"input_tokens": 14, "cache_read_tokens": 120_000, "cache_write_tokens": 8_012, "output_tokens": 550},
        "claude-sonnet-4-6",
    ),
    "gemini": (
        "google",
        [
            {
                "modelVersion": "gemini-3-flash-preview",
                "candidates": [{"groundingMetadata": {"webSearchQueries": ["q", "r"]}}],
                "usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 100},
            },
            {
                "modelVersion": "gemini-3-flash-preview",
                "candidates": [{"finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["q"]}}],
                "usageMetadata": {
                    "promptTokenCount": 100,
                    "candidatesTokenCount": 20,
                    "thoughtsTokenCount": 7,
                    "totalTokenCount": 127,
                },
            },
        ],
        {"input_tokens": 100, "output_tokens": 20, "reasoning_tokens": 7, "web_searches": 2},
        "gemini-3-flash-preview",
    ),
    "bedrock": (
        "aws",
        [
            {"messageStart": {"role": "assistant"}},
            {"contentBlockDelta": {"delta": {"text": "a"}}},
            {"messageStop": {"stopReason": "end_turn"}},
            {
                "metadata": {
                    "usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15},
                    "metrics": {"latencyMs": 8},
                }
            },
        ],
        {"input_tokens": 10, "output_tokens": 5},
        "asked-for",
    ),
    "cohere": (
        "cohere",
        [
            {"type": "message-start", "id": "m-1"},
            {"type": "message-end", "delta": {"usage": {"billed_units": {"input_tokens": 5, "output_tokens": 9}}}},
        ],
        {"input_tokens": 5, "output_tokens": 9},
        "asked-for",
    ),
    "cohere's first version": (
        "cohere",
        [
            {"event_type": "text-generation", "text": "a"},
            {
                "event_type": "stream-end",
                "response": {"meta": {"billed_units": {"input_tokens": 5, "output_tokens": 9}}},
            },
        ],
        {"input_tokens": 5, "output_tokens": 9},
        "asked-for",
    ),
    "llama on bedrock": (
        "aws",
        [
            invoked({"generation": "a", "prompt_token_count": 10, "generation_token_count": 1}),
            invoked(
                {
                    "generation": "b",
                    "prompt_token_count": None,
                    "generation_token_count": 5,
                    "stop_reason": "stop",
                    "amazon-bedrock-invocationMetrics": {
                        "inputTokenCount": 10,
                        "outputTokenCount": 5,
                        "invocationLatency": 900,
                        "firstByteLatency": 300,
                    },
                }
            ),
        ],
        {"input_tokens": 10, "output_tokens": 5},
        "asked-for",
    ),
    "ollama": (
        "ollama",
        [
            {"model": "llama3", "message": {"content": "a"}, "done": False},
            {"model": "llama3", "done": True, "prompt_eval_count": 10, "eval_count": 5, "eval_duration": 9},
        ],
        {"input_tokens": 10, "output_tokens": 5},
        "llama3",
    ),
}


@pytest.mark.parametrize("protocol", STREAMS)
def test_a_whole_stream_gives_the_event_of_the_call(protocol: str) -> None:
    provider, chunks, counts, model = STREAMS[protocol]
    stream = UsageStream(provider, service="s", model="asked-for", team="growth")
    for chunk in chunks:
        stream.add(chunk)
    (event,) = stream.events()
    assert {name: event[name] for name in COUNTS if event.get(name)} == counts
    assert "usage_quality" not in event
    assert (event.get("model_served") or event["model_requested"], event["team"]) == (model, "growth")
    assert as_record(event)


@pytest.mark.parametrize("protocol", STREAMS)
def test_a_stream_that_broke_off_anywhere_gives_a_partial_event(protocol: str) -> None:
    provider, chunks, counts, _ = STREAMS[protocol]
    ending = 2 if protocol == "anthropic" else 1  # a message_delta with a stop reason is the end already
    for length in range(len(chunks) - ending + 1):
        stream = UsageStream(provider, service="s", model="asked-for")
        for chunk in chunks[:length]:
            stream.add(chunk)
        (event,) = stream.events()
        assert event["usage_quality"] == "partial"
        assert "; ".join(event["usage_notes"]).startswith(("stream broke off", "stream stated no usage"))
        assert all(event.get(name, 0) <= counts.get(name, 0) for name in COUNTS)


def test_a_broken_stream_keeps_what_was_stated_of_the_input() -> None:
    _, chunks, counts, _ = STREAMS["anthropic"]
    stream = UsageStream("anthropic", service="s")
    for chunk in chunks[:3]:
        stream.add(chunk)
    (event,) = stream.events()
    assert [event[name] for name in COUNTS[:3]] == [counts[name] for name in COUNTS[:3]]
    assert "; ".join(event["usage_notes"]) == "stream broke off"


def test_a_delta_that_repeats_the_input_as_0_does_not_erase_it() -> None:
    _, chunks, counts, _ = STREAMS["anthropic"]
    zeros = {"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 550}
    stream = UsageStream("anthropic", service="s")
    for chunk in (*chunks[:3], {**chunks[3], "usage": zeros}, chunks[4]):
        stream.add(chunk)
    (event,) = stream.events()
    assert {name: event[name] for name in COUNTS if event.get(name)} == counts


def test_a_stream_without_the_usage_that_it_was_not_asked_for_says_how_to_ask() -> None:
    stream = UsageStream("openai", service="s")
    for chunk in STREAMS["chat"][1][:2]:
        stream.add(chunk)
    (event,) = stream.events()
    assert (event["input_tokens"], event["usage_quality"]) == (0, "partial")
    assert "include_usage" in "; ".join(event["usage_notes"])


def test_several_responses_on_one_connection_are_several_events_with_lasting_ids() -> None:
    stream = UsageStream("openai", service="s")
    for number in range(2):
        stream.add({"type": "response.done", "response": {**RESPONSE, "id": f"resp_{number}"}})
    events = stream.events()
    assert [event["provider_response_id"] for event in events] == ["resp_0", "resp_1"]
    ids = [event["event_id"] for event in events]
    assert len(set(ids)) == 2
    assert [event["event_id"] for event in stream.events()] == ids


def test_claude_streams_alike_through_bedrocks_invoke() -> None:
    _, chunks, counts, _ = STREAMS["anthropic"]
    stream = UsageStream("aws", service="s")
    for chunk in chunks:
        stream.add(invoked(chunk))
    (event,) = stream.events()
    assert {name: event[name] for name in COUNTS if event.get(name)} == counts
    assert "usage_quality" not in event


def test_speech_is_audio_and_a_transcript_is_text() -> None:
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    for kind, bucket in (("speech.audio.done", "output_audio_tokens"), ("transcript.text.done", "output_tokens")):
        stream = UsageStream("openai", service="s", model="m")
        stream.add({"type": kind.replace("done", "delta"), "delta": "…"})
        assert "usage_notes" in stream.events()[0]
        stream.add({"type": kind, "usage": usage})
        (event,) = stream.events()
        assert event[bucket] == 101
        assert "usage_notes" not in event


def test_a_transcription_by_a_model_that_no_event_names_has_no_price_and_is_not_lost() -> None:
    kind = "conversation.item.input_audio_transcription.completed"
    stream = UsageStream("openai", service="s", model="gpt-realtime")
    stream.add({"type": kind, "usage": {"type": "duration", "seconds": 7}})
    (event,) = stream.events()
    assert (event["model_requested"], event["units"]) == ("unstated", {"audio_seconds": 7})


def test_the_steps_of_an_ai_sdk_stream_are_events_of_their_own() -> None:
    stream = UsageStream("openai", service="s", model="gpt-5")
    for sent in (10, 30):
        stream.add({"type": "text-delta", "text": "a"})
        usage = {"inputTokens": sent, "outputTokens": 5, "totalTokens": sent + 5}
        stream.add({"type": "finish-step", "usage": usage, "response": {"modelId": "gpt-5-mini"}})
    stream.add({"type": "finish", "totalUsage": {"inputTokens": 40, "outputTokens": 10, "totalTokens": 50}})
    events = stream.events()
    assert [(event["input_tokens"], event["model_served"]) for event in events] == [
        (10, "gpt-5-mini"),
        (30, "gpt-5-mini"),
    ]


def test_tools_that_groq_ran_while_it_streamed_are_counted_once() -> None:
    search = {"index": 0, "type": "search", "arguments": ""}
    stream = UsageStream("groq", service="s", model="groq/compound")
    for tools in ([search], [search, {"index": 1, "type": "search", "arguments": ""}]):
        stream.add(chat(choices=[{"index": 0, "delta": {"executed_tools": tools}}]))
    stream.add(chat(choices=said("", "stop"), x_groq={"usage": USAGE}))
    (event,) = stream.events()
    assert event["web_searches"] == 2


def test_a_stream_reads_as_the_same_call_answered_whole() -> None:
    stream = UsageStream("openai", service="s")
    stream.add({"type": "response.completed", "response": RESPONSE})
    (event,) = stream.events()
    whole = usage_event("openai", RESPONSE, service="s")
    own = ("event_id", "occurred_at")
    assert {k: v for k, v in event.items() if k not in own} == {k: v for k, v in whole.items() if k not in own}


def test_a_field_that_events_do_not_have_is_refused_before_the_call() -> None:
    with pytest.raises(TypeError, match="did you mean 'customer'"):
        UsageStream("openai", service="s", custommer="acme")
