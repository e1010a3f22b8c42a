"""Rate sets as records of ``llm.rate-card.v1``, and back: what was published prices a call again, exactly."""

from typing import cast

import polars as pl

from spendstream.core.pricing.choose import Choice, Chooser, Key
from spendstream.core.pricing.price import PricedColumns, price
from spendstream.core.pricing.rates import (
    CONTAINING_UNIT,
    NO_RATE,
    PICO_PER_USD,
    RATE_BUCKETS,
    TOKENS_PER_MTOK,
    YOCTO_PER_PICO,
    Multiplier,
    RateSet,
    RateTable,
    Source,
    Timeline,
    UnitRate,
    rate_of,
    rate_per_token,
    usd_of,
    whole,
)
from spendstream.core.timestamps import epoch_us
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rate_card_record import AppliedMultiplier, RateCardRecord, RateStep, UnitPrice


def card_record(rates: RateSet) -> RateCardRecord:
    """Return a rate set as it is published."""
    ref = rates.ref
    contained = {unit: of for unit, of in CONTAINING_UNIT.items() if of in rates.units and unit not in rates.units}
    return RateCardRecord(
        rate_card_id=ref.id,
        source=ref.source,
        provider=ref.provider,
        model=ref.model,
        deployment=rates.deployment,
        service_tier=ref.tier_applied,
        valid_from=ref.valid_from,
        reference=ref.reference,
        steps=tuple(
            _step(start, dict(zip(RATE_BUCKETS, step, strict=True)))
            for start, step in zip((0, *rates.thresholds), rates.steps, strict=True)
        ),
        priced_as={bucket: rate for bucket, rate in rates.priced_as.items() if rate != bucket} | contained,
        usd_per_unit={
            unit: UnitPrice(usd=usd_of(price.rate), per=price.per, minimum=price.minimum)
            for unit, price in (*rates.units.items(), *((unit, rates.units[of]) for unit, of in contained.items()))
        },
        usd_per_gpu_hour=None if rates.gpu_hour is None else usd_of(rates.gpu_hour * YOCTO_PER_PICO),
        multipliers=tuple(
            AppliedMultiplier(factor=m.factor, buckets=m.buckets, reason=m.reason, reference=m.reference)
            for m in rates.multipliers
        ),
    )


def _step(start: int, rates: dict[str, int]) -> RateStep:
    return RateStep(
        above_input_tokens=start,
        usd_per_mtok={b: usd_of(rates[b], TOKENS_PER_MTOK) for b in TOKEN_BUCKETS if rates[b] != NO_RATE},
        usd_per_web_search=None if rates["web_search"] == NO_RATE else usd_of(rates["web_search"]),
        usd_per_request=usd_of(rates["request"]) if rates["request"] else None,
    )


def rates_of_record(record: RateCardRecord) -> RateSet:
    """Return the rate set that was published. Its ``ref.id`` is the record's, or the record isn't what it says.

    Raises: Inexact, on an amount that no rate set has.
    """
    return RateSet(
        source=cast(Source, record.source),
        provider=record.provider,
        model=record.model,
        tier_applied=record.service_tier,
        valid_from_us=None if record.valid_from is None else epoch_us(record.valid_from),
        reference=record.reference,
        thresholds=tuple(step.above_input_tokens for step in record.steps[1:]),
        steps=tuple(
            (
                *(
                    rate_per_token(step.usd_per_mtok[bucket]) if bucket in step.usd_per_mtok else NO_RATE
                    for bucket in TOKEN_BUCKETS
                ),
                NO_RATE if step.usd_per_web_search is None else rate_of(step.usd_per_web_search),
                0 if step.usd_per_request is None else rate_of(step.usd_per_request),
            )
            for step in record.steps
        ),
        units={
            unit: UnitRate(rate_of(price.usd), price.per, price.minimum)
            for unit, price in record.usd_per_unit.items()
            if unit not in record.priced_as
        },
        gpu_hour=None if record.usd_per_gpu_hour is None else whole(record.usd_per_gpu_hour * PICO_PER_USD),
        deployment=record.deployment,
        multipliers=tuple(Multiplier(m.factor, m.buckets, m.reason, m.reference) for m in record.multipliers),
        priced_as={bucket: record.priced_as.get(bucket, bucket) for bucket in record.steps[0].usd_per_mtok},
    )


def price_by(card: RateCardRecord, calls: pl.DataFrame) -> PricedColumns:
    """Price calls by a published card, as the meter did. Columns: those of ``PriceBook.price``.

    Raises: Inexact, as ``rates_of_record``.
    """
    table = RateTable()
    always = Timeline(sets=(table.intern(rates_of_record(card)),))
    return price(calls, _OneChoice(Choice(always, always, always)), table)


class _OneChoice(Chooser):
    """Chooses the same for every call."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def choose(self, key: Key) -> Choice:
        return self._choice
