"""What an adapter is: the shape of one API's usage object, and the counts that are read from it.

AdapterError
├── UnknownProvider    no adapter has that name
├── MissingUsage       the response carries no token counts
└── InconsistentUsage  a part exceeds its whole, or the counts don't add up to the total in any reading
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

AS_SENT: Final = "Pass one call's usage object as the provider sent it; don't sum it or merge it with another call's."


class AdapterError(ValueError):
    """A response that can't be split into disjoint buckets."""


class UnknownProvider(AdapterError):
    """No adapter has the provider's name."""


class MissingUsage(AdapterError):
    """The response carries no token counts."""


class InconsistentUsage(AdapterError):
    """Counts that contradict each other. ``field`` is the path of the wrong count."""

    def __init__(self, provider: str, field: str, what: str, fix: str = AS_SENT) -> None:
        super().__init__(f"{provider} usage, {field}: {what}. {fix}")
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
            raise InconsistentUsage(self.provider, field, f"expected an object, got {value!r}")
        return Counts(self.provider, value)

    def each(self, field: str) -> Iterator["Counts"]:
        """Yield the objects of the list ``field``; nothing where absent."""
        for item in self.raw.get(field) or ():
            if isinstance(item, Mapping):
                yield Counts(self.provider, item)

    def count(self, field: str) -> int:
        """Return the count at ``field``, 0 where absent or null.

        Raises: InconsistentUsage, when it is negative or not a whole number.
        """
        value = self.raw.get(field)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InconsistentUsage(self.provider, field, f"expected a whole number of tokens, got {value!r}")
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
                what = f"more than the {whole.tokens} of {whole.field}, which includes them"
                if left != whole.tokens:
                    what = f"more than the {left} that other parts leave of the {whole.tokens} of {whole.field}"
                raise InconsistentUsage(self.provider, part.field, f"{part.tokens} tokens, {what}")
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

    Where the provider does not state how much of the cached input was audio (``cached_audio`` None), the smallest
    overlap that adds up is taken: 900 cached and 300 audio of 1,000 tokens make 200 cached audio.

    Returns: buckets that sum to ``whole``. Cached images have no bucket; they count as ``cache_read``.
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
    """Split the tokens written to cache by lifetime; the remainder is ``cache_write_tokens``.

    Raises: InconsistentUsage, when the lifetimes sum to more than was written.
    """
    return {
        "cache_write_5m_tokens": written_5m.tokens,
        "cache_write_1h_tokens": written_1h.tokens,
        "cache_write_tokens": usage.rest(written, written_5m, written_1h),
    }


Body = Mapping[str, Any]

TIERS: Final[Mapping[str, str]] = {
    "standard": "standard",
    "default": "standard",
    "auto": "standard",
    "on_demand": "standard",
    "scale": "standard",  # prepaid capacity: only the list price is known by the token
    "reserved": "standard",
    "provisioned_throughput": "standard",
    "batch": "batch",
    "flex": "flex",
    "on_demand_flex": "flex",
    "priority": "priority",
    "on_demand_priority": "priority",
    "unspecified": "standard",
    "traffic_type_unspecified": "standard",
}
"""How a provider says it processed the call → ``service_tier``."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How one API states usage.

    ``marks``: a usage object has at least one of these fields. ``held_at``: paths to it inside a response.
    ``buckets``: (usage, the object that holds it) → token fields that sum to the provider's total.
    ``tier``: the provider's name for the service tier, None where it states none.
    ``model_at``, ``id_at``: fields of the object that holds the usage, with the served model and the response's id.
    """

    name: str
    marks: frozenset[str]
    held_at: tuple[tuple[str, ...], ...]
    buckets: Callable[[Counts, Body], dict[str, int]]
    tier: Callable[[Body, Body], object]
    model_at: tuple[str, ...] = ("model",)
    id_at: tuple[str, ...] = ("id",)

    def find(self, response: Body) -> tuple[Body, Body] | None:
        """Return (usage, the object that holds it) of a response or a bare usage object; None if not of this shape."""
        if self.marks & response.keys():
            return response, {}
        for path in self.held_at:
            holder: Any = response
            for step in path[:-1]:
                holder = holder.get(step) if isinstance(holder, Mapping) else None
            usage = holder.get(path[-1]) if isinstance(holder, Mapping) else None
            if isinstance(usage, Mapping) and self.marks & usage.keys():
                return usage, holder
        return None


def tier_fields(stated: object) -> dict[str, str]:
    """Return ``service_tier`` for a provider's name of it.

    An unknown tier must not be priced as standard silently: ``usage_quality`` becomes partial.
    """
    if stated is None:
        return {}
    tier = TIERS.get(str(stated).lower())
    return {"usage_quality": "partial"} if tier is None else {"service_tier": tier}
