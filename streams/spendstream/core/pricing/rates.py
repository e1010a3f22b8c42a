"""Rates that price a call, as integers: which rate a bucket takes, dated rate sets, and all of them as arrays.

``RateSet``    the rates of one card from a day on, one row for each size of input
``Timeline``   which rate set is in force when
``RateTable``  all rate sets as arrays

A rate is an integer of yocto-dollars (1e-24 USD) per token, search, request or unit: $0.0833333333333333 per million
tokens is 83,333,333,333,333,300 of them. A bucket's cost is its exact product, rounded half-even to a pico-dollar
(1e-12 USD) once per bucket and call. A rate of whole pico-dollars needs no rounding.
"""

import functools
import json
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt

from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS
from spendstream.schemas.measures import ESTIMATED, EXACT, PARTIAL, SUBSTITUTED
from spendstream.schemas.usage import ServiceTier

Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

Source = Literal["contract", "custom", "correction", "genai-prices", "prepaid"]

SERVICE_TIERS: Final[tuple[ServiceTier, ...]] = get_args(ServiceTier)
NO_RATE: Final = -1
PICO_PER_USD: Final = 10**12
YOCTO_PER_PICO: Final = 10**12
YOCTO_PER_USD: Final = PICO_PER_USD * YOCTO_PER_PICO
TOKENS_PER_MTOK: Final = 10**6
MAX_RATE: Final = 10**10 * YOCTO_PER_PICO
"""Yocto-dollars a token of ``spendstream.schemas.rate_card.MAX_RATE_USD_PER_MTOK``."""

DAY_US: Final = 86_400_000_000
WEEK_US: Final = 7 * DAY_US
_MONDAY_US: Final = 4 * DAY_US  # 1970-01-05
_EPOCH: Final = date(1970, 1, 1)
_EXACT: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)

UNKNOWN: Final = 0
"""The rate set of calls that no card prices."""

RATE_BUCKETS: Final = (*TOKEN_BUCKETS, "web_search", "request")
"""The cost buckets that have a rate for each size of input."""


class Inexact(ValueError):
    """An amount that is out of range, or not a whole number of pico-dollars per unit."""


def rate_of(usd: Decimal, per: int = 1) -> int:
    """Return yocto-dollars per unit, rounded half-even: ``rate_of(Decimal(3), TOKENS_PER_MTOK) == 3 * 10**18``.

    Raises: Inexact, if the rate is negative or no number.
    """
    if not usd.is_finite() or usd < 0:
        raise Inexact(f"not a price: {usd}")
    numerator, denominator = usd.as_integer_ratio()
    return half_even(numerator * YOCTO_PER_USD, denominator * per)


def rate_per_token(usd_per_mtok: Decimal) -> int:
    """Return yocto-dollars per token. Raises: Inexact."""
    rate = rate_of(usd_per_mtok, TOKENS_PER_MTOK)
    if rate > MAX_RATE:
        raise Inexact(f"{usd_per_mtok} USD per million tokens is out of range")
    return rate


def usd_of(rate: int, per: int = 1) -> Decimal:
    """Return a rate in USD per so many units: ``usd_of(3 * 10**18, TOKENS_PER_MTOK) == Decimal(3)``."""
    return _EXACT.divide(Decimal(rate * per), Decimal(YOCTO_PER_USD)).normalize(_EXACT) + Decimal(0)


def half_even(numerator: int, denominator: int) -> int:
    """Return a quotient of integers, rounded to the nearest integer, halves to the even one."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


def whole(pusd: Decimal) -> int:
    """Return an amount of pico-dollars as an integer. Raises: Inexact, if it isn't whole."""
    rounded = int(pusd)
    if rounded != pusd:
        raise Inexact(f"{pusd} is not a whole number of pico-dollars")
    return rounded


class Caveat(NamedTuple):
    """Why a price isn't sure to be exact. With the quality ``EXACT``: a remark."""

    quality: int
    """A code of ``spendstream.schemas.measures.PRICE_QUALITIES``."""
    note: str
    rates: tuple[tuple[int, int], ...] = ()
    """Which calls it is about: those with more input than this that use one of these buckets (a mask), rising. Of all
    that a call exceeds, the last counts. Empty: every call."""

    def buckets_above(self, input_tokens: int) -> int:
        """Return the buckets, as a mask, whose rates it is about at the step that starts there."""
        return next((mask for above, mask in reversed(self.rates) if above <= input_tokens), 0)


_SEVERITY: Final = {0: 0, EXACT: 0, ESTIMATED: 1, SUBSTITUTED: 2, PARTIAL: 3}


def worst(qualities: Iterable[int]) -> int:
    """Return the quality of a price with all of these: partial, else substituted, else estimated, else exact."""
    return max(qualities, key=_SEVERITY.__getitem__, default=EXACT)


class UnitRate(NamedTuple):
    """What a billable unit beside tokens costs."""

    rate: int
    """Yocto-dollars for ``per`` units."""
    per: int = 1
    """How many units the published price is for: 3,600 for a price per hour of what is counted in seconds."""
    minimum: int = 0
    """A call that uses less than this is billed for this much."""

    def cost_pusd(self, quantity: Decimal) -> int:
        """Return the exact cost of a quantity, rounded half-even: 11 s at $0.36 an hour are $0.0011."""
        numerator, denominator = max(quantity, Decimal(self.minimum)).as_integer_ratio()
        return half_even(numerator * self.rate, denominator * self.per * YOCTO_PER_PICO)


class Multiplier(NamedTuple):
    """A factor that is part of a rate: a surcharge of a region, a discount of a contract."""

    factor: Decimal
    buckets: tuple[str, ...]
    """Which rates it multiplies: cost buckets, of which ``units`` means all units."""
    reason: str
    reference: str
    """Where it is published."""


ALL_RATES: Final = (*RATE_BUCKETS, "units")


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
    """Dated rates of one card at one service tier. Rates are yocto-dollars (1e-24 USD)."""

    source: Source
    provider: str
    model: str
    tier_applied: str
    valid_from_us: int | None
    reference: str
    thresholds: tuple[int, ...]
    """Total input tokens that must be exceeded for the next step, rising."""
    steps: tuple[tuple[int, ...], ...]
    """Rates in the order of RATE_BUCKETS, one row more than there are thresholds; NO_RATE where none."""
    units: Mapping[str, UnitRate] = field(default_factory=dict)
    """By unit. A unit without a rate takes that of the unit that contains it."""
    gpu_hour: int | None = None
    """Pico-dollars an hour of all GPUs together. None if tokens are billed, not GPU time."""
    deployment: str = ""
    multipliers: tuple[Multiplier, ...] = ()
    """Factors that the rates already contain."""
    priced_as: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The rate that each bucket takes: ``{"reasoning": "output"}``."""

    @cached_property
    def ref(self) -> CardRef:
        """The card reference; its id is a hash of everything that determines a price."""
        # fmt: off
        content = [
            self.source, self.provider, self.model, self.deployment, self.tier_applied, self.valid_from_us,
            self.reference, self.thresholds, self.steps, sorted(self.units.items()), self.gpu_hour,
            [(f"{m.factor.normalize():f}", *m[1:]) for m in self.multipliers],
        ]
        # fmt: on
        digest = blake2b(json.dumps(content, ensure_ascii=True).encode(), digest_size=8).hexdigest()
        valid_from = None if self.valid_from_us is None else instant(self.valid_from_us)
        return CardRef(digest, self.source, self.provider, self.model, self.tier_applied, valid_from, self.reference)

    def step(self, total_input_tokens: int) -> int:
        """Return the index of the step that prices a call with this much input."""
        return sum(total_input_tokens > threshold for threshold in self.thresholds)

    def rate(self, bucket: str, total_input_tokens: int = 0) -> int:
        """Return a bucket's rate in yocto-dollars, for a call with this much input; NO_RATE if none."""
        return self.steps[self.step(total_input_tokens)][RATE_BUCKETS.index(bucket)]

    @cached_property
    def is_billed_by_units(self) -> bool:
        """Whether tokens have no price, and only units do: nothing can be said about a call that states none."""
        tokens = len(TOKEN_BUCKETS)
        request = RATE_BUCKETS.index("request")
        return bool(self.units) and all(
            step[request] <= 0 and all(rate == NO_RATE for rate in step[:tokens]) for step in self.steps
        )

    def unit_rate(self, unit: str) -> UnitRate | None:
        """Return what a unit costs; None if neither it nor a unit that contains it has a rate."""
        return self.units.get(unit) or self.units.get(CONTAINING_UNIT.get(unit, ""))

    def multiplied(self, multiplier: Multiplier, since_us: int | None) -> "RateSet":
        """Return the rates times a factor that applies from ``since_us`` on, each rounded half-even.

        A bucket without a rate of its own follows the one whose rate it takes: reasoning follows output.
        """
        factor, per = multiplier.factor.as_integer_ratio()
        named = set(multiplier.buckets)
        chosen = [bucket in named or self.priced_as.get(bucket) in named for bucket in RATE_BUCKETS]
        units = self.units
        if "units" in multiplier.buckets:
            units = {unit: r._replace(rate=half_even(r.rate * factor, per)) for unit, r in units.items()}
        known = [at for at in (self.valid_from_us, since_us) if at is not None]
        return replace(
            self,
            valid_from_us=max(known, default=None),
            steps=tuple(
                tuple(
                    half_even(rate * factor, per) if is_chosen and rate != NO_RATE else rate
                    for rate, is_chosen in zip(step, chosen, strict=True)
                )
                for step in self.steps
            ),
            units=units,
            multipliers=(*self.multipliers, multiplier),
        )

    def with_rates(self, rates: Mapping[str, int], units: Mapping[str, UnitRate]) -> "RateSet":
        """Return the rates with others in place of some, or beside them, at every step.

        A bucket without a rate of its own follows the one whose rate it takes.
        """
        named = {b: b if b in rates else self.priced_as.get(b, b) for b in RATE_BUCKETS}
        return replace(
            self,
            steps=tuple(
                tuple(rates.get(named[bucket], rate) for bucket, rate in zip(RATE_BUCKETS, step, strict=True))
                for step in self.steps
            ),
            units={**self.units, **units},
            priced_as={**self.priced_as, **{bucket: bucket for bucket in rates if bucket in TOKEN_BUCKETS}},
        )


CONTAINING_UNIT: Final = MappingProxyType(
    {"input_audio_seconds": "audio_seconds", "output_audio_seconds": "audio_seconds", "annotated_pages": "pages"}
)
"""The more general unit whose rate a unit takes if it has none of its own."""


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
    """Indices of rate sets over time: periods of whole UTC days, and hours of the week for peak prices.

    A period includes its first instant, and ends before the next one starts.
    """

    starts_us: tuple[int, ...] = ()
    """Midnights (epoch µs, rising) at which the next period starts; the first period has no start."""
    slots_us: tuple[int, ...] = ()
    """Times of the week (µs since Monday 00:00 UTC, rising) at which the next slot starts; the first starts there."""
    sets: tuple[int, ...] = (UNKNOWN,)
    """By period, and within each period by slot."""

    def at(self, time_us: int) -> int:
        """Return the rate set in force at an instant."""
        return self.within(time_us, since_monday(time_us))

    def within(self, period_us: int, slot_us: int) -> int:
        """Return the rate set in force in the period of an instant, at a time of the week."""
        period = bisect_right(self.starts_us, period_us)
        return self.sets[period * (len(self.slots_us) + 1) + bisect_right(self.slots_us, slot_us)]

    def at_each(self, times_us: Int64s) -> Int64s:
        """Return the rate set in force at each of many instants."""
        period = np.searchsorted(self.starts_us, times_us, "right")
        slot = np.searchsorted(self.slots_us, (times_us - _MONDAY_US) % WEEK_US, "right")
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

    def replaced(self, change: Callable[[int], int]) -> "Timeline":
        """Return the timeline with other rate sets, except where none is known."""
        changed = {index: change(index) for index in set(self.sets) - {UNKNOWN}}
        if all(index == other for index, other in changed.items()):
            return self
        return Timeline(self.starts_us, self.slots_us, tuple(changed.get(index, UNKNOWN) for index in self.sets))


def since_monday(time_us: int) -> int:
    """Return the time of the week of an instant, in µs since Monday 00:00 UTC."""
    return (time_us - _MONDAY_US) % WEEK_US


def every_day(slots_us: Iterable[int]) -> list[int]:
    """Return times of the day (µs since midnight) as the times of the week at which a slot starts."""
    return sorted({day * DAY_US + slot for day in range(7) for slot in slots_us} - {0})


def midnight_us(day: date) -> int:
    """Return the midnight (UTC) at which a day begins, in epoch µs."""
    return (day.toordinal() - _EPOCH.toordinal()) * DAY_US


def openings(starts_us: Sequence[int], slots_us: Sequence[int]) -> list[tuple[int, int]]:
    """Return an instant in each period, with the start of each slot, in the order of ``Timeline.sets``."""
    before_all = (starts_us[0] - DAY_US) if starts_us else 0
    return [(start, slot) for start in (before_all, *starts_us) for slot in (0, *slots_us)]


def merge(timelines: Sequence[Timeline], choose: Callable[[tuple[int, ...]], int]) -> Timeline:
    """Return the timeline that has, at each instant, what is chosen from what the given ones have."""
    starts = sorted({start for timeline in timelines for start in timeline.starts_us})
    slots = sorted({slot for timeline in timelines for slot in timeline.slots_us})
    sets = (choose(tuple(t.within(*at) for t in timelines)) for at in openings(starts, slots))
    return Timeline(tuple(starts), tuple(slots), tuple(sets))


def overlay(layers: Sequence[Timeline]) -> Timeline:
    """Return the timeline in which each instant takes the first layer that has a rate set for it."""
    if len(layers) == 1:
        return layers[0]
    return merge(layers, lambda sets: next((s for s in sets if s != UNKNOWN), UNKNOWN))


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
_NOTHING: Final = RateSet("custom", "", "", "", None, "", (), ((NO_RATE,) * len(RATE_BUCKETS),))


class RateTable:
    """All rate sets in use, by index and as arrays with one row for each step of each set.

    Sets are only ever added; index ``UNKNOWN`` prices nothing. By row: ``rates[bucket]`` holds whole pico-dollars per
    unit, ``fractions[bucket]`` what remains, in yocto-dollars, if any rate of the bucket has such a rest; ``rated`` the
    buckets that have a rate, as a mask; ``doubted`` those that a caveat is about; ``step`` the input tokens that were
    exceeded.
    """

    def __init__(self) -> None:
        self.sets: list[RateSet] = [_NOTHING]
        self.caveats: list[tuple[Caveat, ...]] = [()]
        self._index: dict[tuple[str, tuple[Caveat, ...]], int] = {}
        self._built = 0

    def intern(self, rate_set: RateSet, caveats: tuple[Caveat, ...] = ()) -> int:
        """Return the index of a set with caveats, adding it unless an equal one is there."""
        index = self._index.setdefault((rate_set.ref.id, caveats), len(self.sets))
        if index == len(self.sets):
            self.sets.append(rate_set)
            self.caveats.append(caveats)
        return index

    def with_caveat(self, index: int, caveat: Caveat) -> int:
        """Return the index of the same rates with one more caveat."""
        return self.intern(self.sets[index], tuple(dict.fromkeys((*self.caveats[index], caveat))))

    def refresh(self) -> None:
        """Update the arrays after sets were added. Call it before reading them."""
        if self._built == len(self.sets):
            return
        steps = [len(s.steps) for s in self.sets]
        self.first_row = np.cumsum([0, *steps[:-1]], dtype=np.int64)
        widest = max(steps) - 1
        self._thresholds = np.full((widest, len(self.sets)), _NEVER, dtype=np.int64)
        for index, rate_set in enumerate(self.sets):
            self._thresholds[: len(rate_set.thresholds), index] = rate_set.thresholds
        rows = [step for s in self.sets for step in s.steps]
        matrix = np.array([[rate // YOCTO_PER_PICO for rate in row] for row in rows], dtype=np.int64).T
        rests = np.array([[max(rate, 0) % YOCTO_PER_PICO for rate in row] for row in rows], dtype=np.int64).T
        self.rated = np.zeros(len(rows), dtype=np.int32)
        for bucket, rates in zip(RATE_BUCKETS, matrix, strict=True):
            self.rated |= np.where(rates != NO_RATE, np.int32(bit(bucket)), np.int32(0))
        self.rates = dict(zip(RATE_BUCKETS, np.ascontiguousarray(np.maximum(matrix, 0)), strict=True))
        self.fractions = {b: np.ascontiguousarray(r) for b, r in zip(RATE_BUCKETS, rests, strict=True) if r.any()}
        self.largest = {bucket: int(r.max()) + (bucket in self.fractions) for bucket, r in self.rates.items()}
        self.largest_unit = max(
            (-(-unit.rate // (unit.per * YOCTO_PER_PICO)) for s in self.sets for unit in s.units.values()), default=0
        )
        self.largest_minimum = max((unit.minimum for s in self.sets for unit in s.units.values()), default=0)
        self.step = np.array([start for s in self.sets for start in (0, *s.thresholds)], dtype=np.int64)
        self.is_gpu = np.array([s.gpu_hour is not None for s in self.sets])
        self.is_billed_by_units = np.array([s.is_billed_by_units for s in self.sets])
        self.largest_gpu_hour = max((s.gpu_hour or 0 for s in self.sets), default=0)
        always = [[caveat for caveat in found if not caveat.rates] for found in self.caveats]
        self.quality = np.array([worst(c.quality for c in found) for found in always], dtype=np.int8)
        self.notes = ["; ".join(c.note for c in found) for found in always]
        self.doubted = np.array(
            [
                functools.reduce(operator.or_, (caveat.buckets_above(start) for caveat in found), 0)
                for rate_set, found in zip(self.sets, self.caveats, strict=True)
                for start in (0, *rate_set.thresholds)
            ],
            dtype=np.int32,
        )
        self._built = len(self.sets)

    def rows(self, sets: Int64s, total_input: Int64s) -> Int64s:
        """Return the row that prices each call. A step starts at one token above its threshold."""
        rows = self.first_row.take(sets)
        for thresholds in self._thresholds:
            rows += total_input > thresholds.take(sets)
        return rows
