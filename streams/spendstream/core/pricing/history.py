"""Prices of the past, where the price book knows only today's.

An undated price of the book is the one of its newest release. ``history.json``, which ``make price-history`` derives
from all releases and from dated announcements, says what applied before, and since when a source vouches for a price:

- Within a *period* of the file, its rates replace the book's.
- A *series* states some rates of a seller day by day; its other rates keep their proportion to input or output.
- A *check* is a day on which the book's editors read a seller's prices, and by which they date what had changed.
- A service tier that the book dates by the day it learned of it costs the same share of the standard price from the
  day on which the provider first offered it.
- A call is *estimated* if it is older than what vouches for its price, or falls between two checks that differ.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant

LISTED_WITHIN: Final = timedelta(days=30)
"""A model's first listing vouches for so many days before it: the book lists a model within weeks of its launch."""

Slot = str
"""A time of day in UTC, ``00:30-16:30``; "" for all other times."""


@dataclass(frozen=True, slots=True)
class Period:
    """What differed from the book until a day."""

    since: date | None
    """First day; None if there is no earlier price."""
    until: date
    """The day from which on the next period's rates, or the book's, apply."""
    certain_since: date | None
    """From ``since`` to here the period before may have applied still. None: ``since`` is certain."""
    certain_until: date | None
    """From here to ``until`` the next rates may have applied already. None: ``until`` is certain."""
    rates: Mapping[Slot, Mapping[str, Any]]
    """By time of day, the rates that differed, in USD as the book states them. Other rates are the book's."""
    source: str

    def covers(self, day: date) -> bool:
        """Return whether a day is within the period."""
        return (self.since is None or self.since <= day) and day < self.until

    def doubt(self, day: date) -> tuple[str, date] | None:
        """Return why a price within the period may be another, and a day that had that one; None if it may not."""
        if self.certain_since is not None and self.since is not None and day < self.certain_since:
            return f"the price changed between {self.since} and {self.certain_since}", self.since - timedelta(days=1)
        if self.certain_until is not None and day >= self.certain_until:
            return f"the price changed between {self.certain_until} and {self.until}", self.until
        return None


@dataclass(frozen=True, slots=True)
class Series:
    """What a seller charged for one model, in USD per million tokens, at each change."""

    rates: tuple[str, ...]
    points: tuple[tuple[date, tuple[Decimal | None, ...]], ...]
    """First day and rates, by day; None: the seller stated no such rate."""
    until: date
    """The first day that the series doesn't know."""
    source: str

    def at(self, day: date) -> dict[str, Decimal | None]:
        """Return the rates on a day; empty if they aren't known."""
        if day < self.until:
            for since, prices in reversed(self.points):
                if since <= day:
                    return dict(zip(self.rates, prices, strict=True))
        return {}


@dataclass(frozen=True, slots=True)
class EarlierTier:
    """A service tier that was offered before the day from which on the book lists it."""

    when: Mapping[str, str]
    """The book's context: ``{"processing": "batch"}``."""
    listed: date
    """The book's first day."""
    since: date
    """The provider's first day."""
    source: str
    doubt: str
    """Why its price may have been another share of the standard price; "" if it may not."""
    share: Mapping[str, Decimal]
    """By pattern of rates, the first that matches: what share of the standard price they are of a model that the book
    lists without the tier, because it was retired before that day. Empty if the tier wasn't for every model."""

    def prices(self, standard: ModelPrice) -> ModelPrice:
        """Return a retired model's prices, from its standard ones."""
        resolved = copy(standard)
        for rate, price in standard.__dict__.items():
            factor = next((f for pattern, f in self.share.items() if fnmatchcase(rate, pattern)), None)
            if price is not None and factor is not None:
                resolved.__dict__[rate] = _scaled(price, factor, Decimal(1))
        return resolved


@dataclass(frozen=True, slots=True)
class Past:
    """What the book doesn't say about the past of one model."""

    vouched: date | None = None
    """Nothing vouches for a price before this day."""
    periods: tuple[Period, ...] = ()
    series: Series | None = None
    tiers: tuple[EarlierTier, ...] = ()

    def days(self) -> set[date]:
        """Return the days on which prices, or what vouches for them, may change."""
        days = {day for p in self.periods for day in (p.since, p.certain_since, p.certain_until, p.until)}
        days |= {self.vouched, *(day for tier in self.tiers for day in (tier.since, tier.listed))}
        if self.series is not None:
            days |= {self.series.until, *(since for since, _ in self.series.points)}
        return {day for day in days if day is not None}

    def times(self) -> set[time]:
        """Return the times of day (UTC) at which prices may change."""
        return {moment for p in self.periods for slot in p.rates if slot for moment in _ends(slot)}

    def listed_at(self, at: datetime, special: Iterable[PriceVariant]) -> datetime:
        """Return when to ask the book for the prices of a service tier: later, where it was offered before listed."""
        tier = self._tier(at.date(), special)
        return at if tier is None else datetime.combine(tier.listed, at.timetz())

    def ever_offered(self, context: Mapping[str, str]) -> bool:
        """Return whether the context's service tier was offered for models that the book lists without it."""
        return any(t.share and all(context.get(k) == v for k, v in t.when.items()) for t in self.tiers)

    def tier_of_retired(self, at: datetime, context: Mapping[str, str], special: Iterable[PriceVariant]) -> bool:
        """Return whether the context's service tier had a price at a time though the book lists none of this model."""
        return self._retired(at.date(), context, special) is not None

    def prices(
        self, model: ModelInfo, at: datetime, context: Mapping[str, str], special: Iterable[PriceVariant]
    ) -> ModelPrice:
        """Return a model's prices at a time, in the context of a service tier whose variants are ``special``."""
        standard = self._standard(model, at)
        if not context:
            return standard
        if (retired := self._retired(at.date(), context, special)) is not None:
            return retired.prices(standard)
        asked = self.listed_at(at, special)
        listed = model.get_prices(asked, dict(context))
        return _like(listed, self._standard(model, asked), standard)

    def differs(self, at: datetime, context: Mapping[str, str], special: Iterable[PriceVariant]) -> bool:
        """Return whether the prices at a time may be others than the book's."""
        day = at.date()
        return (
            (self.series is not None and bool(self.series.at(day)))
            or any(period.rates for period in self._periods(day))
            or self._tier(day, special) is not None
            or self._retired(day, context, special) is not None
        )

    def doubts(self, at: datetime, special: Iterable[PriceVariant]) -> Iterator[tuple[str, datetime | None]]:
        """Find why the price at a time is an estimate, and a time whose price it may have been; None: any."""
        day = at.date()
        if self.vouched is not None and day < self.vouched:
            yield f"no source vouches for this price before {self.vouched}", None
            return
        for period in self._periods(day):
            if (doubt := period.doubt(day)) is not None:
                note, other = doubt
                yield note, datetime.combine(other, at.timetz())
        if (tier := self._tier(day, special)) is not None and tier.doubt:
            yield tier.doubt, None

    def source(self, at: datetime) -> str:
        """Return where the prices at a time are from; "" if from the book."""
        series = self.series
        sources = [series.source] if series is not None and series.at(at.date()) else []
        sources += [period.source for period in self._periods(at.date()) if period.rates]
        return next(iter(sources), "")

    def _periods(self, day: date) -> list[Period]:
        return [period for period in self.periods if period.covers(day)]

    def _tier(self, day: date, special: Iterable[PriceVariant]) -> EarlierTier | None:
        starts = {getattr(v.constraint, "start_date", None): v.when for v in special if v.constraint is not None}
        for tier in self.tiers:
            if tier.since <= day < tier.listed and starts.get(tier.listed) == tier.when:
                return tier
        return None

    def _retired(self, day: date, context: Mapping[str, str], special: Iterable[PriceVariant]) -> EarlierTier | None:
        for tier in () if any(special) else self.tiers:
            is_asked = all(context.get(name) == value for name, value in tier.when.items())
            if tier.share and is_asked and tier.since <= day < tier.listed:
                return tier
        return None

    def _standard(self, model: ModelInfo, at: datetime) -> ModelPrice:
        prices = model.get_prices(at)
        if self.series is not None and (known := self.series.at(at.date())):
            prices = _at_rates(prices, known)
        for period in self._periods(at.date()):
            slot = next((s for s in period.rates if s and _is_within(s, at.time())), "")
            rates = {rate: _price(value) for rate, value in period.rates.get(slot, {}).items()}
            prices = copy(prices)
            prices.__dict__.update(rates)
        return prices


@dataclass(frozen=True)
class History:
    """What the file says, by model."""

    compared: date | None = None
    """Day of the newest release that the file knows. None: there is no file."""
    listed: Mapping[tuple[str, str], date] = field(default_factory=dict)
    """By provider and model: the first day on which the book listed it."""
    vouched: Mapping[tuple[str, str], date] = field(default_factory=dict)
    """The first day for which another source states the price."""
    periods: Mapping[tuple[str, str], tuple[Period, ...]] = field(default_factory=dict)
    series: Mapping[tuple[str, str], Series] = field(default_factory=dict)
    checks: Mapping[str, tuple[date, ...]] = field(default_factory=dict)
    """By provider: the days on which its prices were read, rising."""
    tiers: Mapping[str, tuple[EarlierTier, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the history that a document in the form of ``history.json`` states."""
        listed = {
            (provider, model): date.fromisoformat(day)
            for day, providers in document["listed"].items()
            for provider, models in providers.items()
            for model in models
        }
        vouched = {(e["provider"], e["model"]): date.fromisoformat(e["since"]) for e in document["vouched"]}
        periods: dict[tuple[str, str], list[Period]] = defaultdict(list)
        for entry in document["periods"]:
            days = {name: _day(entry.get(name)) for name in ("since", "certain_since", "certain_until")}
            until = date.fromisoformat(entry["until"])
            period = Period(until=until, rates=entry["rates"], source=entry["source"], **days)
            periods[entry["provider"], entry["model"]].append(period)
        series = {
            (provider, model): Series(
                tuple(entry["rates"]),
                tuple((date.fromisoformat(day), tuple(p and Decimal(p) for p in prices)) for day, *prices in points),
                date.fromisoformat(entry["until"]),
                entry["source"],
            )
            for provider, entry in document["series"].items()
            for model, points in entry["models"].items()
        }
        vouched |= {key: known.points[0][0] for key, known in series.items()}
        tiers: dict[str, list[EarlierTier]] = defaultdict(list)
        for entry in document["tiers"]:
            listed_on, since = date.fromisoformat(entry["listed"]), date.fromisoformat(entry["since"])
            share = {rates: Decimal(factor) for rates, factor in entry.get("share", {}).items()}
            tier = EarlierTier(entry["when"], listed_on, since, entry["source"], entry.get("doubt", ""), share)
            tiers[entry["provider"]].append(tier)
        return cls(
            compared=max(date.fromisoformat(day) for day in document["releases"].values()),
            listed=listed,
            vouched=vouched,
            periods={key: tuple(found) for key, found in periods.items()},
            series=series,
            checks={name: tuple(map(date.fromisoformat, days)) for name, days in document["checks"].items()},
            tiers={key: tuple(found) for key, found in tiers.items()},
        )

    def past(self, provider: str, model: ModelInfo) -> Past:
        """Return what the book doesn't say about the past of a model."""
        key = provider, model.id
        listed = self.listed.get(key, self.compared)
        if listed is None:
            return Past()
        checks = self.checks.get(provider, ())
        series = self.series.get(key)
        known_until = listed if series is None else series.until
        if series is not None:
            series = _until_next_check(series, model, checks)
        unsure = _unsure_before(model, known_until, checks, series)
        return Past(
            vouched=min(listed - LISTED_WITHIN, self.vouched.get(key, date.max)),
            periods=(*self.periods.get(key, ()), *unsure),
            series=series,
            tiers=self.tiers.get(provider, ()),
        )


def _until_next_check(series: Series, model: ModelInfo, checks: tuple[date, ...]) -> Series:
    """Return a series that goes on until the next check, if its last prices are no longer the book's."""
    prices = model.get_prices(datetime.combine(series.until, time(), UTC))
    last = dict(zip(series.rates, series.points[-1][1], strict=True))
    if all(_base(prices.__dict__.get(rate)) == price for rate, price in last.items()):
        return series
    return replace(series, until=min((check for check in checks if check >= series.until), default=series.until))


def _unsure_before(
    model: ModelInfo, known_until: date, checks: tuple[date, ...], series: Series | None
) -> Iterator[Period]:
    """Find the days between two checks that found different prices: the change may be on any of them."""
    dated = model.prices if isinstance(model.prices, list) else []
    changes = {getattr(price.constraint, "start_date", None) for price in dated} & set(checks)
    if series is not None:
        changes.add(series.until)
    for change in sorted(day for day in changes if day is not None):
        before = max([known_until, *(check for check in checks if check < change)])
        if before < change:
            yield Period(before, change, None, before, {}, "")


@cache
def packaged_history() -> History:
    """Return the history in the package."""
    return History.of(json.loads(files("spendstream.core.pricing").joinpath("history.json").read_text("utf-8")))


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _ends(slot: Slot) -> tuple[time, time]:
    start, _, end = slot.partition("-")
    return time.fromisoformat(start).replace(tzinfo=UTC), time.fromisoformat(end).replace(tzinfo=UTC)


def _is_within(slot: Slot, moment: time) -> bool:
    start, end = (t.replace(tzinfo=None) for t in _ends(slot))
    return start <= moment < end if start <= end else moment >= start or moment < end


def _price(stated: Any) -> Any:
    """Return a rate as the book's types: ``"2.5"``, or ``{"base": "1.25", "tiers": {"200000": "2.5"}}``."""
    if isinstance(stated, str):
        return Decimal(stated)
    from genai_prices.types import Tier, TieredPrices

    tiers = [Tier(start=int(start), price=Decimal(price)) for start, price in stated["tiers"].items()]
    return TieredPrices(base=Decimal(stated["base"]), tiers=tiers)


def _like(listed: ModelPrice, at_listing: ModelPrice, standard: ModelPrice) -> ModelPrice:
    """Return a tier's prices in proportion: as ``standard`` as ``listed`` was as ``at_listing``."""
    if at_listing == standard:
        return listed
    resolved = copy(standard)
    for rate, price in listed.__dict__.items():
        before, now = at_listing.__dict__.get(rate), standard.__dict__.get(rate)
        if price is None or price == before:
            continue
        if before is None or now is None or before == now:
            resolved.__dict__[rate] = price
        else:
            resolved.__dict__[rate] = _scaled(now, _base(price), _base(before))
    return resolved


def _at_rates(prices: ModelPrice, known: Mapping[str, Decimal | None]) -> ModelPrice:
    """Return prices with other rates; those that aren't known keep their proportion to input or output."""
    resolved = copy(prices)
    for rate, price in prices.__dict__.items():
        if price is None or not rate.endswith("_mtok"):
            continue
        of = rate if rate in known else "output_mtok" if rate.startswith("output") else "input_mtok"
        before, now = _base(prices.__dict__.get(of)), known.get(of)
        if now is None and of == rate:
            del resolved.__dict__[rate]
        elif now is not None and before is not None and now != before:
            resolved.__dict__[rate] = _scaled(price, now, before)
    missing = {rate: price for rate, price in known.items() if price is not None and prices.__dict__.get(rate) is None}
    resolved.__dict__.update(missing)
    return resolved


def _base(price: Any) -> Any:
    return getattr(price, "base", price)


def _scaled(price: Any, by: Decimal, of: Decimal) -> Any:
    if not of:
        return price
    if isinstance(price, Decimal):
        return price * by / of
    scaled = copy(price)
    scaled.base = price.base * by / of
    scaled.tiers = [type(tier)(start=tier.start, price=tier.price * by / of) for tier in price.tiers]
    return scaled
