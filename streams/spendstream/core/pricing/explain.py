"""Which rates hold for a call, and why: what ``spendstream rates show`` prints."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from spendstream.core.pricing.rate_set import NO_RATE, PICO_PER_USD, TOKENS_PER_MTOK, CardRef, RateSet, instant
from spendstream.core.pricing.timeline import DAY_US, UNKNOWN, Timeline
from spendstream.schemas.buckets import TOKEN_BUCKETS


@dataclass(frozen=True, slots=True)
class Explanation:
    """The rates in force for a model at a time. Amounts are exact, in USD."""

    card: CardRef | None
    """None: no card prices it, and its calls are unpriced."""
    valid_from: datetime | None
    valid_until: datetime | None
    """When the next known rates replace these."""
    usd_per_mtok: dict[str, Decimal]
    """By token bucket, per million tokens. A call that uses a bucket which is absent is unpriced."""
    priced_as: dict[str, str]
    """The rate that a bucket takes, where it is not its own: ``{"reasoning": "output"}``."""
    above_input_tokens: int
    """The rates hold for calls with more input than this; 0 where all do."""
    tiers: tuple[int, ...]
    """All sizes of input above which other rates hold."""
    usd_per_request: Decimal | None
    usd_per_web_search: Decimal | None
    usd_per_gpu_hour: Decimal | None
    """Of all GPUs of the deployment together."""
    notes: tuple[str, ...]


_UNPRICED = Explanation(None, None, None, {}, {}, 0, (), None, None, None, ("no card prices this model",))


def explain(sets: list[RateSet], timeline: Timeline, at_us: int, tier: str, total_input: int) -> Explanation:
    """Explain the rate set in force on a timeline at an instant, for calls of this much input."""
    index = timeline.at(at_us)
    if index == UNKNOWN:
        return _UNPRICED
    chosen = sets[index]
    rates = {bucket: chosen.rate(bucket, total_input) for bucket in TOKEN_BUCKETS}
    end = timeline.end_of(at_us)
    while end is not None and timeline.at(end + at_us % DAY_US) == index:
        end = timeline.end_of(end)
    return Explanation(
        card=chosen.ref,
        valid_from=chosen.ref.valid_from,
        valid_until=None if end is None else instant(end),
        usd_per_mtok={bucket: _usd(rate * TOKENS_PER_MTOK) for bucket, rate in rates.items() if rate != NO_RATE},
        priced_as={bucket: rate for bucket, rate in chosen.priced_as.items() if rate != bucket},
        above_input_tokens=max((start for start in chosen.thresholds if total_input > start), default=0),
        tiers=chosen.thresholds,
        usd_per_request=_usd(chosen.request) if chosen.request else None,
        usd_per_web_search=None if chosen.web_search == NO_RATE else _usd(chosen.web_search),
        usd_per_gpu_hour=None if chosen.gpu_hour is None else _usd(chosen.gpu_hour),
        notes=tuple(_notes(chosen, timeline, tier)),
    )


def _notes(chosen: RateSet, timeline: Timeline, tier: str) -> Iterator[str]:
    if chosen.gpu_hour is None and tier != chosen.tier_applied:
        yield f"no {tier} price is known: the {chosen.tier_applied} rates are taken"
    if timeline.slots_us:
        yield "the price depends on the time of day (UTC)"
    unrated = [bucket for bucket in TOKEN_BUCKETS if chosen.rate(bucket) == NO_RATE]
    if unrated:
        yield "calls that use these are unpriced: " + ", ".join(unrated)


def _usd(pusd: int) -> Decimal:
    return (Decimal(pusd) / PICO_PER_USD).normalize() + Decimal(0)
