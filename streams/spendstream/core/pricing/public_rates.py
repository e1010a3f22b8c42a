"""Compile one model of genai-prices: its dated, conditional and tiered prices become rate sets on a timeline.

Two habits of genai-prices are not taken over. It reads a context that it has no price for as the standard one,
silently: here such rates say ``tier_applied="standard"``. And it prices what it has no rate for at 0: here a call that
uses it is unpriced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from spendstream.core.pricing.dimensions import NAME_OF_RATE, Dimensions, rate_of_each_bucket
from spendstream.core.pricing.rate_set import NO_RATE, Inexact, Intern, RateSet, instant, pusd_per_token, whole
from spendstream.core.pricing.timeline import DAY_US, UNKNOWN, Timeline, midnight_us, openings
from spendstream.schemas.buckets import TOKEN_BUCKETS

_FREE: Final = {frozenset({("family", "tokens")}): Decimal(0)}
_AUDIO: Final = ("modality", "audio")


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Public prices that can't be used, so that calls that need them are unpriced."""

    provider: str
    model: str
    what: str
    """A bucket, or ``model`` where nothing of it can be used."""
    why: str


class Compiler:
    """Compiles models, and keeps a list of what can't be used."""

    def __init__(self, intern: Intern) -> None:
        from genai_prices.data_units import unit_data
        from genai_prices.units import UnitRegistry

        self._intern = intern
        self._units = {unit.price_key: unit for unit in UnitRegistry(unit_data).units.values()}
        self.exclusions: dict[Exclusion, None] = {}

    def timeline(self, provider: Any, model: Any, context: Mapping[str, str], tier: str) -> Timeline | None:
        """Return a model's rate sets over time, at the service tier that the context means; None if it has no price.

        genai-prices is asked once for each period of whole days and each time of day in which its answer may differ.
        """
        special = variants(model, context)
        starts, slots = _boundaries(model, special)
        width = len(slots) + 1
        since: list[int | None] = [None] * width
        before: list[Any] = [None] * width
        sets = []
        for index, time_us in enumerate(openings(starts, slots)):
            at, slot = instant(time_us), index % width
            prices = model.get_prices(at, context)
            if index >= width and prices != before[slot]:
                since[slot] = time_us - time_us % DAY_US
            before[slot] = prices
            applied = tier if any(_is_active(variant, at) for variant in special) else "standard"
            rate_set = self._rate_set(provider, model, prices, applied, since[slot])
            sets.append(UNKNOWN if rate_set is None else self._intern(rate_set))
        return Timeline(tuple(starts), tuple(slots), tuple(sets)) if any(sets) else None

    def _rate_set(self, provider: Any, model: Any, prices: Any, tier: str, since_us: int | None) -> RateSet | None:
        priced = [(self._units[key], value) for key, value in prices.__dict__.items() if value is not None]
        tokens = {frozenset(u.dimensions.items()): v for u, v in priced if u.dimensions["family"] == "tokens"}
        fees = {u.usage_key: v for u, v in priced if u.usage_key in ("requests", "web_searches")}
        if not priced and model.id.endswith(":free"):  # how it says that a model costs nothing
            tokens = dict(_FREE)
        try:
            if not tokens and not fees:
                raise Inexact(_why_unusable(unit.usage_key for unit, _ in priced))
            taken = rate_of_each_bucket(tokens)
            request = _per_unit(fees.get("requests", Decimal(0)))
            web_search = _per_unit(fees["web_searches"]) if "web_searches" in fees else NO_RATE
        except ValueError as error:
            self._exclude(provider, model, "model", str(error))
            return None
        if any(unit.dimensions["family"] == "durations" for unit, _ in priced):
            self._leave_out_audio(provider, model, taken)
        starts = tuple(sorted({tier.start for value in tokens.values() for tier in getattr(value, "tiers", ())}))
        return RateSet(
            source="genai-prices",
            provider=provider.id,
            model=model.id,
            tier_applied=tier,
            valid_from_us=since_us,
            reference=(provider.pricing_urls or ("",))[0],
            thresholds=starts,
            steps=self._steps(provider, model, {b: tokens[rate] for b, rate in taken.items()}, starts),
            web_search=web_search,
            request=request,
            priced_as={bucket: NAME_OF_RATE.get(rate, "free") for bucket, rate in taken.items()},
        )

    def _steps(
        self, provider: Any, model: Any, prices: dict[str, Any], starts: tuple[int, ...]
    ) -> tuple[tuple[int, ...], ...]:
        """Return pico-dollars a token, by step and bucket. A bucket whose price isn't exact has no rate."""
        exact: dict[str, list[int]] = {}
        for bucket, price in prices.items():
            try:
                exact[bucket] = [pusd_per_token(_at_step(price, start)) for start in (-1, *starts)]
            except Inexact as error:
                self._exclude(provider, model, bucket, str(error))
        none = [NO_RATE] * (len(starts) + 1)
        return tuple(zip(*(exact.get(bucket, none) for bucket in TOKEN_BUCKETS), strict=True))

    def _leave_out_audio(self, provider: Any, model: Any, taken: dict[str, Dimensions]) -> None:
        """Remove audio buckets that would take a text rate: the provider bills audio by the hour."""
        for bucket in ("input_audio", "cache_read_audio", "output_audio"):
            if bucket in taken and _AUDIO not in taken[bucket]:
                del taken[bucket]
                self._exclude(provider, model, bucket, _why_unusable(["audio_seconds"]))

    def _exclude(self, provider: Any, model: Any, what: str, why: str) -> None:
        self.exclusions[Exclusion(provider.id, model.id, what, why)] = None


def _why_unusable(units: Any) -> str:
    billed = ", ".join(units)
    return f"billed by {billed}, which events don't count" if billed else "no price is published"


def variants(model: Any, context: Mapping[str, str]) -> list[Any]:
    """Return the prices that hold in this context alone. Some variants are there to say that nothing differs."""
    return [
        variant
        for variant in model.price_variants or ()
        if variant.prices.__dict__ and all(context.get(key) == value for key, value in variant.when.items())
    ]


def _is_active(variant: Any, at: datetime) -> bool:
    return variant.constraint is None or bool(variant.constraint.active(at))


def _boundaries(model: Any, special: list[Any]) -> tuple[list[int], list[int]]:
    """Return the midnights (epoch µs) and the times of day (µs) at which the prices may change."""
    starts: set[int] = set()
    slots: set[int] = set()
    dated = model.prices if isinstance(model.prices, list) else []
    for constraint in (part.constraint for part in (*dated, *special)):
        if constraint is None:
            continue
        if hasattr(constraint, "start_date"):
            starts.add(midnight_us(constraint.start_date))
        else:
            slots |= {_since_midnight_us(constraint.start_time), _since_midnight_us(constraint.end_time)}
    return sorted(starts), sorted(slots - {0})


def _at_step(price: Any, start: int) -> Decimal:
    """Return the price of a call whose input exceeds ``start``, but no later tier's start."""
    tiers = reversed(getattr(price, "tiers", ()))
    chosen = next((tier.price for tier in tiers if tier.start <= start), getattr(price, "base", price))
    if not isinstance(chosen, Decimal):
        raise Inexact(f"not a price: {chosen!r}")
    return chosen


def _per_unit(usd_per_thousand: Any) -> int:
    if not isinstance(usd_per_thousand, Decimal):
        raise Inexact("a fee that depends on the size of the call")
    return whole(usd_per_thousand * 10**9)


def _since_midnight_us(moment: time) -> int:
    since = datetime.combine(date(1970, 1, 1), moment.replace(tzinfo=moment.tzinfo or UTC))
    return (since - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) % DAY_US
