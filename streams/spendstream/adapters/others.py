"""Usage that is not stated in tokens alone: Cohere's billed units, seconds of audio, pages that were read."""

from typing import Final

from spendstream.adapters.shape import Body, Counts, Shape, states_any


def cohere_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of Cohere's usage: what it bills, not what the model saw.

    71 tokens with a billed input of 5 are 5: the rest is Cohere's own prompt. Searches of a reranking are units.
    """
    billed = usage.inner("billed_units")
    usage.ignore("tokens", "api_version")  # what the model saw
    cached = usage.count("cached_tokens")
    if not billed.raw:
        seen = usage.inner("tokens")
        usage.reading.note("billed_units not stated, tokens taken")
        return _tokens(seen, cached)
    for unit in ("search_units", "classifications", "images"):
        usage.unit(unit, billed.count(unit))
    return _tokens(billed, cached)


def _tokens(counts: Counts, cached: int) -> dict[str, int]:
    whole = counts.whole("input_tokens")
    if cached > whole.tokens:
        counts.reading.note(f"cached_tokens {cached} exceeds {whole.field} {whole.tokens}: counted beside it")
    return {
        "input_tokens": whole.tokens - cached if cached <= whole.tokens else whole.tokens,
        "cache_read_tokens": cached,
        "output_tokens": counts.whole("output_tokens").tokens,
    }


COHERE: Final = Shape(
    name="cohere",
    is_of=lambda usage, provider: states_any(usage, "billed_units") or (provider == "cohere" and "tokens" in usage),
    buckets=cohere_buckets,
    tier=lambda usage, body: None,
    id_at=("id", "generation_id", "response_id"),
)


def unit_buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Note what was used, and return no tokens: an event has no field for these units."""
    usage.unit("audio_seconds", usage.raw.get("seconds") or usage.raw.get("prompt_audio_seconds"))
    usage.ignore("seconds", "prompt_audio_seconds", "doc_size_bytes")
    usage.unit("pages", usage.count("pages_processed"))
    usage.unit("characters", usage.count("characters"))
    return {"input_tokens": 0, "output_tokens": 0}


_UNITS: Final = ("prompt_audio_seconds", "pages_processed", "characters")

UNITS: Final = Shape(
    name="units",
    is_of=lambda usage, provider: usage.get("type") == "duration" or states_any(usage, *_UNITS),
    buckets=unit_buckets,
    tier=lambda usage, body: None,
)
