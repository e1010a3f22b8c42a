"""What a newer book of public prices changes, as calls would see it from its day on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from spendstream.core.pricing.public import Exclusion, PublicPrices
from spendstream.core.pricing.published import PublishedBook
from spendstream.core.pricing.rates import (
    NO_RATE,
    RATE_BUCKETS,
    SERVICE_TIERS,
    TOKENS_PER_MTOK,
    RateSet,
    RateTable,
    Timeline,
    instant,
    midnight_us,
    usd_of,
)
from spendstream.schemas.buckets import TOKEN_BUCKETS


@dataclass(frozen=True, slots=True)
class Change:
    """A rate that becomes another one."""

    provider: str
    model: str
    service_tier: str
    rate: str
    """A token bucket (USD per million), ``request``, ``web_search`` or a unit (USD each)."""
    above_input_tokens: int
    """For calls with more input than this; 0 for all."""
    old: Decimal | None
    """None: there was no such rate."""
    new: Decimal | None
    since: date


@dataclass(frozen=True, slots=True)
class Changes:
    """``added``, ``gone``: models (provider and id) that only the newer, or only the older book lists."""

    rates: tuple[Change, ...]
    added: tuple[tuple[str, str], ...]
    gone: tuple[tuple[str, str], ...]
    names: int
    """How many models of both are called otherwise."""
    unusable: tuple[Exclusion, ...]
    """Prices of the newer book that can't be used, where those of the older one could."""

    def __bool__(self) -> bool:
        return bool(self.rates or self.added or self.gone or self.names)


def changes(kept: Sequence[PublishedBook], book: PublishedBook) -> Changes:
    """Return what ``book`` changes for calls from its day on, if it is taken after the books kept so far.

    A model that the newer book no longer lists, or lists without a usable price, keeps its former one.
    """
    table = RateTable()
    prices = PublicPrices(table, kept=[*kept, book])
    former = prices.before
    assert former is not None
    new, old = prices.listed(), former.listed()
    is_next = not kept or kept[-1].since <= book.since
    found: list[Change] = []
    for key in new.keys() & old.keys():
        is_same = new[key].prices == old[key].prices and new[key].price_variants == old[key].price_variants
        if is_same and is_next:
            continue
        for tier in SERVICE_TIERS:
            before, after = (p.timeline(p.names(*key), tier) or Timeline() for p in (former, prices))
            found += _differences(table, key, tier, before, after, midnight_us(book.since))
    found.sort(key=lambda change: (change.provider, change.model, SERVICE_TIERS.index(change.service_tier)))
    for key in new.keys() - old.keys():
        prices.timeline(prices.names(*key), "standard")
    return Changes(
        rates=tuple(found),
        added=tuple(sorted(new.keys() - old.keys())),
        gone=tuple(sorted(old.keys() - new.keys())),
        names=sum(new[key].match != old[key].match for key in new.keys() & old.keys()),
        unusable=tuple(each for each in prices.excluded() if each not in former.excluded()),
    )


def _differences(
    table: RateTable, key: tuple[str, str], tier: str, before: Timeline, after: Timeline, since_us: int
) -> Iterator[Change]:
    """Yield each difference once, from its first day."""
    starts = sorted({since_us, *(at for at in (*before.starts_us, *after.starts_us) if at > since_us)})
    slots = sorted({0, *before.slots_us, *after.slots_us})
    seen: set[tuple[str, int, Decimal | None, Decimal | None]] = set()
    for start in starts:
        for slot in slots:
            was, now = table.sets[before.within(start, slot)], table.sets[after.within(start, slot)]
            if was == now or (tier != "standard" and tier not in (was.tier_applied, now.tier_applied)):
                continue
            for above in sorted({0, *was.thresholds, *now.thresholds}):
                for rate in dict.fromkeys((*_own(was), *_own(now))):
                    change = _usd(was, rate, above), _usd(now, rate, above)
                    is_as_below = bool(above) and change == (_usd(was, rate, above - 1), _usd(now, rate, above - 1))
                    if change[0] != change[1] and not is_as_below and (rate, above, *change) not in seen:
                        seen.add((rate, above, *change))
                        yield Change(*key, tier, rate, above, *change, instant(start).date())


def _own(rates: RateSet) -> list[str]:
    """Return the rates that a set states, but for those that a bucket takes from another."""
    return [*(bucket for bucket in RATE_BUCKETS if rates.priced_as.get(bucket, bucket) == bucket), *rates.units]


def _usd(rates: RateSet, rate: str, above: int) -> Decimal | None:
    """Return a rate of calls with more input than this."""
    if rate not in RATE_BUCKETS:
        unit = rates.units.get(rate)
        return None if unit is None else usd_of(unit.rate) / unit.per
    stated = rates.rate(rate, above + 1)
    return None if stated == NO_RATE else usd_of(stated, TOKENS_PER_MTOK if rate in TOKEN_BUCKETS else 1)
