"""Your own rate cards: what you pay if the public price book doesn't have it, or if you pay something else.

Rates are dated. Never edit a past rate: append a new price as a new entry with its own ``from``, so that a call has
the same price whenever it is priced again. Amounts are exact USD: they are read as text and never become a float.

A bucket without a rate of its own takes the rate of the most specific bucket that contains it::

    reasoning, output_audio, output_image, output_video   ->  output
    cache_read, input_audio, input_image, input_video     ->  input
    cache_write                                           ->  input
    cache_write_5m, cache_write_1h                        ->  cache_write, else input
    cache_read_audio                                      ->  cache_read or input_audio, else input
    cache_read_image                                      ->  cache_read or input_image, else input

A billable unit without a rate of its own takes that of the unit that contains it: ``input_audio_seconds`` and
``output_audio_seconds`` take ``audio_seconds``, ``annotated_pages`` takes ``pages``.

A rate may have up to 18 decimals. A cost is the exact product of count and rate, rounded half-even to a pico-dollar
(1e-12 USD) once per bucket and call.

A card that would leave a rate to a guess is refused. If both ``cache_read`` and ``input_audio`` are priced, neither
contains the other, so ``cache_read_audio`` must be priced too; likewise for images. If ``cache_write_5m`` or
``cache_write_1h`` is priced, ``cache_write`` must be: it counts what was written with a lifetime that the provider
didn't state.
"""

import re
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Context, Decimal
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.units import UNITS, WEB_SEARCHES, canonical_unit
from spendstream.schemas.usage import Capacity, ServiceTier

MAX_RATE_USD_PER_MTOK: Final = 10_000
"""The highest rate of one bucket. A call that costs more than 9.2 million USD, which 64 bits of pico-dollars hold, is
unpriced: ``too_large``."""

MAX_FEE_USD: Final = 100
MAX_GPU_HOUR_USD: Final = 1_000
MAX_GPUS: Final = 100_000

MTOK_PLACES: Final = 18
"""Decimals of a rate per million tokens; one more would be finer than a yocto-dollar (1e-24 USD) per token."""

FEES: Final = ("web_search", "request", "units")
"""What can cost something beside tokens: ``units`` means all billable units."""

CardKind = Literal["contract", "custom"]
DiscountedTier = Literal["batch", "flex", "priority", "fast"]

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: Final[tuple[Weekday, ...]] = get_args(Weekday)

DAY_MINUTES: Final = 24 * 60

_AMOUNT = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00", re.ASCII)
_EXACT: Final = Context(prec=100)


def _amount(maximum: int, places: int, unit: str) -> Callable[[Any], Decimal]:
    """Return a reader of exact amounts, from 0 to ``maximum``, with at most ``places`` decimals."""

    def read(value: Any) -> Decimal:
        if isinstance(value, float):
            raise PydanticCustomError("inexact_amount", "a float is not exact: give the amount as text or as a Decimal")
        text = value.strip() if isinstance(value, str) else format(value, "f") if isinstance(value, Decimal) else value
        if isinstance(text, bool) or not isinstance(text, str | int) or not _AMOUNT.fullmatch(str(text)):
            raise PydanticCustomError("amount", "not an amount: write plain digits, e.g. 3 or 0.25, in " + unit)
        amount = Decimal(text)
        if amount < 0:
            raise PydanticCustomError("negative_amount", "an amount can't be negative: write what you pay, in " + unit)
        if amount > maximum:
            raise PydanticCustomError("amount_too_large", f"more than {maximum:,} {unit}: check the unit")
        if -_exponent(amount) > places:
            raise PydanticCustomError("amount_too_fine", f"too fine: write at most {places} decimals, in {unit}")
        return amount

    return read


def _exponent(amount: Decimal) -> int:
    """Return the exponent of the last decimal that isn't 0: ``_exponent(Decimal("3.250")) == -2``."""
    digits = format(amount, "f").partition(".")[2].rstrip("0")
    return -len(digits)


def _date(value: Any) -> Any:
    if type(value) is date or (isinstance(value, str) and _DATE.fullmatch(value)):
        return value
    raise PydanticCustomError("date", "not a date: write the UTC day, e.g. 2026-01-31")


def _bucket(value: Any) -> Any:
    if value in TOKEN_BUCKETS:
        return value
    near = get_close_matches(str(value), TOKEN_BUCKETS, n=1)
    hint = f"did you mean {near[0]}?" if near else "one of " + ", ".join(TOKEN_BUCKETS)
    raise PydanticCustomError("unknown_bucket", "unknown bucket {bucket}: {hint}", {"bucket": str(value), "hint": hint})


def _time(value: Any) -> Any:
    if type(value) is int and 0 <= value <= DAY_MINUTES:
        return value
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise PydanticCustomError("time", "not a time of day: write hours and minutes in UTC, e.g. 06:30")
    hours, _, minutes = value.partition(":")
    return int(hours) * 60 + int(minutes)


def _unit(value: Any) -> Any:
    unit = canonical_unit(str(value))
    if unit == WEB_SEARCHES:
        raise PydanticCustomError("unit_is_fee", "searches of the web have a field of their own: usd_per_web_search")
    near = get_close_matches(unit, UNITS, n=1)
    if unit not in UNITS and near:
        raise PydanticCustomError(
            "unknown_unit", "unknown unit {unit}: did you mean {near}?", {"unit": str(value), "near": near[0]}
        )
    return unit


def _once(rates: Any) -> Any:
    """Refuse a unit under two of its names: one of the rates would be lost."""
    seen: dict[str, str] = {}
    for name in rates if isinstance(rates, dict) else ():
        other = seen.setdefault(canonical_unit(str(name)), name)
        if other != name:
            message = "another name of {unit}, like {other}: remove one"
            values = {"unit": canonical_unit(str(name)), "other": other, "at": (name, "[key]")}
            raise PydanticCustomError("repeated_unit", message, values)
    return rates


def _adjustable(value: Any) -> Any:
    known = (*TOKEN_BUCKETS, *FEES)
    if value in known:
        return value
    near = get_close_matches(str(value), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "one of " + ", ".join(known)
    raise PydanticCustomError("unknown_bucket", "unknown bucket {bucket}: {hint}", {"bucket": str(value), "hint": hint})


_PLAIN: Final = PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json")
"""Amounts are written as they are read, in plain digits: never as 1E-7."""

UsdPerMtok = Annotated[
    Decimal, BeforeValidator(_amount(MAX_RATE_USD_PER_MTOK, MTOK_PLACES, "USD per million tokens")), _PLAIN
]
UsdFee = Annotated[Decimal, BeforeValidator(_amount(MAX_FEE_USD, 12, "USD")), _PLAIN]
UsdPerGpuHour = Annotated[Decimal, BeforeValidator(_amount(MAX_GPU_HOUR_USD, 12, "USD per GPU-hour")), _PLAIN]
UsdPerUnit = Annotated[Decimal, BeforeValidator(_amount(MAX_FEE_USD, 18, "USD per unit")), _PLAIN]
Multiplier = Annotated[Decimal, BeforeValidator(_amount(100, 6, "multiples of the standard rate")), _PLAIN]
Percent = Annotated[Decimal, BeforeValidator(_amount(100, 4, "percent")), _PLAIN]
UtcDay = Annotated[date, BeforeValidator(_date)]
UtcTime = Annotated[
    int,
    BeforeValidator(_time),
    PlainSerializer(lambda minutes: f"{minutes // 60:02}:{minutes % 60:02}", return_type=str, when_used="json"),
]
"""Minutes since midnight; written as ``06:30``."""
Bucket = Annotated[str, BeforeValidator(_bucket)]
AdjustableBucket = Annotated[str, BeforeValidator(_adjustable)]
Unit = Annotated[str, BeforeValidator(_unit)]
BucketRates = dict[Bucket, UsdPerMtok]
UnitRates = Annotated[dict[Unit, UsdPerUnit], BeforeValidator(_once)]
Label = Annotated[str, Field(min_length=1, max_length=256)]


def _refuse(code: str, message: str, *at: str | int, **values: str) -> PydanticCustomError:
    """Return an error about the part ``at`` of the model that is being validated."""
    return PydanticCustomError(code, message, {**values, "at": at})


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class InputTier(_Block):
    """Rates of calls whose whole input, cached or not, exceeds a count. They apply to all tokens of the call."""

    above_input_tokens: int = Field(ge=1, description="A call with exactly this many input tokens is still below.")
    usd_per_mtok: BucketRates = Field(default_factory=dict, description="Other buckets keep their rate.")
    usd_per_request: UsdFee | None = None
    usd_per_web_search: UsdFee | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.usd_per_mtok and self.usd_per_request is None and self.usd_per_web_search is None:
            raise _refuse("empty_tier", "empty: add at least one", "usd_per_mtok")
        return self


def _check_rates(base: BucketRates, tiers: Sequence[InputTier]) -> None:
    """Refuse rates that would leave a bucket's price to a guess, and tiers that don't rise."""
    for kind in ("audio", "image"):
        if {"cache_read", f"input_{kind}"} <= base.keys() and f"cache_read_{kind}" not in base:
            message = (
                "cache_read and input_{kind} are priced, so cached {kind} could cost either: add cache_read_{kind}"
            )
            raise _refuse("ambiguous_rate", message, "usd_per_mtok", kind=kind)
    if base.keys() & {"cache_write_5m", "cache_write_1h"} and "cache_write" not in base:
        message = "writes with an unstated lifetime have no rate: add cache_write"
        raise _refuse("ambiguous_rate", message, "usd_per_mtok")
    floor = 0
    for index, tier in enumerate(tiers):
        if tier.above_input_tokens <= floor:
            message = "tiers must rise: make each above_input_tokens larger than the one before"
            raise _refuse("tier_order", message, "tiers", index, "above_input_tokens")
        floor = tier.above_input_tokens
        for bucket in sorted(tier.usd_per_mtok.keys() - base.keys()):
            message = "{bucket} has no rate below this tier: add it to the usd_per_mtok beside tiers"
            raise _refuse("tier_without_base", message, "tiers", index, "usd_per_mtok", bucket, bucket=bucket)


class Step(NamedTuple):
    """What applies above a size of input."""

    above_input_tokens: int
    usd_per_mtok: BucketRates
    usd_per_request: Decimal | None
    usd_per_web_search: Decimal | None


class HoursRates(_Block):
    """Hours of the week with rates of their own: a multiple of the entry's token rates, or rates per bucket."""

    weekdays: list[Weekday] = Field(default_factory=lambda: list(WEEKDAYS), min_length=1, description="Default: all.")
    from_: UtcTime = Field(0, alias="from", description="First minute, UTC, as 06:30. Default: 00:00.")
    until: UtcTime = Field(DAY_MINUTES, description="First minute without; before `from`: on the next day.")
    multiplier: Multiplier | None = None
    usd_per_mtok: BucketRates | None = Field(None, min_length=1, description="Other buckets keep their rate.")

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.multiplier is None) == (self.usd_per_mtok is None):
            raise _refuse("hours", "give either a multiplier or usd_per_mtok")
        if self.from_ == self.until or self.from_ == DAY_MINUTES:
            raise _refuse(
                "hours", "no time at all: until must differ from from; leave both out for whole days", "until"
            )
        return self

    def minutes(self) -> list[tuple[int, int]]:
        """Return the spans of the week, as minutes since Monday 00:00 UTC; one may end in the next week."""
        length = (self.until - self.from_) % DAY_MINUTES or DAY_MINUTES
        starts = (WEEKDAYS.index(day) * DAY_MINUTES + self.from_ for day in dict.fromkeys(self.weekdays))
        return [(start, start + length) for start in starts]


class ServiceTierRates(_Block):
    """What a service tier costs: a multiple of the entry's token rates, or complete rates of its own.

    The fees per request, per search and per unit remain the entry's. Rates of its own apply at all hours.
    """

    multiplier: Multiplier | None = Field(None, description="0.5 is half the standard token rates.")
    usd_per_mtok: BucketRates | None = None
    tiers: list[InputTier] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.multiplier is None) == (self.usd_per_mtok is None):
            raise _refuse("service_tier", "give either a multiplier or usd_per_mtok")
        if self.tiers and self.multiplier is not None:
            message = "a multiplier applies to the entry's tiers too: remove these, or give usd_per_mtok"
            raise _refuse("service_tier", message, "tiers")
        if self.usd_per_mtok is not None:
            _check_rates(self.usd_per_mtok, self.tiers)
        return self


class Dated(_Block):
    """A period in which an entry's rates apply."""

    from_: UtcDay = Field(alias="from", description="First UTC day of the rate, which starts at its midnight.")
    until: UtcDay | None = Field(None, description="First UTC day without the rate. Default: the next entry's from.")
    source: Label = Field(description="Where the rate is published: a URL, or a contract and its clause.")


class TokenRates(Dated):
    """One dated entry of a card: rates per bucket in USD per million tokens and fees, or a share of the public price.

    A share applies to everything that the public price has at that time, in that region and at that service tier:
    every bucket, step, fee and unit, unless ``buckets`` names some. Rates and fees beside it replace the public ones,
    or add what these lack. Without a public price the entry prices nothing.
    """

    usd_per_mtok: BucketRates | None = Field(None, min_length=1)
    tiers: list[InputTier] = Field(default_factory=list)
    service_tiers: dict[DiscountedTier, ServiceTierRates] = Field(default_factory=dict)
    usd_per_request: UsdFee | None = None
    usd_per_web_search: UsdFee | None = None
    usd_per_unit: UnitRates | None = Field(None, min_length=1, description="By billable unit: pages, audio_seconds.")
    hours: list[HoursRates] = Field(default_factory=list, description="Hours of the week with other token rates.")
    discount_percent: Percent | None = Field(None, description="15: you pay 85 % of the public price.")
    multiplier: Multiplier | None = Field(None, description="Times the public price: 0.85 is 15 % off, 1.05 a markup.")
    of_service_tier: ServiceTier | None = Field(
        None, description="Of which tier's public price it is a share: flex is half of standard. Default: the call's."
    )
    buckets: list[AdjustableBucket] | None = Field(
        None,
        min_length=1,
        description="What discount_percent or multiplier applies to: rates of buckets, web_search, "
        "request, units; the rest keeps the public price. Default: everything.",
    )

    @property
    def share(self) -> Decimal | None:
        """The multiple of the public price; None for an entry with rates of its own."""
        return self.multiplier if self.discount_percent is None else 1 - self.discount_percent / 100

    @model_validator(mode="after")
    def _has_rates_or_a_share(self) -> Self:
        own = [name for name in ("tiers", "service_tiers") if getattr(self, name)]
        if self.share is None:
            if self.usd_per_mtok is None and self.usd_per_unit is None:
                message = "missing field: add it, or usd_per_unit; discount_percent for a share of the public price"
                raise _refuse("missing_rates", message, "usd_per_mtok")
            for name in ("buckets", "of_service_tier"):
                if getattr(self, name) is not None:
                    raise _refuse("share", "only for discount_percent and multiplier: remove it", name)
            _check_rates(self.usd_per_mtok or {}, self.tiers)
        elif self.discount_percent is not None and self.multiplier is not None:
            raise _refuse("share", "give either discount_percent or multiplier", "multiplier")
        elif own:
            message = "the entry is a share of the public price: remove {name}"
            raise _refuse("share", message, own[0], name=own[0])
        return self

    @model_validator(mode="after")
    def _hours_are_apart(self) -> Self:
        taken: list[tuple[int, int, int]] = []
        for index, block in enumerate(self.hours):
            if block.usd_per_mtok is not None:
                if self.share is not None:
                    message = "the entry is a share of the public price: give a multiplier"
                    raise _refuse("share", message, "hours", index)
                for bucket in sorted(block.usd_per_mtok.keys() - (self.usd_per_mtok or {}).keys()):
                    message = "{bucket} has no rate at other hours: add it to the entry's usd_per_mtok"
                    raise _refuse("hours", message, "hours", index, "usd_per_mtok", bucket, bucket=bucket)
                if self.tiers:
                    raise _refuse("hours", "the entry has tiers: give a multiplier", "hours", index, "usd_per_mtok")
            week = 7 * DAY_MINUTES
            for start, end in block.minutes():
                for at, other_start, other_end in taken:
                    if any(start + turn < other_end and other_start < end + turn for turn in (-week, 0, week)):
                        message = "overlaps the hours of number {other}: a time has one rate"
                        raise _refuse("hours", message, "hours", index, other=str(at + 1))
                taken.append((index, start, end))
        return self

    @model_validator(mode="after")
    def _multiples_are_in_range(self) -> Self:
        tiers: tuple[ServiceTier, ...] = ("standard", *self.service_tiers)
        for name in tiers:
            for index, hours in enumerate((None, *self.hours)):
                for step in self.steps(name, hours):
                    for bucket, rate in step.usd_per_mtok.items():
                        if rate > MAX_RATE_USD_PER_MTOK:
                            message = "{bucket} would cost {rate} USD per million tokens: give usd_per_mtok"
                            at = ("service_tiers", name) if name != "standard" else ("hours", index - 1)
                            raise _refuse("multiple", message, *at, "multiplier", bucket=bucket, rate=f"{rate:f}")
        return self

    def steps(self, service_tier: ServiceTier = "standard", hours: HoursRates | None = None) -> list[Step]:
        """Return what applies above which size of input, lowest first, starting at 0.

        Of a service tier, the standard rates if the entry doesn't have it; at these hours, by default those without
        rates of their own.
        """
        base, tiers = dict(self.usd_per_mtok or {}), self.tiers
        factor = Decimal(1)
        if hours is not None:
            factor = factor if hours.multiplier is None else hours.multiplier
            base |= hours.usd_per_mtok or {}
        special = self.service_tiers.get(service_tier) if service_tier != "standard" else None
        if special is not None and special.usd_per_mtok is not None:
            base, tiers, factor = special.usd_per_mtok, special.tiers, Decimal(1)
        elif special is not None and special.multiplier is not None:
            factor = _EXACT.multiply(factor, special.multiplier)
        steps = [Step(0, _scaled(base, factor), self.usd_per_request, self.usd_per_web_search)]
        fees = {tier.above_input_tokens: tier for tier in self.tiers}
        rates = {tier.above_input_tokens: tier.usd_per_mtok for tier in tiers}
        for start in sorted(fees.keys() | rates.keys()):
            _, below, request, web_search = steps[-1]
            if (fee := fees.get(start)) is not None:
                request = request if fee.usd_per_request is None else fee.usd_per_request
                web_search = web_search if fee.usd_per_web_search is None else fee.usd_per_web_search
            steps.append(Step(start, {**below, **_scaled(rates.get(start, {}), factor)}, request, web_search))
        return steps


def _scaled(rates: BucketRates, factor: Decimal) -> BucketRates:
    return {bucket: _EXACT.multiply(rate, factor) for bucket, rate in rates.items()}


class GpuRates(Dated):
    """One dated entry of a deployment that is billed by the GPU-hour."""

    usd_per_gpu_hour: UsdPerGpuHour


def _check_periods(rates: Sequence[Dated]) -> None:
    """Refuse entries that end before they start, or that overlap."""
    for index, entry in enumerate(rates):
        if entry.until is not None and entry.until <= entry.from_:
            message = "until must be later than from: it is the first day without the rate"
            raise _refuse("period", message, "rates", index, "until")
    for index, (before, entry) in enumerate(pairwise(rates)):
        if entry.from_ <= before.from_:
            message = "entries must be in order, oldest first: start this one later than {before}"
            raise _refuse("overlap", message, "rates", index + 1, "from", before=before.from_.isoformat())
        if before.until is not None and before.until > entry.from_:
            message = "overlaps the entry from {after}: end this one on {after} or earlier"
            raise _refuse("overlap", message, "rates", index, "until", after=entry.from_.isoformat())


class TokenCard(_Block):
    """What the tokens of a provider's model cost you. Names ignore case; ``*`` and ``?`` are globs."""

    provider: Label
    model: Label = Field(description="Matched against the model that served the call, else the one requested.")
    kind: CardKind = Field(
        "custom", description="A contract's card overrides a custom one; both override public prices."
    )
    region: Label | None = Field(None, description="Only calls of this region; can be a glob.")
    inference_geo: Label | None = Field(None, description="Only calls bound to this place; can be a glob.")
    service_tier: ServiceTier | None = Field(None, description="Only calls of this service tier.")
    capacity: Capacity = Field(
        "on_demand", description="provisioned: only calls on prepaid capacity, which cost nothing by default."
    )
    deployment: Label | None = Field(None, description="Only calls that this deployment served.")
    rates: Annotated[list[TokenRates], Field(min_length=1)]

    @model_validator(mode="after")
    def _periods_are_apart(self) -> Self:
        _check_periods(self.rates)
        return self

    @model_validator(mode="after")
    def _has_one_service_tier(self) -> Self:
        for index, entry in enumerate(self.rates):
            if self.service_tier is None and entry.share is not None and entry.usd_per_mtok is not None:
                message = "a share is of every tier's price, a rate of one tier's: state the card's service_tier"
                raise _refuse("service_tier", message, "rates", index, "usd_per_mtok")
            if self.service_tier is not None and entry.service_tiers:
                message = (
                    "the card is only for the service tier {tier}: remove service_tiers, or the card's service_tier"
                )
                raise _refuse("service_tier", message, "rates", index, "service_tiers", tier=self.service_tier)
        return self


class DeploymentCard(_Block):
    """What a self-hosted configuration costs you while it works on a call.

    A call costs ``gpu_seconds`` x ``gpus`` x ``usd_per_gpu_hour`` / 3,600: 1.5 s on 4 GPUs at $2.40 an hour cost
    $0.004. ``gpu_seconds`` is the time that the configuration was busy with the call, not multiplied by its GPUs.
    Another model, precision, engine or hardware is another configuration: give it its own name and card.
    """

    deployment: Label = Field(description="As the event names it.")
    model: Label = "*"
    kind: CardKind = "custom"
    precision: Label | None = None
    engine: Label | None = None
    hardware: Label | None = None
    gpus: int = Field(ge=1, le=MAX_GPUS)
    rates: Annotated[list[GpuRates], Field(min_length=1)]

    @model_validator(mode="after")
    def _periods_are_apart(self) -> Self:
        _check_periods(self.rates)
        return self


class AliasedModel(_Block):
    """The model that an alias stands for."""

    provider: Label | None = Field(None, description="Default: the provider of the alias.")
    model: Label


class ModelAlias(_Block):
    """A name of your own for a model: an Azure deployment, an application inference profile, a gateway's route.

    Calls under the name cost what the model costs, by your own cards or in public. An alias stands for a model, not for
    another alias.
    """

    provider: Label = Field(description="As in events.")
    model: Label = Field(description="The name as in events, whole; case doesn't matter.")
    means: AliasedModel

    @model_validator(mode="after")
    def _is_one_name(self) -> Self:
        for at, name in (
            (("provider",), self.provider),
            (("model",), self.model),
            (("means", "model"), self.means.model),
        ):
            if any(character in "*?[" for character in name):
                raise _refuse("alias", "an alias is one name, not a glob: write it out", *at)
        return self


class RegionAdjustment(_Block):
    """What a region, or a promise to keep data in a place, adds to the rates: a dated multiplier.

    It applies to whichever rates are in force, yours or public, once; not to a card that is already for the region.
    Of several that match, the most specific one applies. Where a model has adjustments, and none of them matches the
    region of a call, the public price is marked as substituted: give an ordinary region the multiplier 1.
    """

    provider: Label
    model: Label = Field("*", description="A name or a glob; case doesn't matter.")
    kind: CardKind = "custom"
    region: Label | None = Field(None, description="A region or a glob. No glob matches `global`.")
    inference_geo: Label | None = Field(None, description="A place or a glob. No glob matches `global`.")
    from_: UtcDay = Field(alias="from", description="First UTC day, which starts at its midnight.")
    until: UtcDay | None = Field(None, description="First UTC day without it.")
    multiplier: Multiplier = Field(description="1.1 adds 10 %.")
    buckets: list[AdjustableBucket] | None = Field(
        None, min_length=1, description="What it multiplies: buckets, web_search, request, units. Default: all tokens."
    )
    source: Label = Field(description="Where it is published: a URL, or a contract and its clause.")

    @model_validator(mode="after")
    def _is_for_one_place(self) -> Self:
        if (self.region is None) == (self.inference_geo is None):
            raise _refuse("adjustment", "give either a region or an inference_geo")
        if self.until is not None and self.until <= self.from_:
            raise _refuse("period", "until must be later than from: it is the first day without it", "until")
        return self


class RateCards(_Block):
    """One file of rate cards."""

    cards: list[TokenCard] = Field(default_factory=list, description="Billed by the token, the call or the unit.")
    deployments: list[DeploymentCard] = Field(default_factory=list, description="Self-hosted, billed by the GPU-hour.")
    adjustments: list[RegionAdjustment] = Field(default_factory=list, description="What regions add.")
    aliases: list[ModelAlias] = Field(default_factory=list, description="Your own names for models.")
