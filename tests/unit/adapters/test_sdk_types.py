"""No count disappears from any object that a provider's own types accept: random objects, made from those types.

``make test`` tries a few thousand of each type, the same on every machine; ``make fuzz`` tries 100,000 new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any, Final

import pytest
from hypothesis import settings

from spendstream.adapters.event import read
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from tests.sdks.install import load
from tests.sdks.random_objects import Draw

OBJECTS: Final = 2_000
FUZZ_OBJECTS: Final = 100_000

Json = dict[str, Any]
Path = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """A type of usage objects: where it is, and what holds it in a response.

    ``settle`` makes a coherent object's totals the sum of their parts. ``total``: (response) → the tokens that the
    provider states, None where it states none. ``ignored`` ends the paths of counts that nothing is billed by.
    """

    module: str
    name: str
    provider: str
    hold: Callable[[Json], Json] = lambda usage: {"usage": usage}
    settle: Callable[[Json], None] = lambda usage: None
    total: Callable[[Json], int | None] = lambda response: None
    ignored: tuple[str, ...] = ()
    is_free: Callable[[Json, Path], bool] = lambda response, path: False
    skipped: tuple[str, ...] = ()
    make: Callable[[Any, Json], Any] = lambda kind, drawn: kind.model_validate(drawn)


def settle_chat(usage: Json) -> None:
    usage["total_tokens"] = (usage.get("prompt_tokens") or 0) + (usage.get("completion_tokens") or 0)


def settle_responses(usage: Json) -> None:
    usage["total_tokens"] = (usage.get("input_tokens") or 0) + (usage.get("output_tokens") or 0)
    details = usage.get("input_tokens_details") or {}
    if lifetimes := details.get("cache_write_tokens_details"):
        details["cache_write_tokens"] = sum(lifetimes.values())


def settle_realtime(usage: Json) -> None:
    settle_responses(usage)
    details = usage.get("input_token_details") or {}
    if kinds := details.get("cached_tokens_details"):
        for kind in ("audio", "image"):
            of_kind = min(kinds.get(f"{kind}_tokens") or 0, details.get(f"{kind}_tokens") or 0)
            kinds[f"{kind}_tokens"] = of_kind
        details["cached_tokens"] = sum(n or 0 for n in kinds.values())


def settle_image_tool(usage: Json) -> None:
    settle_responses(usage)
    details = usage["input_tokens_details"]
    if kinds := usage.get("cached_tokens_details"):
        kinds["cached_image_tokens"] = min(kinds["cached_image_tokens"], details["image_tokens"])
        usage["cached_tokens"] = sum(kinds.values())


def settle_live(usage: Json) -> None:
    usage["seconds"] = float((usage.get("active_seconds") or 0) + (usage.get("paused_seconds") or 0))


def settle_conversation(usage: Json) -> None:
    settle_chat(usage)
    usage["total_tokens"] += usage.get("connector_tokens") or 0


def settle_bedrock(usage: Json) -> None:
    for entry in usage.get("cacheDetails", ()):
        entry["ttl"] = "5m"
    details = sum(entry["inputTokens"] for entry in usage.get("cacheDetails", ()))
    usage["cacheWriteInputTokens"] = max(usage.get("cacheWriteInputTokens", 0), details)
    parts = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    usage["totalTokens"] = sum(usage.get(part, 0) for part in parts)


def settle_gemini(usage: Json) -> None:
    answer = "candidates" if "candidatesTokenCount" in usage else "response"
    usage["totalTokenCount"] = sum(
        usage.get(f"{part}TokenCount") or 0 for part in ("prompt", answer, "thoughts", "toolUsePrompt")
    )


def is_of_refused_attempt(response: Json, path: Path) -> bool:
    """Whether a count is of a message beside a fallback's, which may have been refused, and is not billed then."""
    iterations = response["usage"].get("iterations") or ()
    has_fallback = any(iteration["type"] == "fallback_message" for iteration in iterations)
    return path[1] == "iterations" and iterations[path[2]]["type"] == "message" and has_fallback


def settle_anthropic(usage: Json) -> None:
    for part in (usage, *(usage.get("iterations") or ())):
        if lifetimes := part.get("cache_creation"):
            part["cache_creation_input_tokens"] = sum(lifetimes.values())


def bedrock_total(response: Json) -> int | None:
    """Return the total, unless it leaves the cache out, as some models' totals do."""
    usage = response["usage"]
    leaves_cache_out = usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    return None if leaves_cache_out else int(usage["totalTokens"])


def total_of(*path: str) -> Callable[[Json], int | None]:
    def total(response: Json) -> int | None:
        value: Any = response
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return None if value is None else int(value)

    return total


# parts of other counts, and what has no price
INSIDE: Final = ("text_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")
FREE: Final = ("web_fetch_requests", "tool_search_requests")
TOTAL: Final = total_of("usage", "total_tokens")

KINDS: Final = {
    "openai chat": Kind(
        "openai.types.completion_usage", "CompletionUsage", "openai", settle=settle_chat, total=TOTAL, ignored=INSIDE
    ),
    "openai responses": Kind(
        "openai.types.responses.response_usage", "ResponseUsage", "openai", settle=settle_responses, total=TOTAL
    ),
    "openai tools": Kind(
        "openai.types.responses.response",
        "ToolUsage",
        "openai",
        hold=lambda tools: {
            "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
            "tools": [{"type": "image_generation", "model": "gpt-image-2"}],
            "tool_usage": tools,
        },
        settle=lambda tools: settle_image_tool(tools["image_gen"]),
        ignored=("text_tokens",),
    ),
    "openai realtime": Kind(
        "openai.types.realtime.realtime_response_usage",
        "RealtimeResponseUsage",
        "openai",
        settle=settle_realtime,
        total=TOTAL,
        ignored=INSIDE,
    ),
    "openai images": Kind(
        "openai.types.images_response",
        "ImagesResponse",
        "openai",
        hold=lambda response: {"data": [{"b64_json": ""}], **response},
        settle=lambda response: [settle_responses(response.get(u) or {}) for u in ("usage", "svg_usage")],
        skipped=("data",),
        ignored=("text_tokens", "created"),
    ),
    "openai embeddings": Kind(
        "openai.types.create_embedding_response", "Usage", "openai", settle=settle_chat, total=TOTAL
    ),
    "openai transcription": Kind(
        "openai.types.audio.transcription",
        "UsageTokens",
        "openai",
        settle=settle_responses,
        total=TOTAL,
        ignored=("text_tokens",),
    ),
    "openai duration": Kind("openai.types.audio.transcription", "UsageDuration", "openai"),
    "openai live": Kind("openai.types.live.session_usage", "SessionUsage", "openai", settle=settle_live),
    "openai decision": Kind("openai.types.decision", "Usage", "openai", settle=settle_responses, total=TOTAL),
    "openai batch": Kind("openai.types.batch_usage", "BatchUsage", "openai", settle=settle_responses, total=TOTAL),
    "anthropic": Kind("anthropic.types.usage", "Usage", "anthropic", settle=settle_anthropic, ignored=FREE),
    "anthropic beta": Kind(
        "anthropic.types.beta.beta_usage",
        "BetaUsage",
        "anthropic",
        settle=settle_anthropic,
        ignored=FREE,
        is_free=is_of_refused_attempt,
    ),
    "gemini": Kind(
        "google.genai.types",
        "GenerateContentResponseUsageMetadata",
        "google",
        hold=lambda usage: {"usageMetadata": usage},
        settle=settle_gemini,
        total=total_of("usageMetadata", "totalTokenCount"),
        ignored=("tokenCount",),
    ),
    "gemini live": Kind(
        "google.genai.types",
        "UsageMetadata",
        "google",
        hold=lambda usage: {"usageMetadata": usage},
        settle=settle_gemini,
        total=total_of("usageMetadata", "totalTokenCount"),
        ignored=("tokenCount",),
    ),
    "cohere": Kind("cohere.types.usage", "Usage", "cohere", ignored=(".tokens.input_tokens", ".tokens.output_tokens")),
    "cohere meta": Kind(
        "cohere.types.api_meta",
        "ApiMeta",
        "cohere",
        hold=lambda meta: {"meta": meta},
        ignored=(".tokens.input_tokens", ".tokens.output_tokens", "images"),  # the image tokens are billed
    ),
    "mistral": Kind(
        "mistralai.client.models.usageinfo",
        "UsageInfo",
        "mistral",
        settle=settle_chat,
        # audio is billed by the second, and only the total counts its tokens
        total=lambda response: None if response["usage"].get("prompt_audio_seconds") else TOTAL(response),
    ),
    "mistral conversation": Kind(
        "mistralai.client.models.conversationusageinfo",
        "ConversationUsageInfo",
        "mistral",
        settle=settle_conversation,
        total=TOTAL,
    ),
    "mistral ocr": Kind(
        "mistralai.client.models.ocrusageinfo",
        "OCRUsageInfo",
        "mistral",
        hold=lambda usage: {"usage_info": usage},
        ignored=("doc_size_bytes",),
    ),
    "groq": Kind(
        "groq.types.completion_usage", "CompletionUsage", "groq", settle=settle_chat, total=TOTAL, ignored=("_time",)
    ),
    "litellm": Kind(
        "litellm.types.utils",
        "Usage",
        "openai",
        settle=settle_chat,
        total=TOTAL,
        make=lambda kind, drawn: kind(**drawn),
        ignored=(*INSIDE, *FREE, "cost", "tool_use_tokens", "initial_prompt_tokens"),
    ),
    "langchain": Kind(
        "langchain_core.messages.ai",
        "UsageMetadata",
        "openai",
        hold=lambda usage: {"usage_metadata": usage},
        settle=settle_responses,
        total=total_of("usage_metadata", "total_tokens"),
    ),
    "bedrock": Kind("botocore", "TokenUsage", "aws", settle=settle_bedrock, total=bedrock_total),
}


def drawn_objects(kind: Kind, seed: int, count: int) -> Iterator[Json]:
    """Yield random responses that state a billed count, as their SDK gives them: objects of its types, dumped."""
    random = Random(seed)
    type_ = shape_of(kind.name) if kind.module == "botocore" else getattr(load(kind.module), kind.name)
    while count:
        draw = Draw(random, is_coherent=random.random() < 0.6, skipped=frozenset(kind.skipped))
        if kind.module == "botocore":
            usage = draw.shape(type_)
        elif hasattr(type_, "__total__"):
            usage = draw.typed_dictionary(type_)
        else:
            usage = draw.model(type_)
        if draw.is_coherent:
            kind.settle(usage)
        if hasattr(type_, "model_validate"):
            made = kind.make(type_, usage)
            usage = made.model_dump(mode="json", by_alias=True, exclude_none=random.random() < 0.5)
        response = kind.hold(usage)
        if any(not is_ignored(kind, response, path) for path in numbers(response)):
            count -= 1
            yield response


def shape_of(name: str) -> Any:
    session = load("botocore.session").get_session()
    return session.get_service_model("bedrock-runtime").shape_for(name)


def counts_of(provider: str, response: Json) -> tuple[list[Json], list[str]]:
    """Return (the counts of each event, what is in doubt) of a response."""
    calls = read(provider, response).calls
    return [call.fields for call in calls], [note for call in calls for note in call.notes]


def numbers(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of the numbers that are not 0."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from numbers(inner, (*path, name))
    if isinstance(value, int | float) and not isinstance(value, bool) and value:
        yield path


def raised(response: Json, path: Path, by: int) -> Json:
    other = copy.deepcopy(response)
    holder: Any = other
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] += by
    return other


def is_ignored(kind: Kind, response: Json, path: Path) -> bool:
    dotted = ".".join(map(str, ("", *path)))
    return any(dotted.endswith(end) for end in kind.ignored) or kind.is_free(response, path)


@pytest.mark.hypothesis
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", KINDS)
def test_no_count_of_an_object_of_the_providers_own_types_disappears(name: str, record_property: Any) -> None:
    kind = KINDS[name]
    is_fuzz = settings.get_current_profile_name() == "fuzz"
    seed = SystemRandom().randrange(2**32) if is_fuzz else 0
    pick = Random(seed)
    tally = dict.fromkeys(("objects", "clean", "marked"), 0)
    for number, response in enumerate(drawn_objects(kind, seed, FUZZ_OBJECTS if is_fuzz else OBJECTS)):
        where = f"seed {seed}, object {number}: {response}"
        paths = [path for path in numbers(response) if not is_ignored(kind, response, path)]
        events, doubts = counts_of(kind.provider, response)
        tally["objects"] += 1
        tally["marked" if doubts else "clean"] += 1
        tokens = sum(event.get(tokens_field(bucket), 0) for event in events for bucket in TOKEN_BUCKETS)
        total = kind.total(response)
        if total and not doubts:
            assert tokens == total, where
        if not doubts:
            # one more image among cached ones may change nothing; a billion more always must
            path = pick.choice(paths)
            changed = (counts_of(kind.provider, raised(response, path, by)) for by in (1, 10**9))
            assert any(after != (events, doubts) for after in changed), f"{path} matters nowhere. {where}"
    assert tally["clean"] > tally["objects"] / 10, tally
    record_property("measured", tally)


@pytest.mark.hypothesis
@pytest.mark.timeout(3_600)
def test_what_litellm_makes_of_any_usage_of_claude_has_the_same_counts_or_says_so() -> None:
    """LiteLLM takes writes of an unstated lifetime for the shorter one: both kinds of write are summed."""
    is_fuzz = settings.get_current_profile_name() == "fuzz"
    seed = SystemRandom().randrange(2**32) if is_fuzz else 0
    config = load("litellm.llms.anthropic.chat.transformation").AnthropicConfig()
    compared = 0
    for number, response in enumerate(drawn_objects(KINDS["anthropic"], seed, FUZZ_OBJECTS if is_fuzz else OBJECTS)):
        of_litellm = config.calculate_usage(usage_object=response["usage"], reasoning_content=None).model_dump()
        (own,), doubts = counts_of("anthropic", response)
        (read,), more_doubts = counts_of("anthropic", {"usage": of_litellm})
        if not (doubts or more_doubts):
            compared += 1
            assert summed_writes(read) == summed_writes(own), f"seed {seed}, object {number}: {response}, {of_litellm}"
    assert compared > OBJECTS / 10


def summed_writes(event: Json) -> Json:
    lifetimes = ("cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    rest = {field: n for field, n in event.items() if field not in lifetimes}
    return {**rest, "written": sum(event.get(field, 0) for field in lifetimes)}
