"""Usage objects that people reported as metered wrong, through adapters and price book, against the right amounts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spendstream.adapters import AdapterError, UsageStream, as_record, usage_events
from spendstream.core.pricing import PriceBook
from spendstream.intake import UsageRow
from spendstream.quote import Quote, quote_rows
from spendstream.schemas.usage import UsageEvent
from tests.doc_blocks import ROOT

FILE = Path(ROOT / "../shared/data/usage-cases/cases.jsonl").resolve()

BOOK = PriceBook.load([])

VERDICTS = ("right", "marked", "unpriced", "refused", "silently wrong")
"""``marked``: not the amount, and the event or the quote says so."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    verdict: str
    got: str


def outcome(case: Mapping[str, Any], book: PriceBook) -> Outcome:
    """Price a case as a producer and the meter do, and compare with the amount and the buckets expected."""
    known = dict(case["context"])
    at = datetime.fromisoformat(known.pop("at"))
    try:
        events = usage_events(
            case["provider"], case["usage"], service="s", model=case["model"], occurred_at=at, **known
        )
    except AdapterError as error:
        return Outcome("refused", str(error))
    values = [as_record(event)[1] for event in events]
    rows = [UsageRow(n, UsageEvent.model_validate_json(value), value) for n, value in enumerate(values, start=1)]
    quotes = [quote for quote in quote_rows(rows, book) if isinstance(quote, Quote)]
    expected = case["expected"]
    costs = [quote.cost_pusd for quote in quotes]
    cost = None if None in costs else sum(map(Decimal, costs)) / 10**12  # type: ignore[arg-type]
    stated = Decimal(events[0].get("provider_cost", "-1"))
    is_marked = any(event.get("usage_quality") == "partial" for event in events) or any(
        quote.price_quality not in ("", "exact") for quote in quotes
    )
    notes = "; ".join(note for event in events for note in event.get("usage_notes", ()))
    got = f"{cost} {notes}".strip()
    counts = {name: sum(event.get(name, 0) for event in events) for name in expected["buckets"] or {}}
    is_right_reading = counts == (expected["buckets"] or {})
    wanted = expected["cost_usd"]
    is_right_amount = wanted is None or Decimal(wanted) in (cost, stated)
    if expected.get("unpriced"):
        is_right_amount = cost is None
    if is_right_amount and is_right_reading:
        return Outcome("right", got)
    if cost is None:
        return Outcome("unpriced", got)
    return Outcome("marked" if is_marked else "silently wrong", got)


@dataclass(frozen=True)
class Case:
    """A usage object with the right buckets and the right amount in USD; ``rule`` has the rates per million tokens."""

    rule: str
    provider: str
    model: str
    usage: Any
    cost: str
    buckets: dict[str, int]
    context: dict[str, Any] = field(default_factory=dict)


def claude(**usage: Any) -> dict[str, Any]:
    return {"model": "claude-haiku-4-5", "type": "message", "stop_reason": "end_turn", "usage": usage}


def chat(prompt: int, completion: int, **rest: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**counts, **rest}


def gemini(prompt: int, candidates: int, **rest: Any) -> dict[str, Any]:
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": candidates, "totalTokenCount": prompt + candidates}
    return {"usageMetadata": {**counts, **rest}}


def by_modality(**tokens: int) -> list[dict[str, Any]]:
    return [{"modality": kind, "tokenCount": count} for kind, count in tokens.items()]


CASES = {
    "writes of three lifetimes": Case(
        "$1, writes 1.25 and 2, unstated as 5 minutes; $5 out",
        "anthropic",
        "claude-haiku-4-5",
        claude(
            input_tokens=100,
            cache_creation_input_tokens=1_000,
            cache_creation={"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 500},
            output_tokens=10,
        ),
        "0.001775",
        {"cache_write_5m_tokens": 300, "cache_write_1h_tokens": 500, "cache_write_tokens": 200},
    ),
    "litellm's claude, cached": Case(
        "$3, read 0.30, written 3.75, $15 out; the cache is inside the prompt",
        "anthropic",
        "claude-sonnet-4-6",
        {"usage": chat(1_500, 100, cache_read_input_tokens=800, cache_creation_input_tokens=500)},
        "0.004215",
        {"input_tokens": 200, "cache_read_tokens": 800, "cache_write_tokens": 500},
    ),
    "langchain's claude": Case(
        "$3, read 0.30, written 3.75, $15 out",
        "anthropic",
        "claude-sonnet-4-6",
        {
            "usage_metadata": {
                "input_tokens": 350,
                "output_tokens": 240,
                "total_tokens": 590,
                "input_token_details": {"cache_read": 100, "cache_creation": 200},
            }
        },
        "0.00453",
        {"input_tokens": 50, "cache_read_tokens": 100, "cache_write_tokens": 200, "output_tokens": 240},
    ),
    "the AI SDK's claude": Case(
        "$3, read 0.30, written 3.75, $15 out",
        "anthropic",
        "claude-sonnet-4-6",
        {
            "usage": {
                "inputTokens": 1_000,
                "inputTokenDetails": {"noCacheTokens": 200, "cacheReadTokens": 700, "cacheWriteTokens": 100},
                "outputTokens": 50,
                "totalTokens": 1_050,
            }
        },
        "0.001935",
        {"input_tokens": 200, "cache_read_tokens": 700, "cache_write_tokens": 100},
    ),
    "reasoning and cache inside": Case(
        "$1.25, cached 0.125, $10 out",
        "openai",
        "gpt-5",
        {
            "usage": chat(
                2_000,
                500,
                prompt_tokens_details={"cached_tokens": 1_536},
                completion_tokens_details={"reasoning_tokens": 300},
            )
        },
        "0.005772",
        {"input_tokens": 464, "cache_read_tokens": 1_536, "output_tokens": 200, "reasoning_tokens": 300},
    ),
    "reasoning beside": Case(
        "$0.20 and $0.50; the total of 200 counts 90 of reasoning beside 10",
        "x-ai",
        "grok-4-fast-reasoning",
        {"usage": {**chat(100, 10, completion_tokens_details={"reasoning_tokens": 90}), "total_tokens": 200}},
        "0.00007",
        {"output_tokens": 10, "reasoning_tokens": 90},
    ),
    "audio of gemini": Case(
        "$0.30 of text, $1 of audio, $2.50 out with thoughts",
        "google",
        "gemini-2.5-flash",
        gemini(
            1_000,
            50,
            thoughtsTokenCount=50,
            totalTokenCount=1_100,
            promptTokensDetails=by_modality(TEXT=600, AUDIO=400),
        ),
        "0.00083",
        {"input_tokens": 600, "input_audio_tokens": 400, "output_tokens": 50, "reasoning_tokens": 50},
    ),
    "video without a rate of its own": Case(
        "$0.30, video like text; $2.50 out",
        "google",
        "gemini-2.5-flash",
        gemini(1_000, 100, promptTokensDetails=by_modality(TEXT=100, VIDEO=900)),
        "0.00055",
        {"input_tokens": 100, "input_video_tokens": 900},
    ),
    "the cache counts for the step, at 200,000": Case(
        "$1.25, cached 0.125, $10 out",
        "google",
        "gemini-2.5-pro",
        gemini(200_000, 10, cachedContentTokenCount=100_000),
        "0.1376",
        {"input_tokens": 100_000, "cache_read_tokens": 100_000},
    ),
    "the cache counts for the step, above 200,000": Case(
        "$2.50, cached 0.25, $15 out",
        "google",
        "gemini-2.5-pro",
        gemini(200_001, 10, cachedContentTokenCount=100_000),
        "0.2751525",
        {"input_tokens": 100_001, "cache_read_tokens": 100_000},
    ),
    "an hour's write on bedrock": Case(
        "$1, written for an hour 2, $5 out",
        "bedrock",
        "global.anthropic.claude-haiku-4-5-20251001-v1:0",
        {
            "usage": {
                "inputTokens": 100,
                "outputTokens": 10,
                "cacheWriteInputTokens": 1_000,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 1_000}],
                "totalTokens": 1_110,
            }
        },
        "0.00215",
        {"cache_write_1h_tokens": 1_000},
    ),
    "a model that states nothing on bedrock": Case(
        "$0.15 and $0.60: the headers count",
        "bedrock",
        "openai.gpt-oss-120b-1:0",
        {
            "ResponseMetadata": {
                "HTTPHeaders": {
                    "x-amzn-bedrock-input-token-count": "1000",
                    "x-amzn-bedrock-output-token-count": "100",
                }
            }
        },
        "0.00021",
        {"input_tokens": 1_000, "output_tokens": 100},
    ),
    "a line of claude's batch": Case(
        "half of $1 and $5",
        "anthropic",
        "claude-haiku-4-5",
        {
            "custom_id": "1",
            "result": {"type": "succeeded", "message": claude(input_tokens=1_000, output_tokens=100)},
        },
        "0.00075",
        {"input_tokens": 1_000},
    ),
    "claude's fast mode, written for an hour": Case(
        "$10 and twice that",
        "anthropic",
        "claude-opus-4-8",
        {
            "usage": {
                "input_tokens": 100,
                "output_tokens": 0,
                "speed": "fast",
                "cache_creation_input_tokens": 1_000,
                "cache_creation": {"ephemeral_1h_input_tokens": 1_000},
            }
        },
        "0.021",
        {"cache_write_1h_tokens": 1_000},
    ),
    "prepaid capacity of openai": Case(
        "prepaid by the hour",
        "openai",
        "gpt-5",
        {"service_tier": "scale", "usage": chat(1_000, 100)},
        "0",
        {"input_tokens": 1_000},
    ),
    "two searches of files": Case(
        "$2 and $8; $2.50 per 1,000 searches",
        "openai",
        "gpt-4.1",
        {"output": [{"type": "file_search_call"}] * 2, "usage": chat(100, 10)},
        "0.00528",
        {"input_tokens": 100},
    ),
    "three searches of claude": Case(
        "$1 and $5; $10 per 1,000 searches",
        "anthropic",
        "claude-haiku-4-5",
        claude(input_tokens=100, output_tokens=10, server_tool_use={"web_search_requests": 3}),
        "0.03015",
        {"web_searches": 3},
    ),
    "a fraction of a second": Case(
        "$0.006 a minute",
        "openai",
        "whisper-1",
        {"text": "", "usage": {"type": "duration", "seconds": 8.47}},
        "0.000847",
        {},
    ),
    "speech heard by groq": Case(
        "$0.04 an hour",
        "groq",
        "whisper-large-v3-turbo",
        {"text": "", "duration": 90},
        "0.001",
        {},
    ),
    "speech that states nothing": Case(
        "$15 per million characters",
        "openai",
        "tts-1",
        None,
        "0.018",
        {},
        {"units": {"characters": 1_200}},
    ),
    "annotated pages": Case(
        "$5 per 1,000 annotated pages",
        "mistral",
        "mistral-ocr-latest",
        {"pages": [], "document_annotation": "{}", "usage_info": {"pages_processed": 3}},
        "0.015",
        {},
    ),
    "cached audio of a realtime session": Case(
        "$4 of text, $32 of audio, both 0.40 cached; $16 and $64 out",
        "openai",
        "gpt-realtime",
        {
            "type": "response.done",
            "response": {
                "usage": {
                    "input_tokens": 346,
                    "input_token_details": {
                        "text_tokens": 152,
                        "audio_tokens": 194,
                        "cached_tokens": 100,
                        "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 40},
                    },
                    "output_tokens": 29,
                    "output_token_details": {"text_tokens": 9, "audio_tokens": 20},
                    "total_tokens": 375,
                }
            },
        },
        "0.00676",
        {"cache_read_audio_tokens": 40, "input_audio_tokens": 154, "output_audio_tokens": 20},
    ),
    "images in and out": Case(
        "$5 of text, $10 of images, $40 out",
        "openai",
        "gpt-image-1",
        {
            "data": [{"b64_json": ""}],
            "usage": {
                "input_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens": 4_160,
                "total_tokens": 4_210,
            },
        },
        "0.16685",
        {"input_image_tokens": 40, "output_image_tokens": 4_160},
    ),
    "an advisor": Case(
        "$1 and $5; the advisor $5 and $25",
        "anthropic",
        "claude-haiku-4-5",
        claude(
            input_tokens=412,
            output_tokens=531,
            iterations=[
                {"type": "message", "input_tokens": 412, "output_tokens": 531},
                {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 823, "output_tokens": 1_612},
            ],
        ),
        "0.047482",
        {"input_tokens": 1_235, "output_tokens": 2_143},
    ),
    "the models behind groq's compound": Case(
        "$0.15 and $0.60; $0.59 and $0.79",
        "groq",
        "groq/compound",
        {
            "model": "groq/compound",
            "usage": chat(300, 70),
            "usage_breakdown": {
                "models": [
                    {"model": "openai/gpt-oss-120b", "usage": chat(100, 20)},
                    {"model": "llama-3.3-70b-versatile", "usage": chat(200, 50)},
                ]
            },
        },
        "0.0001845",
        {"input_tokens": 300, "output_tokens": 70},
    ),
    "what cohere bills": Case(
        "$2.50 and $10",
        "cohere",
        "command-a-03-2025",
        {
            "usage": {
                "billed_units": {"input_tokens": 5, "output_tokens": 418},
                "tokens": {"input_tokens": 71, "output_tokens": 420},
            }
        },
        "0.0041925",
        {"input_tokens": 5, "output_tokens": 418},
    ),
    "steps of an agent": Case(
        "$1.25 and $10; $0.25 and $2",
        "openai",
        "gpt-5",
        {
            "steps": [
                {"usage": {"inputTokens": n, "outputTokens": 10, "totalTokens": n + 10}, "response": {"modelId": model}}
                for n, model in ((100, "gpt-5"), (1_000, "gpt-5-mini"))
            ]
        },
        "0.000495",
        {"input_tokens": 1_100, "output_tokens": 20},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_neighbour_of_a_reported_case_gives_the_right_amount(name: str) -> None:
    case = CASES[name]
    expected = {"buckets": case.buckets, "cost_usd": case.cost}
    context = {"at": "2026-11-20T12:00:00Z", **case.context}
    of = {"provider": case.provider, "model": case.model, "usage": case.usage}
    assert outcome({**of, "context": context, "expected": expected}, BOOK) == Outcome("right", case.cost)


ARGUED = {
    # A delta may state its own counts alone; the input and the cache stand in the stream's message_start
    # (https://platform.claude.com/docs/en/build-with-claude/streaming). It is marked, and UsageStream takes both.
    "anthropic-message-delta-alone": "marked",
}
"""Cases that no reading of what they hold can price as expected, and what becomes of them instead."""


def test_the_delta_of_a_stream_has_the_expected_amount_with_the_start_that_states_the_input() -> None:
    start = {"input_tokens": 20, "cache_creation_input_tokens": 1_000, "cache_read_input_tokens": 10_000}
    stream = UsageStream("anthropic", service="s", model="claude-haiku-4-5")
    stream.add({"type": "message_start", "message": {"type": "message", "usage": {**start, "output_tokens": 1}}})
    stream.add({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}})
    value = as_record(stream.events()[0])[1]
    (quote,) = quote_rows([UsageRow(1, UsageEvent.model_validate_json(value), value)], BOOK)
    assert isinstance(quote, Quote)
    assert (quote.cost_pusd, quote.price_quality) == (2_520_000_000, "exact")  # 20 + 1,250 + 1,000 + 250 per million


@pytest.mark.skipif(not FILE.exists(), reason="the cases are kept beside the project")
def test_every_reported_case_gives_its_amount_or_is_argued(record_property: Any) -> None:
    cases = [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]
    outcomes = {case["id"]: outcome(case, BOOK) for case in cases}
    lines = [f"{o.verdict:15} {name:40} {o.got}" for name, o in sorted(outcomes.items(), key=lambda x: x[1].verdict)]
    tally = {verdict: sum(o.verdict == verdict for o in outcomes.values()) for verdict in VERDICTS}
    summary = ", ".join(f"{n} {verdict}" for verdict, n in tally.items())
    record_property("measured", "\n".join((summary, *lines)))
    assert {name: o.verdict for name, o in outcomes.items() if o.verdict != "right"} == ARGUED
