"""Responses as the providers' own packages give them: objects of their types, passed as they are or dumped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest

from spendstream.adapters import UsageStream, as_record, usage_events
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from tests.sdks.install import load

Json = dict[str, Any]

READ: Final = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "units", "service_tier", "capacity", "inference_geo")


def read_of(event: Mapping[str, Any]) -> Json:
    """Return what an event says was used, and how; its model, and why it is in doubt."""
    read = {field: event[field] for field in READ if event.get(field)}
    return {**read, **{name: event[name] for name in ("model_served", "usage_notes") if name in event}}


@dataclass(frozen=True)
class Answer:
    """A response of a package's type, and what is to be read of it: one or several events."""

    provider: str
    module: str
    name: str
    stated: Json
    expected: Json | list[Json]

    def made(self) -> Any:
        return getattr(load(self.module), self.name).model_validate(self.stated)

    @property
    def events(self) -> list[Json]:
        return self.expected if isinstance(self.expected, list) else [self.expected]


CHAT_USAGE: Final = {
    "prompt_tokens": 1_000,
    "completion_tokens": 300,
    "total_tokens": 1_300,
    "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 50, "cache_write_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 120, "audio_tokens": 30, "accepted_prediction_tokens": 9},
}
CHAT_READ: Final = {
    "input_tokens": 450,
    "cache_read_tokens": 400,
    "cache_write_tokens": 100,
    "input_audio_tokens": 50,
    "output_tokens": 150,
    "reasoning_tokens": 120,
    "output_audio_tokens": 30,
}
CHOICE: Final = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
CHAT: Final = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "gpt-5.2",
    "service_tier": "flex",
    "choices": [CHOICE],
    "usage": CHAT_USAGE,
}
RESPONSE: Final = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_790_000_000.0,
    "model": "gpt-5.5",
    "service_tier": "default",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [{"type": "image_generation", "model": "gpt-image-2"}],
    "output": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"]},
        {"type": "code_interpreter_call", "id": "ci_1", "status": "completed", "container_id": "c-1", "code": ""},
    ],
    "usage": {
        "input_tokens": 1_820,
        "input_tokens_details": {"cached_tokens": 1_000, "cache_write_tokens": 0},
        "output_tokens": 210,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 2_030,
    },
    "tool_usage": {
        "image_gen": {
            "input_tokens": 90,
            "input_tokens_details": {"text_tokens": 50, "image_tokens": 40},
            "cached_tokens": 30,
            "cached_tokens_details": {"cached_text_tokens": 10, "cached_image_tokens": 20},
            "output_tokens": 7_024,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 7_024},
            "total_tokens": 7_114,
        },
        "web_search": {"num_requests": 1},
    },
}
RESPONSE_READ: Final = [
    {
        "model_served": "gpt-5.5",
        "input_tokens": 820,
        "cache_read_tokens": 1_000,
        "output_tokens": 146,
        "reasoning_tokens": 64,
        "web_searches": 1,
        "units": {"file_searches": 1, "code_execution_sessions": 1},
        "service_tier": "standard",
    },
    {
        "model_served": "gpt-image-2",
        "input_tokens": 40,
        "cache_read_tokens": 10,
        "cache_read_image_tokens": 20,
        "input_image_tokens": 20,
        "output_image_tokens": 7_024,
        "service_tier": "standard",
    },
]
MESSAGE: Final = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-8",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 14,
        "output_tokens": 550,
        "cache_read_input_tokens": 120_000,
        "cache_creation_input_tokens": 8_012,
        "cache_creation": {"ephemeral_5m_input_tokens": 12, "ephemeral_1h_input_tokens": 8_000},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
        "service_tier": "standard",
        "speed": "fast",
        "inference_geo": "us",
    },
}
MESSAGE_READ: Final = {
    "model_served": "claude-opus-4-8",
    "input_tokens": 14,
    "cache_read_tokens": 120_000,
    "cache_write_5m_tokens": 12,
    "cache_write_1h_tokens": 8_000,
    "output_tokens": 550,
    "web_searches": 2,
    "service_tier": "fast",
    "inference_geo": "us",
}
ADVISED: Final = {
    **MESSAGE,
    "usage": {
        "input_tokens": 412,
        "output_tokens": 531,
        "iterations": [
            {**dict.fromkeys(("cache_creation_input_tokens", "cache_read_input_tokens"), 0), **each}
            for each in (
                {"type": "message", "input_tokens": 412, "output_tokens": 531},
                {"type": "advisor_message", "model": "claude-fable-5", "input_tokens": 823, "output_tokens": 1_612},
            )
        ],
    },
}
GEMINI: Final = {
    "modelVersion": "gemini-3-flash-preview",
    "responseId": "r-1",
    "candidates": [
        {"content": {"role": "model", "parts": [{"text": "Hi"}]}, "groundingMetadata": {"webSearchQueries": ["a", "b"]}}
    ],
    "usageMetadata": {
        "promptTokenCount": 1_000,
        "candidatesTokenCount": 80,
        "thoughtsTokenCount": 20,
        "cachedContentTokenCount": 400,
        "totalTokenCount": 1_100,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 500},
            {"modality": "AUDIO", "tokenCount": 200},
            {"modality": "VIDEO", "tokenCount": 300},
        ],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 400}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 50}, {"modality": "TEXT", "tokenCount": 30}],
        "trafficType": "ON_DEMAND_FLEX",
    },
}
GEMINI_READ: Final = {
    "model_served": "gemini-3-flash-preview",
    "input_tokens": 100,
    "cache_read_tokens": 400,
    "input_audio_tokens": 200,
    "input_video_tokens": 300,
    "output_tokens": 30,
    "output_image_tokens": 50,
    "reasoning_tokens": 20,
    "web_searches": 2,
    "service_tier": "flex",
}
GROQ_USAGE: Final = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "queue_time": 0.05}

ANSWERS: Final = {
    "openai chat": Answer(
        "openai",
        "openai.types.chat",
        "ChatCompletion",
        CHAT,
        {**CHAT_READ, "model_served": "gpt-5.2", "service_tier": "flex"},
    ),
    "openai response": Answer("openai", "openai.types.responses", "Response", RESPONSE, RESPONSE_READ),
    "openai embeddings": Answer(
        "openai",
        "openai.types",
        "CreateEmbeddingResponse",
        {
            "object": "list",
            "model": "text-embedding-3-small",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        },
        {"model_served": "text-embedding-3-small", "input_tokens": 8},
    ),
    "openai images": Answer(
        "openai",
        "openai.types",
        "ImagesResponse",
        {
            "created": 1_790_000_000,
            "data": [{"b64_json": "…"}],
            "usage": {
                "input_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens": 4_160,
                "total_tokens": 4_210,
            },
            "svg_usage": {
                "model": "gpt-5.5",
                "input_tokens": 70,
                "output_tokens": 30,
                "reasoning_tokens": 5,
                "total_tokens": 100,
            },
        },
        [
            {"input_tokens": 10, "input_image_tokens": 40, "output_image_tokens": 4_160},
            {"model_served": "gpt-5.5", "input_tokens": 70, "output_tokens": 25, "reasoning_tokens": 5},
        ],
    ),
    "openai transcription": Answer(
        "openai",
        "openai.types.audio",
        "Transcription",
        {
            "text": "Hi",
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "input_token_details": {"audio_tokens": 13, "text_tokens": 1},
                "output_tokens": 45,
                "total_tokens": 59,
            },
        },
        {"input_tokens": 1, "input_audio_tokens": 13, "output_tokens": 45},
    ),
    "openai seconds": Answer(
        "openai",
        "openai.types.audio",
        "Transcription",
        {"text": "Hi", "usage": {"type": "duration", "seconds": 11}},
        {"units": {"audio_seconds": 11}},
    ),
    "openai video": Answer(
        "openai",
        "openai.types",
        "Video",
        {
            "id": "v-1",
            "object": "video",
            "created_at": 1,
            "model": "sora-2",
            "progress": 100,
            "seconds": "8",
            "size": "720x1280",
            "status": "completed",
        },
        {"model_served": "sora-2", "units": {"video_seconds": 8}},
    ),
    "anthropic message": Answer("anthropic", "anthropic.types", "Message", MESSAGE, MESSAGE_READ),
    "anthropic advisor": Answer(
        "anthropic",
        "anthropic.types.beta",
        "BetaMessage",
        ADVISED,
        [
            {"model_served": "claude-opus-4-8", "input_tokens": 412, "output_tokens": 531},
            {"model_served": "claude-fable-5", "input_tokens": 823, "output_tokens": 1_612},
        ],
    ),
    "anthropic batch": Answer(
        "anthropic",
        "anthropic.types.messages",
        "MessageBatchIndividualResponse",
        {"custom_id": "1", "result": {"type": "succeeded", "message": {**MESSAGE, "usage": {**MESSAGE["usage"]}}}},
        {**MESSAGE_READ, "service_tier": "batch"},
    ),
    "anthropic batch, failed": Answer(
        "anthropic",
        "anthropic.types.messages",
        "MessageBatchIndividualResponse",
        {"custom_id": "1", "result": {"type": "expired"}},
        [],
    ),
    "gemini": Answer("google", "google.genai.types", "GenerateContentResponse", GEMINI, GEMINI_READ),
    "gemini batch": Answer(
        "google",
        "google.genai.types",
        "InlinedResponse",
        {"response": GEMINI, "metadata": {"row": "1"}},
        {**GEMINI_READ, "service_tier": "batch"},
    ),
    "gemini live": Answer(
        "google",
        "google.genai.types",
        "LiveServerMessage",
        {
            "usageMetadata": {
                "promptTokenCount": 377,
                "responseTokenCount": 47,
                "thoughtsTokenCount": 38,
                "totalTokenCount": 462,
                "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 47}],
                "trafficType": "PROVISIONED_THROUGHPUT",
            }
        },
        {"input_tokens": 377, "output_audio_tokens": 47, "reasoning_tokens": 38, "capacity": "provisioned"},
    ),
    "imagen": Answer(
        "google",
        "google.genai.types",
        "GenerateImagesResponse",
        {"generatedImages": [{"image": {"mimeType": "image/png"}}, {"raiFilteredReason": "unsafe"}]},
        {"units": {"images": 1}},
    ),
    "vertex embeddings": Answer(
        "google",
        "google.genai.types",
        "EmbedContentResponse",
        {
            "embeddings": [{"values": [0.1], "statistics": {"tokenCount": 5.0}}],
            "metadata": {"billableCharacterCount": 20},
        },
        {"input_tokens": 5},
    ),
    "cohere chat": Answer(
        "cohere",
        "cohere",
        "V2ChatResponse",
        {
            "id": "c-1",
            "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
            "usage": {
                "billed_units": {"input_tokens": 5, "output_tokens": 418},
                "tokens": {"input_tokens": 71, "output_tokens": 420},
            },
        },
        {"input_tokens": 5, "output_tokens": 418},
    ),
    "cohere rerank": Answer(
        "cohere",
        "cohere",
        "V2RerankResponse",
        {"results": [{"index": 0, "relevance_score": 0.9}], "meta": {"billed_units": {"search_units": 1}}},
        {"units": {"search_units": 1}},
    ),
    "mistral chat": Answer(
        "mistral",
        "mistralai.client.models",
        "ChatCompletionResponse",
        {
            "id": "c-1",
            "object": "chat.completion",
            "created": 1,
            "model": "mistral-large-latest",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "total_tokens": 120,
                "prompt_tokens_details": {"cached_tokens": 64},
                "service_tier": "priority",
            },
        },
        {
            "model_served": "mistral-large-latest",
            "input_tokens": 36,
            "cache_read_tokens": 64,
            "output_tokens": 20,
            "service_tier": "priority",
        },
    ),
    "mistral ocr": Answer(
        "mistral",
        "mistralai.client.models",
        "OCRResponse",
        {"model": "mistral-ocr-latest", "pages": [], "usage_info": {"pages_processed": 10, "doc_size_bytes": 9}},
        {"model_served": "mistral-ocr-latest", "units": {"pages": 10}},
    ),
    "mistral transcription": Answer(
        "mistral",
        "mistralai.client.models",
        "TranscriptionResponse",
        {
            "model": "voxtral-mini-2602",
            "text": "Hi",
            "language": "en",
            "usage": {
                "prompt_audio_seconds": 15,
                "prompt_tokens": 4,
                "completion_tokens": 20,
                "total_tokens": 244,
            },
        },
        {"model_served": "voxtral-mini-2602", "units": {"audio_seconds": 15}},
    ),
    "groq": Answer(
        "groq",
        "groq.types.chat",
        "ChatCompletion",
        {**CHAT, "model": "openai/gpt-oss-120b", "service_tier": "on_demand", "usage": GROQ_USAGE},
        {
            "model_served": "openai/gpt-oss-120b",
            "input_tokens": 100,
            "output_tokens": 20,
            "service_tier": "standard",
        },
    ),
    "groq compound": Answer(
        "groq",
        "groq.types.chat",
        "ChatCompletion",
        {
            **CHAT,
            "model": "groq/compound",
            "service_tier": None,
            "choices": [
                {
                    **CHOICE,
                    "message": {
                        "role": "assistant",
                        "content": "Hi",
                        "executed_tools": [
                            {"index": 0, "type": "search", "arguments": ""},
                            {"index": 1, "type": "visit", "arguments": ""},
                        ],
                    },
                }
            ],
            "usage": {"prompt_tokens": 300, "completion_tokens": 70, "total_tokens": 370},
            "usage_breakdown": {
                "models": [
                    {"model": "openai/gpt-oss-120b", "usage": GROQ_USAGE},
                    {
                        "model": "llama-3.3-70b-versatile",
                        "usage": {"prompt_tokens": 200, "completion_tokens": 50, "total_tokens": 250},
                    },
                ]
            },
        },
        [
            {
                "model_served": "openai/gpt-oss-120b",
                "input_tokens": 100,
                "output_tokens": 20,
                "web_searches": 1,
                "units": {"browser_opens": 1},
            },
            {"model_served": "llama-3.3-70b-versatile", "input_tokens": 200, "output_tokens": 50},
        ],
    ),
    "langchain": Answer(
        "anthropic",
        "langchain_core.messages",
        "AIMessage",
        {
            "content": "Hi",
            "response_metadata": {"model_name": "claude-sonnet-4-6"},
            "usage_metadata": {
                "input_tokens": 350,
                "output_tokens": 240,
                "total_tokens": 590,
                "input_token_details": {"cache_read": 100, "cache_creation": 200},
                "output_token_details": {"reasoning": 200},
            },
        },
        {
            "model_served": "claude-sonnet-4-6",
            "input_tokens": 50,
            "cache_read_tokens": 100,
            "cache_write_tokens": 200,
            "output_tokens": 40,
            "reasoning_tokens": 200,
        },
    ),
}


@pytest.mark.parametrize("form", ["object", "dump", "json", "constructed"])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_response_of_a_providers_package_reads_alike_in_each_of_its_forms(name: str, form: str) -> None:
    answer = ANSWERS[name]
    made = answer.made()
    forms: dict[str, Callable[[], Any]] = {
        "object": lambda: made,
        "dump": made.model_dump,
        "json": lambda: made.to_json_dict() if hasattr(made, "to_json_dict") else made.model_dump(mode="json"),
        # as the packages do with what they receive, which may not fit the types
        "constructed": lambda: type(made).construct(**answer.stated) if hasattr(made, "to_dict") else made,
    }
    events = usage_events(answer.provider, forms[form](), service="s", model="asked-for")
    assert [read_of(event) for event in events] == answer.events
    for event in events:
        as_record(event)


def botocore_parsed(operation: str, body: Json, headers: Mapping[str, str] | None = None) -> Json:
    """Return what boto3 returns for a body and headers of Bedrock: parsed by botocore's own parser."""
    model = load("botocore.session").get_session().get_service_model("bedrock-runtime").operation_model(operation)
    parser = load("botocore.parsers").create_parser("rest-json")
    received = {"status_code": 200, "headers": {"x-amzn-requestid": "req-1", **(headers or {})}}
    parsed: Json = parser.parse({**received, "body": json.dumps(body).encode()}, model.output_shape)
    return parsed


def test_a_conversation_on_bedrock_is_read_as_boto3_returns_it() -> None:
    body = {
        "output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
        "stopReason": "end_turn",
        "usage": {
            "inputTokens": 18,
            "outputTokens": 386,
            "totalTokens": 7_906,
            "cacheReadInputTokens": 0,
            "cacheWriteInputTokens": 7_502,
            "cacheDetails": [{"ttl": "5m", "inputTokens": 7_502}],
        },
        "metrics": {"latencyMs": 840},
        "serviceTier": {"type": "reserved"},
        "trace": {
            "promptRouter": {
                "invokedModelId": "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5"
            },
            "guardrail": {
                "inputAssessment": {
                    "g-1": {"invocationMetrics": {"usage": {"contentPolicyUnits": 2, "topicPolicyUnits": 0}}}
                }
            },
        },
    }
    (event,) = usage_events("aws", botocore_parsed("Converse", body), service="s", model="router")
    assert read_of(event) == {
        "model_served": "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5",
        "input_tokens": 18,
        "cache_write_5m_tokens": 7_502,
        "output_tokens": 386,
        "units": {"guardrail_content_policy_units": 2},
        "capacity": "provisioned",
    }
    assert (event["region"], event["latency_ms"], event["provider_response_id"]) == ("us-east-1", 840, "req-1")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (MESSAGE, {**MESSAGE_READ, "service_tier": "fast"}),
        ({"generation": "Hi", "prompt_token_count": 7, "generation_token_count": 5}, None),
        ({"embedding": [0.1], "inputTextTokenCount": 7}, {"input_tokens": 7, "service_tier": "flex"}),
        ({"outputs": [{"text": "Hi"}]}, None),  # states nothing: the headers do
        (None, None),  # not read yet
    ],
    ids=["claude", "llama", "titan", "mistral", "unread"],
)
def test_a_model_invoked_on_bedrock_is_read_from_its_body_else_from_the_headers(
    body: Json | None, expected: Json | None
) -> None:
    headers = {
        "X-Amzn-Bedrock-Input-Token-Count": "7",
        "X-Amzn-Bedrock-Output-Token-Count": "5",
        "X-Amzn-Bedrock-Service-Tier": "flex",
    }
    response = botocore_parsed("InvokeModel", {}, headers)
    response["body"] = json.dumps(body).encode() if body else iter(())
    (event,) = usage_events("aws", response, service="s", model="m")
    assert read_of(event) == (expected or {"input_tokens": 7, "output_tokens": 5, "service_tier": "flex"})


ANTHROPIC_USAGES: Final = {
    "plain": {"input_tokens": 14, "output_tokens": 550},
    "cache": {k: v for k, v in MESSAGE["usage"].items() if k != "speed"},
    "cache, lifetimes unstated": {
        "input_tokens": 14,
        "output_tokens": 5,
        "cache_creation_input_tokens": 9,
        "cache_read_input_tokens": 7,
    },
    "fast": MESSAGE["usage"],
}


@pytest.mark.parametrize("name", ANTHROPIC_USAGES)
def test_what_litellm_makes_of_claudes_usage_reads_as_claudes_own(name: str) -> None:
    usage = ANTHROPIC_USAGES[name]
    config = load("litellm.llms.anthropic.chat.transformation").AnthropicConfig()
    of_litellm = config.calculate_usage(usage_object=usage, reasoning_content=None)
    types = load("litellm.types.utils")
    response = types.ModelResponse(model="claude-opus-4-8", usage=of_litellm)
    (event,) = usage_events("anthropic", response, service="s")
    (own,) = usage_events("anthropic", {"model": "claude-opus-4-8", "usage": usage}, service="s")
    merged = {"cache_write_5m_tokens": "cache_write_tokens"}  # LiteLLM takes unstated lifetimes for the shorter one
    assert {merged.get(k, k): v for k, v in read_of(event).items()} == {
        merged.get(k, k): v for k, v in read_of(own).items()
    }


GEMINI_USAGES: Final = {
    "plain": {"promptTokenCount": 100, "candidatesTokenCount": 50, "totalTokenCount": 150},
    "thoughts": {"promptTokenCount": 100, "candidatesTokenCount": 50, "thoughtsTokenCount": 30, "totalTokenCount": 180},
    "media": {k: v for k, v in GEMINI["usageMetadata"].items() if k not in ("trafficType", "candidatesTokensDetails")},
    "tools": {
        "promptTokenCount": 100,
        "candidatesTokenCount": 50,
        "toolUsePromptTokenCount": 20,
        "totalTokenCount": 170,
    },
}


@pytest.mark.parametrize("name", GEMINI_USAGES)
def test_what_litellm_makes_of_geminis_usage_reads_as_geminis_own(name: str) -> None:
    usage = GEMINI_USAGES[name]
    module = load("litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini")
    of_litellm = module.VertexGeminiConfig._calculate_usage({"usageMetadata": usage})
    (event,) = usage_events("google", {"usage": of_litellm}, service="s", model="m")
    (own,) = usage_events("google", {"usageMetadata": usage}, service="s", model="m")
    assert read_of(event) == read_of(own)


def test_the_steps_of_a_langchain_agent_are_events_of_their_own() -> None:
    messages = load("langchain_core.messages")

    def answer(sent: int, model: str) -> Any:
        usage = {"input_tokens": sent, "output_tokens": 5, "total_tokens": sent + 5}
        return messages.AIMessage(content="Hi", usage_metadata=usage, response_metadata={"model_name": model})

    state = {
        "messages": [
            messages.HumanMessage("Hi"),
            answer(10, "gpt-5.2"),
            messages.ToolMessage("42", tool_call_id="1"),
            answer(30, "gpt-5-mini"),
        ]
    }
    event_id = "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77"
    events = usage_events("openai", state, service="s", model="gpt-5.2", event_id=event_id)
    assert [(e["input_tokens"], e["model_served"]) for e in events] == [(10, "gpt-5.2"), (30, "gpt-5-mini")]
    again = usage_events("openai", state, service="s", event_id=event_id)
    assert [e["event_id"] for e in events] == [e["event_id"] for e in again]
    assert len({e["event_id"] for e in events}) == 2
    outputs = load("langchain_core.outputs")
    batch = outputs.LLMResult(
        generations=[[outputs.ChatGeneration(message=answer(n, "gpt-5.2"))] * 2 for n in (7, 8)],
        llm_output={"token_usage": {"prompt_tokens": 15, "completion_tokens": 10, "total_tokens": 25}},
    )
    assert [e["input_tokens"] for e in usage_events("openai", batch, service="s")] == [7, 8]


def test_a_stream_of_langchain_states_parts_that_are_summed() -> None:
    chunk = load("langchain_core.messages").AIMessageChunk
    first = {"input_tokens": 350, "output_tokens": 0, "total_tokens": 350, "input_token_details": {"cache_read": 300}}
    last = {"input_tokens": 0, "output_tokens": 40, "total_tokens": 40}
    stream = UsageStream("anthropic", service="s")
    stream.add(chunk(content="", usage_metadata=first, response_metadata={"model_name": "claude-sonnet-4-6"}))
    stream.add(chunk(content="Hi"))
    assert "stream broke off" in stream.events()[0]["usage_notes"]
    stream.add(chunk(content="", usage_metadata=last, response_metadata={"stop_reason": "end_turn"}))
    (event,) = stream.events()
    assert read_of(event) == {
        "model_served": "claude-sonnet-4-6",
        "input_tokens": 50,
        "cache_read_tokens": 300,
        "output_tokens": 40,
    }


CHUNK: Final = {**CHAT, "object": "chat.completion.chunk", "choices": [], "usage": None, "service_tier": None}
STREAMS: Final[dict[str, tuple[str, list[tuple[str, str, Json]], list[Json]]]] = {
    "openai chat": (
        "openai",
        [
            (
                "openai.types.chat",
                "ChatCompletionChunk",
                {**CHUNK, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
            ),
            ("openai.types.chat", "ChatCompletionChunk", {**CHUNK, "service_tier": "flex", "usage": CHAT_USAGE}),
        ],
        [{**CHAT_READ, "model_served": "gpt-5.2", "service_tier": "flex"}],
    ),
    "openai response": (
        "openai",
        [
            (
                "openai.types.responses",
                "ResponseCreatedEvent",
                {
                    "type": "response.created",
                    "sequence_number": 0,
                    "response": {**RESPONSE, "usage": None, "tool_usage": None, "output": []},
                },
            ),
            (
                "openai.types.responses",
                "ResponseCompletedEvent",
                {"type": "response.completed", "sequence_number": 1, "response": RESPONSE},
            ),
        ],
        RESPONSE_READ,
    ),
    "openai image": (
        "openai",
        [
            (
                "openai.types",
                "ImageGenCompletedEvent",
                {
                    "type": "image_generation.completed",
                    "b64_json": "…",
                    "background": "auto",
                    "created_at": 1,
                    "output_format": "png",
                    "quality": "high",
                    "size": "auto",
                    "usage": {
                        "input_tokens": 50,
                        "input_tokens_details": {"text_tokens": 50, "image_tokens": 0},
                        "output_tokens": 4_160,
                        "total_tokens": 4_210,
                    },
                },
            )
        ],
        [{"input_tokens": 50, "output_image_tokens": 4_160}],
    ),
    "openai realtime": (
        "openai",
        [
            (
                "openai.types.realtime",
                "SessionUpdatedEvent",
                {
                    "type": "session.updated",
                    "event_id": "e-0",
                    "session": {
                        "type": "realtime",
                        "model": "gpt-realtime",
                        "audio": {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}},
                    },
                },
            ),
            (
                "openai.types.realtime",
                "ConversationItemInputAudioTranscriptionCompletedEvent",
                {
                    "type": "conversation.item.input_audio_transcription.completed",
                    "event_id": "e-1",
                    "item_id": "i-1",
                    "content_index": 0,
                    "transcript": "Hi",
                    "usage": {
                        "type": "tokens",
                        "input_tokens": 20,
                        "input_token_details": {"audio_tokens": 18, "text_tokens": 2},
                        "output_tokens": 3,
                        "total_tokens": 23,
                    },
                },
            ),
            (
                "openai.types.realtime",
                "ResponseDoneEvent",
                {
                    "type": "response.done",
                    "event_id": "e-2",
                    "response": {
                        "id": "resp_1",
                        "usage": {
                            "input_tokens": 346,
                            "input_token_details": {
                                "text_tokens": 152,
                                "audio_tokens": 194,
                                "cached_tokens": 100,
                                "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 40, "image_tokens": 0},
                            },
                            "output_tokens": 29,
                            "output_token_details": {"text_tokens": 9, "audio_tokens": 20},
                            "total_tokens": 375,
                        },
                    },
                },
            ),
        ],
        [
            {
                "model_served": "gpt-4o-mini-transcribe",
                "input_tokens": 2,
                "input_audio_tokens": 18,
                "output_tokens": 3,
            },
            {
                "model_served": "gpt-realtime",
                "input_tokens": 92,
                "cache_read_tokens": 60,
                "cache_read_audio_tokens": 40,
                "input_audio_tokens": 154,
                "output_tokens": 9,
                "output_audio_tokens": 20,
            },
        ],
    ),
    "openai live": (
        "openai",
        [
            (
                "openai.types.live",
                "SessionUsageUpdatedEvent",
                {"type": "session.usage.updated", "event_id": "e-0", "usage": {"seconds": 30}},
            ),
            (
                "openai.types.live",
                "ResponseEvent",
                {
                    "type": "response.event",
                    "event_id": "e-1",
                    "event": {"type": "response.completed", "response": {**RESPONSE, "output": []}},
                },
            ),
            (
                "openai.types.live",
                "SessionClosedEvent",
                {"type": "session.closed", "event_id": "e-2", "usage": {"seconds": 61.5}},
            ),
        ],
        [
            {k: v for k, v in RESPONSE_READ[0].items() if k != "units"},  # such a response leaves its output out
            RESPONSE_READ[1],
            {"units": {"audio_seconds": "61.5"}},
        ],
    ),
    "anthropic": (
        "anthropic",
        [
            (
                "anthropic.types",
                "RawMessageStartEvent",
                {
                    "type": "message_start",
                    "message": {**MESSAGE, "stop_reason": None, "usage": {**MESSAGE["usage"], "output_tokens": 1}},
                },
            ),
            (
                "anthropic.types",
                "RawMessageDeltaEvent",
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 550}},
            ),
            ("anthropic.types", "RawMessageStopEvent", {"type": "message_stop"}),
        ],
        [MESSAGE_READ],
    ),
    "gemini": (
        "google",
        [
            (
                "google.genai.types",
                "GenerateContentResponse",
                {**GEMINI, "usageMetadata": {"promptTokenCount": 1_000, "totalTokenCount": 1_000}},
            ),
            (
                "google.genai.types",
                "GenerateContentResponse",
                {**GEMINI, "candidates": [{"finishReason": "STOP", "content": {"parts": []}}]},
            ),
        ],
        [GEMINI_READ],
    ),
    "groq": (
        "groq",
        [
            (
                "groq.types.chat",
                "ChatCompletionChunk",
                {
                    **CHUNK,
                    "model": "openai/gpt-oss-120b",
                    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                    "x_groq": {"id": "req_1", "usage": GROQ_USAGE},
                },
            )
        ],
        [{"model_served": "openai/gpt-oss-120b", "input_tokens": 100, "output_tokens": 20}],
    ),
    "cohere": (
        "cohere",
        [
            (
                "cohere",
                "MessageEndV2ChatStreamResponse",
                {
                    "type": "message-end",
                    "delta": {
                        "finish_reason": "COMPLETE",
                        "usage": {"billed_units": {"input_tokens": 5, "output_tokens": 418}},
                    },
                },
            )
        ],
        [{"input_tokens": 5, "output_tokens": 418}],
    ),
    "mistral": (
        "mistral",
        [
            (
                "mistralai.client.models",
                "CompletionChunk",
                {
                    "id": "c-1",
                    "model": "mistral-large-latest",
                    "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
                },
            )
        ],
        [{"model_served": "mistral-large-latest", "input_tokens": 100, "output_tokens": 20}],
    ),
    "litellm": (
        "openai",
        [
            (
                "litellm.types.utils",
                "ModelResponseStream",
                {**CHUNK, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
            ),
            ("litellm.types.utils", "ModelResponseStream", {**CHUNK, "usage": CHAT_USAGE}),
        ],
        [{**CHAT_READ, "model_served": "gpt-5.2"}],
    ),
}


@pytest.mark.parametrize("form", ["object", "dump"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_of_a_packages_chunks_reads_as_the_whole_and_marks_where_it_broke(name: str, form: str) -> None:
    provider, chunks, expected = STREAMS[name]
    stream = UsageStream(provider, service="s", model="asked-for")
    for module, kind, stated in chunks:
        before = stream.events()
        type_ = getattr(load(module), kind)
        made = type_.construct(**stated) if hasattr(type_, "to_dict") else type_.model_validate(stated)
        stream.add(made if form == "object" else made.model_dump())
        assert all("usage_notes" in event or read_of(event) in expected for event in before)
    assert [read_of(event) for event in stream.events()] == expected
    assert [e["event_id"] for e in stream.events()] == [e["event_id"] for e in stream.events()]


def test_what_pydantic_ai_makes_of_claudes_usage_reads_as_claudes_own() -> None:
    usage = {"input_tokens": 14, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 5}
    own = {"model": "claude-sonnet-4-6", "usage": usage}
    of_library = load("pydantic_ai.usage").RequestUsage.extract(
        own, provider="anthropic", provider_url="", provider_fallback="anthropic"
    )
    (event,) = usage_events("anthropic", {"usage": of_library}, service="s", model="claude-sonnet-4-6")
    assert read_of({**event, "model_served": "claude-sonnet-4-6"}) == read_of(
        *usage_events("anthropic", own, service="s")
    )


def test_a_run_of_pydantic_ai_is_a_sum_whose_calls_are_not_known() -> None:
    run = load("pydantic_ai.usage").RunUsage(
        input_tokens=1_000, cache_read_tokens=900, output_tokens=50, output_reasoning_tokens=30, requests=3
    )
    (event,) = usage_events("openai", {"usage": run}, service="s", model="gpt-5")
    assert event["usage_notes"][0].startswith("the sum of 3 requests")
    assert (event["input_tokens"], event["cache_read_tokens"], event["reasoning_tokens"]) == (100, 900, 30)
