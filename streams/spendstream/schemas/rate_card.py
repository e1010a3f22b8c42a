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

A card that would leave a rate to a guess is refused. If both ``cache_read`` and ``input_audio`` are priced, neither
contains the other, so ``cache_read_audio`` must be priced too; likewise for images. If ``cache_write_5m`` or
``cache_write_1h`` is priced, ``cache_write`` must be: it counts what was written with a lifetime that the provider
didn't state.
"""

import re
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.usage import ServiceTier

MAX_RATE_USD_PER_MTOK: Final = 10_000
"""The highest rate of one bucket. With ``spendstream.schemas.usage.MAX_TOKENS`` one bucket of one call costs at most
10^8 tokens x 10^10 pico-dollars = 10^18 pico-dollars (a million USD), which a signed 64-bit integer holds."""

MAX_FEE_USD: Final = 100
MAX_GPU_HOUR_USD: Final = 1_000
MAX_GPUS: Final = 100_000

MTOK_PLACES: Final = 6
"""Decimals of a rate per million tokens; one more would be finer than a pico-dollar per token."""

CardKind = Literal["contract", "custom"]
DiscountedTier = Literal["batch", "flex", "priority", "fast"]

_AMOUNT = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


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


UsdPerMtok = Annotated[Decimal, BeforeValidator(_amount(MAX_RATE_USD_PER_MTOK, MTOK_PLACES, "USD per million tokens"))]
UsdFee = Annotated[Decimal, BeforeValidator(_amount(MAX_FEE_USD, 12, "USD"))]
UsdPerGpuHour = Annotated[Decimal, BeforeValidator(_amount(MAX_GPU_HOUR_USD, 12, "USD per GPU-hour"))]
Multiplier = Annotated[Decimal, BeforeValidator(_amount(100, 6, "multiples of the standard rate"))]
UtcDay = Annotated[date, BeforeValidator(_date)]
Bucket = Annotated[str, BeforeValidator(_bucket)]
BucketRates = dict[Bucket, UsdPerMtok]
Label = Annotated[str, Field(min_length=1, max_length=256)]


def _refuse(code: str, message: str, *at: str | int, **values: str) -> PydanticCustomError:
    """Return an error about the part ``at`` of the model that is being validated."""
    return PydanticCustomError(code, message, {**values, "at": at})


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class InputTier(_Block):
    """Rates of calls whose whole input, cached or not, exceeds a count. They apply to all tokens of the call."""

    above_input_tokens: int = Field(ge=1, description="A call with exactly this many input tokens is still below.")
    usd_per_mtok: BucketRates = Field(min_length=1, description="Other buckets keep their rate.")


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


class Rates(_Block):
    """Rates per bucket, in USD per million tokens, and the tiers for large inputs."""

    usd_per_mtok: BucketRates = Field(min_length=1)
    tiers: list[InputTier] = Field(default_factory=list)

    @model_validator(mode="after")
    def _leave_nothing_to_guess(self) -> Self:
        _check_rates(self.usd_per_mtok, self.tiers)
        return self

    def steps(self) -> list[tuple[int, BucketRates]]:
        """Return (input tokens that must be exceeded, all rates that then apply), lowest first, starting at 0."""
        steps = [(0, dict(self.usd_per_mtok))]
        for tier in self.tiers:
            steps.append((tier.above_input_tokens, {**steps[-1][1], **tier.usd_per_mtok}))
        return steps


class ServiceTierRates(_Block):
    """What a service tier costs: a multiple of the entry's token rates, or complete rates of its own.

    The fees per request and per search remain the entry's.
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


class TokenRates(Dated, Rates):
    """One dated entry of a card that is billed by the token."""

    service_tiers: dict[DiscountedTier, ServiceTierRates] = Field(default_factory=dict)
    usd_per_request: UsdFee | None = None
    usd_per_web_search: UsdFee | None = None

    @model_validator(mode="after")
    def _multiples_are_exact(self) -> Self:
        for name in self.service_tiers:
            for _, rates in self.at_service_tier(name).steps():
                for bucket, rate in rates.items():
                    if -_exponent(rate) > MTOK_PLACES or rate > MAX_RATE_USD_PER_MTOK:
                        message = "{bucket} would cost {rate} USD per million tokens, out of range: give usd_per_mtok"
                        at = ("service_tiers", name, "multiplier")
                        raise _refuse("inexact_multiple", message, *at, bucket=bucket, rate=f"{rate:f}")
        return self

    def at_service_tier(self, name: ServiceTier) -> Rates:
        """Return the token rates of a service tier; the standard ones if the entry doesn't have it."""
        special = self.service_tiers.get(name) if name != "standard" else None
        if special is None:
            return Rates.model_construct(usd_per_mtok=self.usd_per_mtok, tiers=self.tiers)
        if special.usd_per_mtok is not None:
            return Rates.model_construct(usd_per_mtok=special.usd_per_mtok, tiers=special.tiers)
        factor = special.multiplier or Decimal(0)
        return Rates.model_construct(
            usd_per_mtok=_scaled(self.usd_per_mtok, factor),
            tiers=[
                InputTier.model_construct(
                    above_input_tokens=tier.above_input_tokens, usd_per_mtok=_scaled(tier.usd_per_mtok, factor)
                )
                for tier in self.tiers
            ],
        )


def _scaled(rates: BucketRates, factor: Decimal) -> BucketRates:
    return {bucket: rate * factor for bucket, rate in rates.items()}


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
    service_tier: ServiceTier | None = Field(None, description="Only calls of this service tier.")
    deployment: Label | None = Field(None, description="Only calls that this deployment served.")
    rates: Annotated[list[TokenRates], Field(min_length=1)]

    @model_validator(mode="after")
    def _periods_are_apart(self) -> Self:
        _check_periods(self.rates)
        return self

    @model_validator(mode="after")
    def _has_one_service_tier(self) -> Self:
        for index, entry in enumerate(self.rates):
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


class RateCards(_Block):
    """One file of rate cards."""

    cards: list[TokenCard] = Field(default_factory=list, description="Billed by the token.")
    deployments: list[DeploymentCard] = Field(default_factory=list, description="Self-hosted, billed by the GPU-hour.")
    aliases: list[ModelAlias] = Field(default_factory=list, description="Your own names for models.")
