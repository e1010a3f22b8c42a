"""Which rate a bucket takes: the most specific one that contains it.

A rate covers whatever has all of its dimensions: ``output`` covers ``output`` of every kind, and so ``reasoning`` too,
until ``reasoning`` has a rate of its own. The words are those of genai-prices, so that its units can be asked as well.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from spendstream.schemas.buckets import TOKEN_BUCKETS

Dimensions = frozenset[tuple[str, str]]


def dimensions(**words: str) -> Dimensions:
    """Return dimensions, of tokens: ``dimensions(direction="input", modality="audio")``."""
    return frozenset({"family": "tokens", **words}.items())


RATE_DIMENSIONS: Final = MappingProxyType(
    {
        "input": dimensions(direction="input"),
        "cache_read": dimensions(direction="input", token_type="cache_read"),
        "cache_write_5m": dimensions(direction="input", token_type="cache_write", cache_ttl="5m"),
        "cache_write_1h": dimensions(direction="input", token_type="cache_write", cache_ttl="1h"),
        "cache_write": dimensions(direction="input", token_type="cache_write"),
        "input_audio": dimensions(direction="input", modality="audio"),
        "cache_read_audio": dimensions(direction="input", modality="audio", token_type="cache_read"),
        "input_image": dimensions(direction="input", modality="image"),
        "output": dimensions(direction="output"),
        "reasoning": dimensions(direction="output", token_type="reasoning"),
        "output_audio": dimensions(direction="output", modality="audio"),
        "output_image": dimensions(direction="output", modality="image"),
    }
)
"""What a rate named after a bucket covers."""

NAME_OF_RATE: Final = MappingProxyType({covered: bucket for bucket, covered in RATE_DIMENSIONS.items()})

_TEXT: Final = ("modality", "text")

BUCKET_DIMENSIONS: Final = MappingProxyType(
    {
        bucket: covered if any(name == "modality" for name, _ in covered) else covered | {_TEXT}
        for bucket, covered in RATE_DIMENSIONS.items()
    }
)
"""What the tokens of a bucket are: text, where they are nothing else."""


def rate_of_each_bucket(priced: Iterable[Dimensions]) -> dict[str, Dimensions]:
    """Return the dimensions of the rate that each bucket takes; buckets that no rate covers are absent.

    Raises: ValueError, when two rates cover a bucket and neither is the more specific one.
    """
    priced = list(priced)
    taken: dict[str, Dimensions] = {}
    for bucket in TOKEN_BUCKETS:
        covering = [rate for rate in priced if rate <= BUCKET_DIMENSIONS[bucket]]
        if not covering:
            continue
        best = max(covering, key=len)
        if not all(rate <= best for rate in covering):
            raise ValueError(f"{bucket} is covered by several rates, none of them the most specific")
        taken[bucket] = best
    return taken
