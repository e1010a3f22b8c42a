"""Rates that price a call, as integers: which rate a bucket takes, dated rate sets, and all of them as arrays.

``RateSet``    the rates of one card from a day on, one row for each size of input
``Timeline``   which rate set is in force when
``RateTable``  all rate sets as arrays
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS
from spendstream.schemas.usage import ServiceTier

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

Source = Literal["contract", "custom", "genai-prices"]

SERVICE_TIERS: Final[tuple[ServiceTier, ...]] = get_args(ServiceTier)
NO_RATE: Final = -1
PICO_PER_USD: Final = 10**12
TOKENS_PER_MTOK: Final = 10**6
MAX_RATE_PUSD: Final = 10**10
"""Pico-dollars a token of ``spendstream.schemas.rate_card.MAX_RATE_USD_PER_MTOK``."""

DAY_US: Final = 86_400_000_000
_EPOCH: Final = date(1970, 1, 1)

UNKNOWN: Final = 0
"""The rate set of calls that no card prices."""


class Inexact(ValueError):
    """An amount that is out of range, or not a whole number of pico-dollars per unit."""


def pusd_per_token(usd_per_mtok: Decimal) -> int:
    """Return pico-dollars per token: $3 per million tokens is 3,000,000. Raises: Inexact."""
    rate = whole(usd_per_mtok * (PICO_PER_USD // TOKENS_PER_MTOK))
    if not 0 <= rate <= MAX_RATE_PUSD:
        raise Inexact(f"{usd_per_mtok} USD per million tokens is out of range")
    return rate


def whole(pusd: Decimal) -> int:
    """Return an amount of pico-dollars as an integer. Raises: Inexact, if it isn't whole."""
    rounded = int(pusd)
    if rounded != pusd:
        raise Inexact(f"{pusd} is not a whole number of pico-dollars")
    return rounded


@dataclass(frozen=True, slots=True)
class CardRef:
    """Which rates priced a call. Equal rates with equal origin and date have the same id on every machine."""

    id: str
    """Hash of the exact rates, their origin and their first day: 16 hexadecimal digits."""
    source: Source
    provider: str
    model: str
    tier_applied: str
    """The service tier whose rates these are. ``standard`` for a call of another tier means its price is unknown."""
    valid_from: datetime | None
    """First instant of the rates; None if the price book gives no date."""
    reference: str
    """Where the rates are published: a URL, a contract and its clause."""


@dataclass(frozen=True)
class RateSet:
    """Dated rates of one card at one service tier. Amounts are integers in pico-dollars (1e-12 USD)."""

    source: Source
    provider: str
    model: str
    tier_applied: str
    valid_from_us: int | None
    reference: str
    thresholds: tuple[int, ...]
    """Total input tokens that must be exceeded for the next step, rising."""
    steps: tuple[tuple[int, ...], ...]
    """Rates per token in the order of TOKEN_BUCKETS, one row more than there are thresholds; NO_RATE where none."""
    web_search: int = NO_RATE
    request: int = 0
    gpu_hour: int | None = None
    """Of all GPUs together. None if tokens are billed, not GPU time."""
    deployment: str = ""
    estimated: str = field(default="", compare=False)
    """Why the calls that these rates price may have cost something else; "" if nothing is in doubt. Not of the card."""
    priced_as: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The rate that each bucket takes: ``{"reasoning": "output"}``."""

    @cached_property
    def ref(self) -> CardRef:
        """The card reference; its id is a hash of everything that determines a price."""
        # fmt: off
        content = [
            self.source, self.provider, self.model, self.deployment, self.tier_applied, self.valid_from_us,
            self.reference, self.thresholds, self.steps, self.web_search, self.request, self.gpu_hour,
        ]
        # fmt: on
        digest = blake2b(json.dumps(content, ensure_ascii=True).encode(), digest_size=8).hexdigest()
        valid_from = None if self.valid_from_us is None else instant(self.valid_from_us)
        return CardRef(digest, self.source, self.provider, self.model, self.tier_applied, valid_from, self.reference)

    def rate(self, bucket: str, total_input_tokens: int = 0) -> int:
        """Return a token bucket's rate in pico-dollars per token, for a call with this much input; NO_RATE if none."""
        step = sum(total_input_tokens > threshold for threshold in self.thresholds)
        return self.steps[step][TOKEN_BUCKETS.index(bucket)]


Intern = Callable[[RateSet], int]
"""Adds a rate set to the table and returns its index there."""


def instant(epoch_us: int) -> datetime:
    """Return microseconds since 1970 as a UTC time."""
    return datetime.fromtimestamp(epoch_us // 1_000_000, UTC).replace(microsecond=epoch_us % 1_000_000)


def bit(bucket: str) -> int:
    """Return the bit that stands for a cost bucket in a mask."""
    return 1 << COST_BUCKETS.index(bucket)


Dimensions = frozenset[tuple[str, str]]
"""What a rate covers: everything that has all of its dimensions.

``output`` covers output of every kind, so ``reasoning`` too, unless ``reasoning`` has a rate of its own. The words are
those of genai-prices, so that its units can be looked up as well.
"""


def dimensions(**values: str) -> Dimensions:
    """Return the dimensions of a token rate: ``dimensions(direction="input", modality="audio")``."""
    return frozenset({"family": "tokens", **values}.items())


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
        "cache_read_image": dimensions(direction="input", modality="image", token_type="cache_read"),
        "input_video": dimensions(direction="input", modality="video"),
        "output": dimensions(direction="output"),
        "reasoning": dimensions(direction="output", token_type="reasoning"),
        "output_audio": dimensions(direction="output", modality="audio"),
        "output_image": dimensions(direction="output", modality="image"),
        "output_video": dimensions(direction="output", modality="video"),
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
"""The dimensions of a bucket's tokens: text, unless the bucket says otherwise."""


def rate_of_each_bucket(priced: Iterable[Dimensions]) -> dict[str, Dimensions]:
    """Return the dimensions of the rate that each bucket takes: the most specific one that covers it.

    Buckets that no rate covers are absent.

    Raises: ValueError, if two rates cover a bucket and neither is more specific.
    """
    priced = list(priced)
    taken: dict[str, Dimensions] = {}
    for bucket in TOKEN_BUCKETS:
        covering = [rate for rate in priced if rate <= BUCKET_DIMENSIONS[bucket]]
        if not covering:
            continue
        best = max(covering, key=len)
        if not all(rate <= best for rate in covering):
            raise ValueError(f"{bucket} is covered by several rates, and none is the most specific")
        taken[bucket] = best
    return taken


@dataclass(frozen=True, slots=True)
class Timeline:
    """Indices of rate sets over time: periods of whole UTC days, and times of day for off-peak prices.

    A period includes its first instant, and ends before the next one starts.
    """

    starts_us: tuple[int, ...] = ()
    """Midnights (epoch µs, rising) at which the next period starts; the first period has no start."""
    slots_us: tuple[int, ...] = ()
    """Times of day (µs since midnight, rising) at which the next slot starts; the first starts at midnight."""
    sets: tuple[int, ...] = (UNKNOWN,)
    """By period, and within each period by slot."""

    def at(self, time_us: int) -> int:
        """Return the rate set in force at an instant."""
        period = bisect_right(self.starts_us, time_us)
        return self.sets[period * (len(self.slots_us) + 1) + bisect_right(self.slots_us, time_us % DAY_US)]

    def at_each(self, times_us: Int64s) -> Int64s:
        """Return the rate set in force at each of many instants."""
        period = np.searchsorted(self.starts_us, times_us, "right")
        slot = np.searchsorted(self.slots_us, times_us % DAY_US, "right")
        return np.array(self.sets, dtype=np.int64).take(period * (len(self.slots_us) + 1) + slot)

    def throughout(self, first_us: int, last_us: int) -> int | None:
        """Return the rate set in force from the first to the last instant; None if it changes between them."""
        if len(self.sets) == 1:
            return self.sets[0]
        if self.slots_us or bisect_right(self.starts_us, first_us) != bisect_right(self.starts_us, last_us):
            return None
        return self.at(first_us)

    def compact(self) -> Self:
        """Return the same timeline without starts at which nothing changes."""
        width = len(self.slots_us) + 1
        periods = [self.sets[at : at + width] for at in range(0, len(self.sets), width)]
        kept = [index for index, period in enumerate(periods) if index == 0 or period != periods[index - 1]]
        starts = tuple(self.starts_us[index - 1] for index in kept if index)
        return replace(self, starts_us=starts, sets=tuple(chosen for index in kept for chosen in periods[index]))

    def end_of(self, time_us: int) -> int | None:
        """Return when the period of an instant ends; None for the last one."""
        period = bisect_right(self.starts_us, time_us)
        return self.starts_us[period] if period < len(self.starts_us) else None


def midnight_us(day: date) -> int:
    """Return the midnight (UTC) at which a day begins, in epoch µs."""
    return (day.toordinal() - _EPOCH.toordinal()) * DAY_US


def openings(starts_us: Sequence[int], slots_us: Sequence[int]) -> list[int]:
    """Return an instant in each slot of each period, in the order of ``Timeline.sets``."""
    before_all = (starts_us[0] - DAY_US) if starts_us else 0
    return [start + slot for start in (before_all, *starts_us) for slot in (0, *slots_us)]


def overlay(layers: Sequence[Timeline]) -> Timeline:
    """Return the timeline in which each instant takes the first layer that has a rate set for it."""
    if len(layers) == 1:
        return layers[0]
    starts = sorted({start for layer in layers for start in layer.starts_us})
    slots = sorted({slot for layer in layers for slot in layer.slots_us})
    instants = openings(starts, slots)
    sets = (next((s for layer in layers if (s := layer.at(t)) != UNKNOWN), UNKNOWN) for t in instants)
    return Timeline(tuple(starts), tuple(slots), tuple(sets))


UNCACHED: Final = {
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "input",
    "cache_write": "input",
    "cache_read_audio": "input_audio",
    "cache_read_image": "input_image",
}
"""The bucket that cached tokens would have been in without a cache."""

_NEVER: Final = np.iinfo(np.int64).max
_NOTHING: Final = RateSet("custom", "", "", "", None, "", (), ((NO_RATE,) * len(TOKEN_BUCKETS),))


class RateTable:
    """All rate sets in use, by index and as arrays with one row for each step of each set.

    Sets are only ever added; index ``UNKNOWN`` prices nothing. ``rates[bucket]`` holds pico-dollars per unit by row;
    ``rated`` holds the buckets that have a rate, as a mask, by row.
    """

    def __init__(self) -> None:
        self.sets: list[RateSet] = [_NOTHING]
        self._index = {"": UNKNOWN}
        self._built = 0

    def intern(self, rate_set: RateSet) -> int:
        """Return the index of a set, adding it unless an equal one with the same doubt is there."""
        index = self._index.setdefault(rate_set.ref.id + rate_set.estimated, len(self.sets))
        if index == len(self.sets):
            self.sets.append(rate_set)
        return index

    def refresh(self) -> None:
        """Update the arrays after sets were added. Call it before reading them."""
        if self._built == len(self.sets):
            return
        steps = [len(s.steps) for s in self.sets]
        self._first_row = np.cumsum([0, *steps[:-1]], dtype=np.int64)
        widest = max(steps) - 1
        self._thresholds = np.full((widest, len(self.sets)), _NEVER, dtype=np.int64)
        for index, rate_set in enumerate(self.sets):
            self._thresholds[: len(rate_set.thresholds), index] = rate_set.thresholds
        rows = [(*step, s.web_search, s.request) for s in self.sets for step in s.steps]
        matrix = np.array(rows, dtype=np.int64).T
        self.rated = np.zeros(len(rows), dtype=np.int32)
        for bucket, rates in zip(COST_BUCKETS, matrix, strict=False):
            self.rated |= np.where(rates != NO_RATE, np.int32(bit(bucket)), np.int32(0))
        self.rates = dict(zip(COST_BUCKETS, np.ascontiguousarray(np.maximum(matrix, 0)), strict=False))
        self.largest = {bucket: int(rates.max()) for bucket, rates in self.rates.items()}
        self.is_gpu = np.array([s.gpu_hour is not None for s in self.sets])
        self.largest_gpu_hour = max((s.gpu_hour or 0 for s in self.sets), default=0)
        self.tier = np.array([tier_code(s.tier_applied) for s in self.sets], dtype=np.int8)
        self._built = len(self.sets)

    def rows(self, sets: Int64s, total_input: Int64s) -> Int64s:
        """Return the row that prices each call. A step starts at one token above its threshold."""
        rows = self._first_row.take(sets)
        for thresholds in self._thresholds:
            rows += total_input > thresholds.take(sets)
        return rows


def tier_code(service_tier: str) -> int:
    """Return a service tier as a small number, -1 for an unknown one."""
    return SERVICE_TIERS.index(service_tier) if service_tier in SERVICE_TIERS else -1
