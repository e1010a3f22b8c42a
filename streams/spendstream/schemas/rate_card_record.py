"""A rate card that priced calls, as the meter publishes it: what explains an amount of the ledger."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from math import prod
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from spendstream.schemas.rollup import Money


class RateStep(BaseModel):
    """Rates of calls whose whole input exceeds ``above_input_tokens``, up to where the next step starts."""

    model_config = ConfigDict(frozen=True)

    above_input_tokens: int = Field(ge=0, description="A call with exactly this many input tokens is still below.")
    usd_per_mtok: dict[str, Money] = Field(description="By token bucket. A call that uses an absent one is unpriced.")
    usd_per_web_search: Money | None = None
    usd_per_request: Money | None = None


class UnitPrice(BaseModel):
    """What a billable unit beside tokens costs."""

    model_config = ConfigDict(frozen=True)

    usd: Money
    per: int = Field(1, ge=1, description="How many units the price is for: 3600 for a price per hour of seconds.")
    minimum: int = Field(0, ge=0, description="A call that uses less is billed for this much.")


class AppliedMultiplier(BaseModel):
    """A factor that the rates contain: a region's surcharge, a contract's share of the public price."""

    model_config = ConfigDict(frozen=True)

    factor: Money
    buckets: tuple[str, ...] = Field(description="The rates it multiplies: buckets, web_search, request, units.")
    reason: str
    reference: str = Field(description="Where it is published.")


class Rate(NamedTuple):
    """One rate of a card, at one step: ``quantity * usd / per`` is the amount, rounded half to even to 12 decimals.

    A quantity below ``minimum`` is billed as that.
    """

    item: str
    """What is charged for: a token bucket, ``web_search``, ``request``, ``gpu``, or a unit."""
    above_input_tokens: int
    up_to_input_tokens: int | None
    """Null for the last step."""
    usd: Decimal
    per: int
    """How many of the unit the rate is for."""
    unit: str
    """What the quantity counts: ``tokens``, ``searches``, ``requests``, ``seconds``, or the unit itself."""
    minimum: int
    priced_as: str
    """The item whose rate this is: ``output``, where reasoning tokens have no rate of their own; ``gpu``, where the
    GPU's time pays for the tokens."""
    multiplier: Decimal
    """The product of the factors that ``usd`` contains, 1 if none: ``usd / multiplier`` is the rate before."""


class RateCardRecord(BaseModel):
    """Rates of one model from a day on, at one service tier. Key: ``rate_card_id``; a record never changes.

    An amount is the sum over buckets of count times rate, at the step that the call's whole input reaches.
    """

    model_config = ConfigDict(frozen=True, title="Rate card, llm.rate-card.v1")

    rate_card_id: str = Field(description="Hash of everything below that determines a price; on every ledger row.")
    source: str = Field(description="contract, custom, correction, genai-prices or prepaid.")
    provider: str
    model: str
    deployment: str = Field("", description="The deployment that the card is for; empty for all.")
    service_tier: str = Field(description="The tier whose rates these are: standard, where no rate of it is known.")
    valid_from: datetime | None = Field(None, description="First instant of the rates; null if the source has no date.")
    reference: str = Field("", description="Where the rates are published: a URL, or a contract and its clause.")
    steps: tuple[RateStep, ...] = Field(min_length=1, description="By size of input, rising; the first starts at 0.")
    priced_as: dict[str, str] = Field(default_factory=dict, description="Buckets at another's rate: reasoning: output.")
    usd_per_unit: dict[str, UnitPrice] = Field(default_factory=dict, description="A call that uses others is partial.")
    usd_per_gpu_hour: Money | None = Field(None, description="Of all GPUs together. If set, tokens cost nothing.")
    multipliers: tuple[AppliedMultiplier, ...] = Field((), description="Factors that the rates above contain already.")

    def rates(self) -> Iterator[Rate]:
        """Yield every rate, by step."""
        ends = [step.above_input_tokens for step in self.steps[1:]]
        for step, end in zip(self.steps, [*ends, None], strict=True):
            between = step.above_input_tokens, end
            for bucket, usd in step.usd_per_mtok.items():
                as_bucket = self.priced_as.get(bucket, bucket)
                yield Rate(bucket, *between, usd, 1_000_000, "tokens", 0, as_bucket, self._multiplier(bucket))
            for item, fee, per, unit in (
                ("web_search", step.usd_per_web_search, 1, "searches"),
                ("request", step.usd_per_request, 1, "requests"),
                ("gpu", self.usd_per_gpu_hour, 3_600, "seconds"),
            ):
                if fee is not None:
                    yield Rate(item, *between, *_in_18_decimals(fee, per), unit, 0, item, self._multiplier(item))
            for unit, price in self.usd_per_unit.items():
                usd, per = _in_18_decimals(price.usd, price.per)
                as_unit = self.priced_as.get(unit, unit)
                yield Rate(unit, *between, usd, per, unit, price.minimum, as_unit, self._multiplier("units"))

    def _multiplier(self, bucket: str) -> Decimal:
        return prod((m.factor for m in self.multipliers if bucket in m.buckets), start=Decimal(1))


def _in_18_decimals(usd: Decimal, per: int) -> tuple[Decimal, int]:
    """Return the same price for a million times as much, if it has more decimals than its column."""
    exponent = usd.as_tuple().exponent
    return (usd, per) if isinstance(exponent, int) and exponent >= -18 else (usd.scaleb(6), per * 1_000_000)
