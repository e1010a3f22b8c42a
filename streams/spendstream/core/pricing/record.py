"""Rate sets as records of ``llm.rate-card.v1``, and back: what was published prices a call again, exactly."""

from decimal import Decimal
from typing import cast

import polars as pl

from spendstream.core.money import usd_text
from spendstream.core.pricing.choose import Choice, Chooser, Key
from spendstream.core.pricing.price import PricedColumns, price
from spendstream.core.pricing.rates import (
    NO_RATE,
    PICO_PER_USD,
    TOKENS_PER_MTOK,
    RateSet,
    RateTable,
    Source,
    Timeline,
    pusd_per_token,
    whole,
)
from spendstream.core.timestamps import epoch_us
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rate_card_record import RateCardRecord, RateStep


def card_record(rates: RateSet) -> RateCardRecord:
    """Return a rate set as it is published."""
    ref = rates.ref
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
            RateStep(
                above_input_tokens=start,
                usd_per_mtok={
                    bucket: _usd(rate * TOKENS_PER_MTOK)
                    for bucket, rate in zip(TOKEN_BUCKETS, step, strict=True)
                    if rate != NO_RATE
                },
            )
            for start, step in zip((0, *rates.thresholds), rates.steps, strict=True)
        ),
        priced_as={bucket: rate for bucket, rate in rates.priced_as.items() if rate != bucket},
        usd_per_web_search=None if rates.web_search == NO_RATE else _usd(rates.web_search),
        usd_per_request=_usd(rates.request) if rates.request else None,
        usd_per_gpu_hour=None if rates.gpu_hour is None else _usd(rates.gpu_hour),
    )


def rates_of_record(record: RateCardRecord) -> RateSet:
    """Return the rate set that was published. Its ``ref.id`` is the record's, or the record isn't what it says.

    Raises: Inexact, on an amount that no rate set has.
    """
    fees = record.usd_per_web_search, record.usd_per_request, record.usd_per_gpu_hour
    web_search, request, gpu_hour = (None if usd is None else whole(usd * PICO_PER_USD) for usd in fees)
    return RateSet(
        source=cast(Source, record.source),
        provider=record.provider,
        model=record.model,
        tier_applied=record.service_tier,
        valid_from_us=None if record.valid_from is None else epoch_us(record.valid_from),
        reference=record.reference,
        thresholds=tuple(step.above_input_tokens for step in record.steps[1:]),
        steps=tuple(
            tuple(
                pusd_per_token(step.usd_per_mtok[bucket]) if bucket in step.usd_per_mtok else NO_RATE
                for bucket in TOKEN_BUCKETS
            )
            for step in record.steps
        ),
        web_search=NO_RATE if web_search is None else web_search,
        request=request or 0,
        gpu_hour=gpu_hour,
        deployment=record.deployment,
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


def _usd(pusd: int) -> Decimal:
    return Decimal(usd_text(pusd))
