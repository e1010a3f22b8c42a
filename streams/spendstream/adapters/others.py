"""Usage in other words: Cohere's billed units, models' own counts on Bedrock and on local servers, and what is not
billed by tokens: seconds, pages, characters, images.
"""

import math
from decimal import Decimal
from typing import Final

from spendstream.adapters.shape import Body, Counts, Part, Shape, nested, objects, states_any


def cohere_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of Cohere's usage: what it bills, not what the model saw.

    71 tokens with a billed input of 5 are 5: the rest is Cohere's own prompt. Searches of a reranking are units.
    """
    billed = usage.inner("billed_units")
    usage.ignore("tokens", "api_version")  # what the model saw
    cached = usage.count("cached_tokens")
    if not any(value for value in billed.raw.values()):
        billed = usage.inner("tokens")
        if any(value for value in billed.raw.values()):
            usage.reading.note("billed_units not stated, tokens taken")
    for unit, name in (("search_units",) * 2, ("classifications",) * 2, ("pages",) * 2):
        usage.unit(name, billed.count(unit))
    image = billed.part("image_tokens")
    if image.tokens:
        billed.ignore("images")  # the images that the tokens are of
    else:
        usage.unit("input_images", billed.count("images"))
    whole, text = billed.whole("input_tokens"), billed.part("text_tokens")
    if billed.count("total_tokens") and not billed.states("input_tokens"):  # LiteLLM's reranking
        whole = billed.part("total_tokens")
    if text.tokens:
        sent = text.tokens + image.tokens
        usage.check_total(Part(whole.field, whole.tokens), text.tokens, sent)
        whole = Part(whole.field, max(whole.tokens - image.tokens, 0) if whole.tokens == sent else text.tokens)
    if cached > whole.tokens:
        usage.reading.note(f"cached_tokens {cached} exceeds {whole.field} {whole.tokens}: counted beside it")
    return {
        "input_tokens": whole.tokens - cached if cached <= whole.tokens else whole.tokens,
        "cache_read_tokens": cached,
        "input_image_tokens": image.tokens,
        "output_tokens": billed.whole("output_tokens").tokens,
    }


COHERE: Final = Shape(
    name="cohere",
    is_of=lambda usage, provider: (
        states_any(usage, "billed_units")
        or (provider == "cohere" and any(name in usage for name in ("tokens", "billed_units", "cached_tokens")))
    ),
    buckets=cohere_buckets,
    tier=lambda usage, body: None,
    id_at=("id", "generation_id", "response_id"),
)

_NATIVE: Final = (
    ("prompt_token_count", "generation_token_count"),  # Llama on Bedrock
    ("prompt_eval_count", "eval_count"),  # Ollama
    ("inputTextTokenCount", "outputTextTokenCount"),  # Titan
    ("inputTokenCount", "outputTokenCount"),  # Bedrock's metrics of a stream
)


def native_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return the two counts of a model that counts nothing else, and of Titan, whose outputs stand in its results."""
    made = {"input_tokens": 0, "output_tokens": 0}
    for sent, answered in _NATIVE:
        made["input_tokens"] += usage.whole(sent).tokens
        made["output_tokens"] += usage.whole(answered).tokens
    made["output_tokens"] += sum(result.count("tokenCount") for result in usage.each("results"))
    made["cache_read_tokens"] = usage.count("cacheReadInputTokenCount")
    made["cache_write_tokens"] = usage.count("cacheWriteInputTokenCount")
    usage.ignore("total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "context")
    usage.ignore("invocationLatency", "firstByteLatency", "embedding", "embeddingsByType")
    return made


NATIVE: Final = Shape(
    name="native",
    # prompt_token_count alone is Gemini's
    is_of=lambda usage, provider: any(
        states_any(usage, *(name for name in names if name != "prompt_token_count")) for names in _NATIVE
    ),
    buckets=native_buckets,
    tier=lambda usage, body: None,
)


_CHARACTERS: Final = ("characters", "usage_characters", "billable_character_count", "billableCharacterCount")


def unit_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Count what is billed by other units, and no tokens."""
    seconds = usage.quantity("seconds") or usage.quantity("prompt_audio_seconds")
    usage.unit("audio_seconds", seconds)
    if states_any(usage.raw, "usage_characters"):  # MiniMax's, beside what the audio is like
        usage.ignore(*(name for name in usage.raw if name != "usage_characters"))
    usage.ignore("seconds", "prompt_audio_seconds", "doc_size_bytes")
    active, paused = usage.quantity("active_seconds"), usage.quantity("paused_seconds")
    if active + paused not in (0, seconds):
        usage.reading.note(f"active_seconds {active} and paused_seconds {paused} are not seconds {seconds}")
    elif paused:
        usage.reading.note(f"paused_seconds {paused} have a rate of their own, priced as the others")
    is_annotated = body.get("document_annotation") is not None
    usage.unit("annotated_pages" if is_annotated else "pages", usage.count("pages_processed"))
    usage.unit("characters", sum(usage.count(name) for name in _CHARACTERS))
    return {"input_tokens": 0, "output_tokens": 0}


UNITS: Final = Shape(
    name="units",
    is_of=lambda usage, provider: (
        "object" not in usage and states_any(usage, "seconds", "prompt_audio_seconds", "pages_processed", *_CHARACTERS)
    ),
    buckets=unit_buckets,
    tier=lambda usage, body: None,
)


def embedded_tokens(response: Body) -> int:
    """Return the tokens of Vertex AI's embeddings, which each state their own."""
    found = [
        *objects(response.get("embeddings")),
        *(nested(p, "embeddings") for p in objects(response.get("predictions"))),
    ]
    counts = [nested(each, "statistics").get(name) for each in found for name in ("token_count", "tokenCount")]
    return sum(int(n) for n in counts if isinstance(n, int | float) and math.isfinite(n) and n > 0)


def made_units(stated: Counts) -> dict[str, Decimal]:
    """Return the units of a response that states no usage and is billed by what it holds: images, video, speech heard.

    A video of OpenAI that failed is not billed. Google's videos don't state their length.
    """
    response = stated.raw
    images = [item for item in objects(response.get("data")) if "b64_json" in item or "url" in item]
    for name in ("generated_images", "generatedImages"):
        images += [item for item in objects(response.get(name)) if item.get("image")]
    found = {"images": Decimal(len(images))}
    if response.get("object") == "video" and response.get("status") == "completed":
        found["video_seconds"] = stated.quantity("seconds")
    elif "text" in response:
        found["audio_seconds"] = stated.quantity("duration")
    return {unit: quantity for unit, quantity in found.items() if quantity}
