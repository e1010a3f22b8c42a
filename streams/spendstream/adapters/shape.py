"""What an adapter is: the shape of one API's usage object, and the counts that are read from it.

Every number of a usage object is read, or ignored by rule; one that is neither is noted, and so are counts that
contradict each other. A note makes the event partial and says what the reading is worth; a refusal would lose money.

AdapterError
├── UnknownProvider    no adapter has that name
├── MissingUsage       the response states no usage
├── InconsistentUsage  a count is not a whole number, so that no reading is possible
└── SeveralCalls       the response holds several priced calls, where one event was asked for
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel

AS_SENT: Final = "Pass one call's usage object as the provider sent it; don't sum it or merge it with another call's."

Body = Mapping[str, Any]
Path = tuple[str, ...]


class AdapterError(ValueError):
    """A response that can't be split into disjoint buckets."""


class UnknownProvider(AdapterError):
    """No adapter has the provider's name."""


class MissingUsage(AdapterError):
    """The response states no usage."""


class InconsistentUsage(AdapterError):
    """A count that can't be read. ``field`` is its path."""

    def __init__(self, provider: str, field: str, what: str, fix: str = AS_SENT) -> None:
        super().__init__(f"{provider} usage, {field}: {what}. {fix}")
        self.provider = provider
        self.field = field


class SeveralCalls(AdapterError):
    """A response that holds several priced calls, where one event was asked for."""


@dataclass(frozen=True, slots=True)
class Part:
    """A count and the path where the provider states it."""

    field: str
    tokens: int


NONE: Final = Part("", 0)


@dataclass(slots=True)
class Reading:
    """What is known about one usage object: which of its numbers were read, what is wrong with them, and the billable
    units beside its tokens."""

    provider: str
    seen: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    units: dict[str, Decimal] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Say once what is wrong with the reading. A reading with notes makes the event partial."""
        if text not in self.notes:
            self.notes.append(text)


_SPEED: Final = re.compile(r"(^|_)(time|latency|per_sec|per_second|rate|ms)$")
"""Names of times and speeds: nothing is billed by them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A usage object, read by path. Absent and null counts read as 0. Remembers what was read."""

    reading: Reading
    raw: Body
    path: Path = ()

    @property
    def provider(self) -> str:
        return self.reading.provider

    def states(self, field: str) -> bool:
        """Whether a field of the usage object is present and not null."""
        return self.raw.get(field) is not None

    def inner(self, field: str) -> "Counts":
        """Return the nested object ``field``, empty where absent."""
        value = self.raw.get(field)
        return Counts(self.reading, value if isinstance(value, Mapping) else {}, (*self.path, field))

    def each(self, field: str) -> Iterator["Counts"]:
        """Yield the objects of the list ``field``; nothing where absent."""
        items = self.raw.get(field)
        for position, item in enumerate(items if isinstance(items, list | tuple) else ()):
            if isinstance(item, Mapping):
                yield Counts(self.reading, item, (*self.path, field, str(position)))

    def count(self, field: str) -> int:
        """Return the count at ``field``, 0 where absent or null. What is no whole number is noted, and reads as 0."""
        try:
            return self.whole(field).tokens
        except InconsistentUsage:
            self.reading.note(f"{self.name(field)} {str(self.raw[field])[:20]} is not a count")
            return 0

    def whole(self, field: str) -> Part:
        """Return the count at ``field`` with its path, 0 where absent or null. 12.0 reads as 12.

        Raises: InconsistentUsage, when it is negative or not a whole number.
        """
        self.reading.seen.add((*self.path, field))
        value = self.raw.get(field)
        if value is None:
            value = 0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            what = f"expected a whole number of tokens, got {value!r}"
            raise InconsistentUsage(self.provider, self.name(field), what)
        return Part(self.name(field), value)

    def part(self, *path: str) -> Part:
        """Return the count at a path with its dotted name."""
        inner = self
        for step in path[:-1]:
            inner = inner.inner(step)
        return Part(inner.name(path[-1]), inner.count(path[-1]))

    def agreed(self, *paths: Path) -> Part:
        """Return a count that libraries repeat under several names: the largest, noted where they disagree."""
        present = (path for path in paths if nested(self.raw, *path[:-1]).get(path[-1]))
        stated = [part for path in present if (part := self.part(*path)).tokens]
        if not stated:
            return Part(".".join((*self.path, *paths[0])), 0)
        best = max(stated, key=lambda part: part.tokens)
        for other in stated:
            if other.tokens != best.tokens:
                self.reading.note(f"{other.field} {other.tokens} is not {best.field} {best.tokens}")
        return best

    def ignore(self, *fields: str) -> None:
        """Say that fields, with all that is in them, hold nothing that is billed for itself."""
        self.reading.seen.update((*self.path, field) for field in fields)

    def quantity(self, field: str) -> Decimal:
        """Return a quantity that need not be whole, such as seconds; 0 where absent. "8" reads as 8."""
        self.reading.seen.add((*self.path, field))
        value = self.raw.get(field)
        try:
            quantity = Decimal(0) if value is None or isinstance(value, bool) else Decimal(str(value))
        except InvalidOperation:
            quantity = Decimal("NaN")
        if not quantity.is_finite() or quantity < 0:
            self.reading.note(f"{self.name(field)} {str(value)[:20]} is not a quantity")
            return Decimal(0)
        return quantity

    def unit(self, name: str, quantity: Decimal | int) -> None:
        """Add to a billable unit beside the tokens; ``spendstream.schemas.units`` has the names."""
        if quantity:
            self.reading.units[name] = self.reading.units.get(name, Decimal(0)) + quantity

    def rest(self, whole: Part, *parts: Part) -> int:
        """Return what remains of a whole without its parts: 0, and a note, where the parts exceed it."""
        left = whole.tokens - sum(part.tokens for part in parts)
        if left < 0:
            stated = " + ".join(f"{part.field} {part.tokens}" for part in parts if part.tokens)
            self.reading.note(f"{stated} exceeds {whole.field} {whole.tokens}")
        return max(left, 0)

    def check_total(self, total: Part, *readings: int) -> None:
        """Note a total that no reading of the counts gives. A total of 0 is taken as not stated."""
        if total.tokens and total.tokens not in readings:
            self.reading.note(f"{total.field} {total.tokens} is not the sum of its parts, {readings[0]}")

    def name(self, field: str) -> str:
        """Return a field's dotted path."""
        return ".".join((*self.path, field))

    def apart(self, **defaults: int) -> "Counts":
        """Return the same counts with notes of their own: those of a call that another call's response holds."""
        return Counts(Reading(self.provider, self.reading.seen), {**defaults, **self.raw}, self.path)

    def note_unread(self) -> None:
        """Note each number that was neither read nor ignored by rule. Zeros hold nothing that could be lost."""
        for path, number in leaves(self.raw, self.path):
            if (
                number
                and not _SPEED.search(path[-1])
                and not any(path[:length] in self.reading.seen for length in range(1, len(path) + 1))
            ):
                self.reading.note(f"{'.'.join(path)} {number} not read")


def leaves(value: object, path: Path) -> Iterator[tuple[Path, int | float | Decimal]]:
    """Yield the numbers inside a JSON value, with their paths."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, (*path, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for position, inner in enumerate(value):
            yield from leaves(inner, (*path, str(position)))
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        yield path, value


def split_input(
    usage: Counts,
    whole: Part,
    *,
    cached: Part,
    written: Mapping[str, int],
    audio: Part = NONE,
    image: Part = NONE,
    video: Part = NONE,
    cached_audio: int | None = None,
    cached_image: int = 0,
    cached_video: int = 0,
    is_cache_beside: bool = False,
) -> dict[str, int]:
    """Split an input count that includes its cached, audio, image and video tokens into disjoint buckets.

    ``written`` are the buckets of tokens written to cache. Where the provider does not state how much of the cached
    input was audio (``cached_audio`` None), the smallest overlap that adds up is taken: 900 cached and 300 audio of
    1,000 tokens make 200 cached audio. Images and video of such an overlap count as ``cache_read``, and so does video
    in any case: it has no bucket of its own.

    ``is_cache_beside``: the whole leaves the cache out. More cached than whole tokens mean the same, and are noted.

    Returns: buckets that sum to ``whole`` (plus the cache beside it), or to more, noted, where the parts exceed it.
    """
    from_cache = cached.tokens + sum(written.values())
    if not is_cache_beside and from_cache > whole.tokens:
        usage.reading.note(f"cache {from_cache} exceeds {whole.field} {whole.tokens}: counted beside it")
        is_cache_beside = True
    total = whole.tokens + from_cache * is_cache_beside
    if cached_audio is None:
        overlap = max(0, from_cache + audio.tokens + image.tokens + video.tokens - total)
        cached_audio = min(overlap, audio.tokens, cached.tokens)
        cached_image = min(overlap - cached_audio, image.tokens, cached.tokens - cached_audio)
        left = cached.tokens - cached_audio - cached_image
        cached_video = min(overlap - cached_audio - cached_image, video.tokens, left)
        cached_image_bucket = 0
    else:
        stated = cached_audio, cached_image, cached_video
        cached_audio = min(cached_audio, audio.tokens, cached.tokens)
        cached_image = min(cached_image, image.tokens, cached.tokens - cached_audio)
        cached_video = min(cached_video, video.tokens, cached.tokens - cached_audio - cached_image)
        if stated != (cached_audio, cached_image, cached_video):
            kinds = ", ".join(f"{kind} {n}" for kind, n in zip(("audio", "image", "video"), stated, strict=True) if n)
            usage.reading.note(f"cached {kinds} exceeds what was cached or sent")
        cached_image_bucket = cached_image
    fresh_audio, fresh_image = audio.tokens - cached_audio, image.tokens - cached_image
    fresh_video = video.tokens - cached_video
    fresh = usage.rest(
        Part(whole.field, total),
        Part("cache", from_cache),
        Part(audio.field, fresh_audio),
        Part(image.field, fresh_image),
        Part(video.field, fresh_video),
    )
    return {
        "input_tokens": fresh,
        "cache_read_tokens": cached.tokens - cached_audio - cached_image_bucket,
        "cache_read_audio_tokens": cached_audio,
        "cache_read_image_tokens": cached_image_bucket,
        **written,
        "input_audio_tokens": fresh_audio,
        "input_image_tokens": fresh_image,
        "input_video_tokens": fresh_video,
    }


def split_cache_writes(usage: Counts, written: Part, written_5m: Part, written_1h: Part) -> dict[str, int]:
    """Split the tokens written to cache by lifetime; the remainder is ``cache_write_tokens``."""
    return {
        "cache_write_5m_tokens": written_5m.tokens,
        "cache_write_1h_tokens": written_1h.tokens,
        "cache_write_tokens": usage.rest(written, written_5m, written_1h) if written.tokens else 0,
    }


TIERS: Final[Mapping[str, str]] = {
    "standard": "standard",
    "default": "standard",
    "auto": "standard",
    "on_demand": "standard",
    "batch": "batch",
    "flex": "flex",
    "on_demand_flex": "flex",
    "priority": "priority",
    "on_demand_priority": "priority",
    "fast": "priority",  # OpenAI renamed its priority tier on 2026-07-30
    "fast_mode": "fast",
    "unspecified": "standard",
    "traffic_type_unspecified": "standard",
}
"""How a provider says it processed the call → ``service_tier``."""

FAST_MODE: Final = "fast_mode"
"""What adapters call Anthropic's ``speed: fast``, which costs more than any tier of that name elsewhere."""

PREPAID: Final = frozenset({"scale", "reserved", "provisioned_throughput"})
"""Tiers of capacity that is prepaid by the hour: its tokens are not billed."""


@dataclass(frozen=True, slots=True)
class BesideCall:
    """A priced call that another call's response holds: the model, its buckets, and the rest of its reading."""

    model: str | None
    buckets: dict[str, int]
    reading: Reading


def _no_calls(usage: Counts, body: Body) -> list[BesideCall]:
    return []


@dataclass(frozen=True, slots=True)
class Shape:
    """How one API or library states usage.

    ``is_of``: (usage object, provider) → whether the object is of this shape, by its whole signature.
    ``buckets``: (usage, the object that holds it) → token fields that sum to the provider's total.
    ``tier``: the provider's name for the service tier, None where it states none.
    ``beside``: the calls of other models that the response holds.
    ``spell``: brings the usage object to the spelling that ``buckets`` reads.
    ``model_at``, ``id_at``: paths within the object that holds the usage, to the served model and the response's id.
    """

    name: str
    is_of: Callable[[Body, str], bool]
    buckets: Callable[[Counts, Body], dict[str, int]]
    tier: Callable[[Counts, Body], object]
    beside: Callable[[Counts, Body], list[BesideCall]] = _no_calls
    spell: Callable[[Body], Body] = dict
    model_at: tuple[str, ...] = ("model",)
    id_at: tuple[str, ...] = ("id",)


def tier_fields(stated: object, reading: Reading) -> dict[str, str]:
    """Return ``service_tier`` or ``capacity`` for a provider's name of it. An unknown one is noted."""
    if stated is None:
        return {}
    tier = TIERS.get(str(stated).lower())
    if tier is not None:
        return {"service_tier": tier}
    if str(stated).lower() in PREPAID:
        return {"capacity": "provisioned"}
    reading.note(f"tier {str(stated)[:40]} unknown, priced as standard")
    return {}


def objects(value: object) -> list[Body]:
    """Return the objects in a list; none where the value is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def nested(holder: Body, *path: str) -> Body:
    """Return the object at a path; empty where there is none."""
    for step in path:
        inner = holder.get(step)
        holder = inner if isinstance(inner, Mapping) else {}
    return holder


def states_any(usage: Body, *fields: str) -> bool:
    """Whether a usage object has at least one of the fields, not null."""
    return any(usage.get(field) is not None for field in fields)


def geo_fields(stated: object) -> dict[str, str]:
    """Return ``inference_geo`` where a provider says where it was bound to keep the call: us, global."""
    return {"inference_geo": stated.lower()} if isinstance(stated, str) and stated not in ("", "not_available") else {}


def plain(value: Any) -> Any:
    """Return a response as JSON types; an SDK's object, anywhere inside, by its ``model_dump()`` or ``to_dict()``."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bytes | int | float | Decimal):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        is_flat = bool(value) and isinstance(value[0], str | int | float)  # the numbers of an embedding
        return value if is_flat else [plain(inner) for inner in value]
    if isinstance(value, BaseModel):
        try:
            dumped = value.model_dump(warnings=False)
        except TypeError:  # a model that takes no arguments
            dumped = value.model_dump()
        inside = dict(value)  # a dump leaves out what a subclass adds to the declared type
        return {str(name): plain(inside.get(name, inner)) for name, inner in dumped.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    for method in ("model_dump", "to_dict"):
        if callable(dump := getattr(value, method, None)):
            return plain(dump())
    return value
