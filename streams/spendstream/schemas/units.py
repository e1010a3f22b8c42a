"""Billable units beside tokens: one name for each, and what else it is called."""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Final

from pydantic_core import PydanticCustomError, to_json

MAX_QUANTITY: Final = Decimal(10**12)
PLACES: Final = Decimal("1e-12")
"""What a quantity or an amount is rounded to: the scale of its column."""

WEB_SEARCHES: Final = "web_searches"
"""Has a field and a column of its own; among the units it means that field."""

UNITS: Final = MappingProxyType(
    {
        WEB_SEARCHES: "Searches of the web.",
        "fast_web_searches": "Searches of the web by a provider's fast search, where that has a price of its own.",
        "social_searches": "Searches of a social network: xAI's X search.",
        "map_searches": "Answers grounded in maps.",
        "file_searches": "Searches of stored files.",
        "code_executions": "Runs of code, where each is billed.",
        "code_execution_sessions": "Containers in which code ran, where the container is billed.",
        "audio_seconds": "Seconds of audio, heard or spoken.",
        "input_audio_seconds": "Seconds of audio heard, where the two directions have different prices.",
        "output_audio_seconds": "Seconds of audio spoken, where the two directions have different prices.",
        "characters": "Characters of text, for speech and translation.",
        "pages": "Pages of documents read.",
        "annotated_pages": "Pages of documents read and annotated.",
        "images": "Images made.",
        "input_images": "Images read, where each is billed.",
        "input_pixels": "Pixels of images read.",
        "video_seconds": "Seconds of video made.",
        "input_video_seconds": "Seconds of video watched.",
        "search_units": "Reranking: one query with up to a provider's number of documents.",
        "storage_token_hours": "Tokens kept in a cache, times hours.",
        "citation_tokens": "Tokens of citations, billed beside the output.",
        "text_messages": "Messages, where each is billed.",
    }
)  # fmt: skip
"""What each unit counts. An event may use other names: they are kept, and have no public price."""

UNIT_ALIASES: Final = MappingProxyType(
    {
        # genai-prices
        "input_characters": "characters",
        "input_document_pages": "pages",
        "input_annotated_document_pages": "annotated_pages",
        "input_text_messages": "text_messages",
        "output_citation_tokens": "citation_tokens",
        "rerank_searches": "search_units",
        "storage_searches": "file_searches",
        # providers and libraries
        "web_search_requests": WEB_SEARCHES,
        "x_searches": "social_searches",
        "maps_searches": "map_searches",
        "vector_store_searches": "file_searches",
        "code_interpreter_sessions": "code_execution_sessions",
        "code_execution_requests": "code_executions",
        "document_pages": "pages",
        "pages_processed": "pages",
        "generated_images": "images",
        "output_images": "images",
        "output_video_seconds": "video_seconds",
        "cache_storage_token_hours": "storage_token_hours",
    }
)
"""Other names of a unit. Only names: the quantities count the same thing."""


def canonical_unit(name: str) -> str:
    """Return a unit's usual name: ``canonical_unit("pages_processed") == "pages"``."""
    return UNIT_ALIASES.get(name, name)


def rounded(number: Decimal) -> Decimal:
    """Return a number with at most 12 decimals, halves to even: floats carry digits that mean nothing."""
    return number.quantize(PLACES, ROUND_HALF_EVEN) if number.as_tuple().exponent < -12 else number  # type: ignore[operator]


def read_units(stated: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return quantities by usual name, sorted, without zeros.

    Raises: PydanticCustomError, where two names of one unit state different quantities.
    """
    units: dict[str, Decimal] = {}
    for name, quantity in stated.items():
        unit = canonical_unit(name)
        if units.setdefault(unit, quantity) != quantity:
            raise PydanticCustomError(
                "inconsistent_usage",
                "Unit {unit} is stated twice, as {one} and {other}: {name} is another name of it",
                {"unit": unit, "one": str(units[unit]), "other": str(quantity), "name": name, "field": "units"},
            )
    return {unit: units[unit] for unit in sorted(units) if units[unit]}


def units_text(units: Mapping[str, Decimal]) -> str | None:
    """Return quantities as a JSON object of decimal text, ``{"audio_seconds":"7.25","pages":"12"}``; None for none."""
    return to_json({unit: f"{quantity.normalize():f}" for unit, quantity in units.items()}).decode() if units else None
