"""Reading a provider's usage object: counts by path, and the errors that say what is wrong with them.

AdapterError
├── UnknownProvider    no adapter by that name
├── MissingUsage       the response carries no token counts
└── InconsistentUsage  a part exceeds its whole, or no reading of the counts adds up to the total
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

AS_SENT = "Pass the usage object of one call as the provider sent it, neither summed nor merged with another's."


class AdapterError(ValueError):
    """A response from which no disjoint buckets can be made."""


class UnknownProvider(AdapterError):
    """No adapter is registered under the provider's name."""


class MissingUsage(AdapterError):
    """The response carries no token counts."""


class InconsistentUsage(AdapterError):
    """Counts that contradict each other. ``field`` is the path of the count at fault."""

    def __init__(self, provider: str, field: str, what: str, mend: str = AS_SENT) -> None:
        super().__init__(f"{provider} usage, {field}: {what}. {mend}")
        self.provider = provider
        self.field = field


@dataclass(frozen=True, slots=True)
class Part:
    """A count and the path where the provider states it."""

    field: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Counts:
    """A usage object, read by path. Absent and null counts read as 0; anything but a whole number is refused."""

    provider: str
    raw: Mapping[str, Any]

    def states(self, field: str) -> bool:
        """Whether a field of the usage object is present and not null."""
        return self.raw.get(field) is not None

    def inner(self, field: str) -> "Counts":
        """Return the nested object ``field``, empty where absent."""
        value = self.raw.get(field)
        if value is None:
            return Counts(self.provider, {})
        if not isinstance(value, Mapping):
            raise InconsistentUsage(self.provider, field, f"an object is expected, not {value!r}")
        return Counts(self.provider, value)

    def each(self, field: str) -> Iterator["Counts"]:
        """Yield the objects of the list ``field``; nothing where absent."""
        for item in self.raw.get(field) or ():
            if isinstance(item, Mapping):
                yield Counts(self.provider, item)

    def count(self, field: str) -> int:
        """Return the count at ``field``, 0 where absent or null.

        Raises: InconsistentUsage, when it is no whole number, or negative.
        """
        value = self.raw.get(field)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InconsistentUsage(self.provider, field, f"a whole number of tokens is expected, not {value!r}")
        return value

    def part(self, *path: str) -> Part:
        """Return the count at a path with its dotted name."""
        inner = self
        for step in path[:-1]:
            inner = inner.inner(step)
        return Part(".".join(path), inner.count(path[-1]))

    def rest(self, whole: Part, *parts: Part) -> int:
        """Return what remains of a whole without its parts.

        Raises: InconsistentUsage, when the parts exceed the whole: 500 cached of 400 prompt tokens.
        """
        left = whole.tokens
        for part in parts:
            if part.tokens > left:
                others = "" if left == whole.tokens else f" (of which {left} are left beside its other parts)"
                raise InconsistentUsage(
                    self.provider,
                    part.field,
                    f"{part.tokens} tokens, more than the {whole.tokens} of {whole.field}{others}, which includes them",
                )
            left -= part.tokens
        return left


def split_input(
    usage: Counts,
    whole: Part,
    *,
    cached: Part,
    written: Part,
    audio: Part,
    image: Part,
    cached_audio: int | None = None,
    cached_image: int = 0,
) -> dict[str, int]:
    """Split an input count that includes its cached, audio and image tokens into disjoint buckets.

    A provider that does not say how much of the cached input was audio (``cached_audio`` None) is read
    with the least overlap that adds up: 900 cached and 300 audio of 1,000 tokens make 200 cached audio.

    Returns: buckets that sum to ``whole``; there is no bucket for cached images, they count as ``cache_read``.
    Raises: InconsistentUsage, when a part exceeds the whole.
    """
    usage.rest(whole, cached, written)
    usage.rest(whole, audio, image)
    if cached_audio is None:
        overlap = max(0, cached.tokens + written.tokens + audio.tokens + image.tokens - whole.tokens)
        cached_audio = min(overlap, audio.tokens, cached.tokens)
        cached_image = min(overlap - cached_audio, image.tokens, cached.tokens - cached_audio)
    fresh_audio = usage.rest(audio, Part(f"cached part of {audio.field}", cached_audio))
    fresh_image = usage.rest(image, Part(f"cached part of {image.field}", cached_image))
    text_cached = usage.rest(cached, Part(f"audio part of {cached.field}", cached_audio))
    fresh = usage.rest(whole, cached, written, Part(audio.field, fresh_audio), Part(image.field, fresh_image))
    return {
        "input_tokens": fresh,
        "cache_read_tokens": text_cached,
        "cache_read_audio_tokens": cached_audio,
        "cache_write_tokens": written.tokens,
        "input_audio_tokens": fresh_audio,
        "input_image_tokens": fresh_image,
    }


def split_cache_writes(usage: Counts, written: Part, written_5m: Part, written_1h: Part) -> dict[str, int]:
    """Split the tokens written to cache by lifetime; what no lifetime accounts for is ``cache_write_tokens``.

    Raises: InconsistentUsage, when the lifetimes sum to more than was written.
    """
    return {
        "cache_write_5m_tokens": written_5m.tokens,
        "cache_write_1h_tokens": written_1h.tokens,
        "cache_write_tokens": usage.rest(written, written_5m, written_1h),
    }
