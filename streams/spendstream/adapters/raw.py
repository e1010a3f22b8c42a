"""What the provider counted, in its own words: kept beside our buckets, so that a bill can be checked against it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

PREFIX: Final = "usage."
"""Of the names of the tags that hold the provider's counts: ``usage.prompt_tokens_details.cached_tokens``."""

OMITTED: Final = "usage.omitted"
"""How many counts found no place among the event's tags."""

MAX_TAGS: Final = 32
"""What an event may have, the caller's own included: see ``spendstream.schemas.usage``."""

_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}", re.ASCII)
_MAX_DIGITS: Final = 32
_NAMED_BY: Final = ("modality", "type")


def usage_tags(usage: Mapping[str, Any], room: int = MAX_TAGS) -> dict[str, str]:
    """Return a provider's usage object as at most ``room`` tags: its numbers that are not 0, by their paths.

    ``{"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 400}}`` becomes ``usage.prompt_tokens: 1000``
    and ``usage.prompt_tokens_details.cached_tokens: 400``. Text is never kept. Where there are more numbers than room,
    the outermost are kept; ``usage.omitted`` says how many were not, for that or because of a name or a size that is
    no provider's.
    """
    found = sorted(_numbers(usage, ()), key=lambda leaf: len(leaf[0]))
    named = ((PREFIX + ".".join(path), number) for path, number in found)
    tags = {name: number for name, number in named if _NAME.fullmatch(name) and len(number) <= _MAX_DIGITS}
    if len(tags) == len(found) <= room:
        return tags
    if room < 1:
        return {}
    kept = dict(list(tags.items())[: room - 1])
    return {**kept, OMITTED: str(len(found) - len(kept))}


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, (*path, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for name, inner in zip(_names(value), value, strict=True):
            yield from _numbers(inner, (*path, name))
    elif isinstance(value, int | float) and not isinstance(value, bool) and value:
        yield path, str(value)


def _names(items: Sequence[Any]) -> list[str]:
    """Return what tells the items of a list apart: a word that each has of its own (AUDIO), else the position."""
    for field in _NAMED_BY:
        words = [item.get(field) if isinstance(item, Mapping) else None for item in items]
        if all(isinstance(word, str) and _WORD.fullmatch(word) for word in words) and len(set(words)) == len(words):
            return [str(word) for word in words]
    return [str(position) for position in range(len(items))]
