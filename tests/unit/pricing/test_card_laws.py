"""Laws of your own cards: whatever a card says, a call costs what it says, worked out in fractions.

The reference reads the same cards, entry by entry and minute by minute, and shares no code with the price book.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.pricing import PriceBook, card_record, rates_of_record
from spendstream.core.pricing.cards import Entry
from spendstream.core.pricing.rate_book import RateBook, package_prices
from spendstream.schemas.rate_card import RateCards
from spendstream.schemas.rate_card_record import RateCardRecord
from tests.unit.pricing.conftest import call, frame

Card = dict[str, Any]

RATES = st.one_of(st.decimals(0, 50, places=9), st.decimals(0, Decimal("1e-12"), places=18)).map(
    lambda rate: f"{rate.normalize():f}"
)
MULTIPLIERS = st.sampled_from(["0.5", "0.85", "1", "1.1", "1.333333", "2"])
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
HOURS = st.sampled_from(
    [
        [],
        [{"weekdays": DAYS[:5], "from": "01:00", "until": "04:00", "multiplier": "2"}],
        [{"weekdays": ["sun", "wed"], "from": "22:00", "until": "06:30", "usd_per_mtok": {"input": "0.7"}}],
        [{"weekdays": ["sat"], "multiplier": "0.1"}, {"weekdays": ["mon"], "until": "12:00", "multiplier": "3"}],
    ]
)
PLACES = [
    {"region": "eu-*", "from": "2026-11-01", "multiplier": "1.1"},
    {"region": "eu-west-1", "from": "2026-11-08", "until": "2026-11-20", "multiplier": "1.25", "buckets": ["input"]},
    {"inference_geo": "us", "from": "2026-11-05", "multiplier": "1.3", "buckets": ["output", "units", "request"]},
]


@st.composite
def entries(draw: st.DrawFn, since: str) -> Card:
    rates = {"input": draw(RATES), "output": draw(RATES)}
    if draw(st.booleans()):
        rates["cache_read"] = draw(RATES)
    entry: Card = {"from": since, "source": "test", "usd_per_mtok": rates, "hours": draw(HOURS)}
    if draw(st.booleans()):
        entry["usd_per_request"] = draw(st.sampled_from(["0.01", "0.000000000001"]))
    if draw(st.booleans()):
        entry["usd_per_unit"] = {"pages": draw(st.sampled_from(["0.004", "0.0000000000005"]))}
    if draw(st.booleans()) and not any("usd_per_mtok" in block for block in entry["hours"]):
        entry["tiers"] = [
            {"above_input_tokens": 100, "usd_per_mtok": {"input": draw(RATES)}},
            {"above_input_tokens": 1000, "usd_per_mtok": {"output": draw(RATES)}, "usd_per_request": "0.02"},
        ]
    entry["service_tiers"] = draw(
        st.sampled_from([{}, {"batch": {"multiplier": "0.5"}}, {"fast": {"multiplier": "6"}}])
    )
    return entry


@st.composite
def documents(draw: st.DrawFn) -> Card:
    card: Card = {"provider": "acme", "model": "acme-*", "rates": [draw(entries("2026-11-01"))]}
    if draw(st.booleans()):
        card["rates"].append(draw(entries("2026-11-12")))
    if draw(st.booleans()):
        card["rates"][-1]["until"] = "2026-11-24"
    adjusted = draw(st.lists(st.sampled_from(PLACES), unique_by=str, max_size=3))
    common = {"provider": "acme", "model": "acme-*", "source": "test"}
    return {"cards": [card], "adjustments": [{**common, **place} for place in adjusted]}


INSTANTS = st.builds(
    lambda minute, edge: datetime(2026, 10, 30, tzinfo=UTC) + timedelta(minutes=minute, microseconds=edge),
    st.integers(0, 29 * 48).map(lambda half_hour: half_hour * 30),
    st.sampled_from([-1, 0, 1]),
)
CALLS = st.fixed_dictionaries(
    {
        "at": INSTANTS,
        "tier": st.sampled_from(["standard", "batch", "fast"]),
        "region": st.sampled_from(["", "eu-west-1", "EU-2", "us-1", "global"]),
        "geo": st.sampled_from(["", "us", "eu"]),
        "units": st.sampled_from([{}, {"pages": Decimal("7")}, {"pages": Decimal("0.5"), "images": Decimal(1)}]),
        "context_step": st.sampled_from([None, None, 0, 100, 1000]),
        "input": st.integers(0, 1200),
        "cache_read": st.sampled_from([0, 0, 1, 99, 500]),
        "output": st.integers(0, 1000),
        "reasoning": st.sampled_from([0, 0, 3, 77]),
    }
)


def expected(document: Card, usage: dict[str, Any]) -> dict[str, int] | None:
    """Return pico-dollars by bucket; None if no entry is in force."""
    at: datetime = usage["at"]
    day = at.date().isoformat()
    (card,) = document["cards"]
    entry = next((e for e in reversed(card["rates"]) if e["from"] <= day), None)
    if entry is None or day >= entry.get("until", "9999"):
        return None
    rates = {bucket: Fraction(rate) for bucket, rate in entry["usd_per_mtok"].items()}
    factor, request = Fraction(1), Fraction(entry.get("usd_per_request", 0))
    for block in entry["hours"]:
        if is_within(block, at):
            factor *= Fraction(block.get("multiplier", 1))
            rates |= {bucket: Fraction(rate) for bucket, rate in block.get("usd_per_mtok", {}).items()}
    stated = usage["context_step"]
    starts = [0, *(tier["above_input_tokens"] for tier in entry.get("tiers", []))]
    size = stated + 1 if stated is not None and stated in starts and stated else usage["input"] + usage["cache_read"]
    size = 0 if stated == 0 else size
    for tier in entry.get("tiers", []):
        if size > tier["above_input_tokens"]:
            rates |= {bucket: Fraction(rate) for bucket, rate in tier["usd_per_mtok"].items()}
            request = Fraction(tier.get("usd_per_request", request))
    factor *= Fraction(entry["service_tiers"].get(usage["tier"], {}).get("multiplier", 1))
    of_bucket = {
        "input": "input",
        "cache_read": "cache_read" if "cache_read" in rates else "input",
        "output": "output",
        "reasoning": "output",
    }
    costs = {
        bucket: usage[bucket] * rates[rate] * factor * places(document, usage, day, {bucket, rate}) / 10**6
        for bucket, rate in of_bucket.items()
    }
    costs["request"] = request * places(document, usage, day, {"request"})
    pages = Fraction(entry.get("usd_per_unit", {}).get("pages", 0)) * Fraction(usage["units"].get("pages", 0))
    costs["units"] = pages * places(document, usage, day, {"units"})
    return {bucket: round(cost * 10**12) for bucket, cost in costs.items() if round(cost * 10**12)}


def is_within(block: Card, at: datetime) -> bool:
    """Return whether an instant is in a block of hours, which belongs to the day on which it starts."""
    start, end = block.get("from", "00:00"), block.get("until", "24:00")
    today, yesterday = DAYS[at.weekday()], DAYS[at.weekday() - 1]
    days, now = block.get("weekdays", DAYS), at.strftime("%H:%M")
    if start < end:
        return today in days and start <= now < end
    return (today in days and now >= start) or (yesterday in days and now < end)


def places(document: Card, usage: dict[str, Any], day: str, named: set[str]) -> Fraction:
    """Return what the region and the inference geo multiply these rates by."""
    factor = Fraction(1)
    in_force = [a for a in document["adjustments"] if a["from"] <= day < a.get("until", "9999") and matches(a, usage)]
    for by in ("region", "inference_geo"):
        here = sorted((a for a in in_force if by in a), key=lambda a: "*" in a[by])
        if here and named & set(here[0].get("buckets", ["input", "cache_read", "output", "reasoning"])):
            factor *= Fraction(here[0]["multiplier"])
    return factor


def matches(adjustment: Card, usage: dict[str, Any]) -> bool:
    if "inference_geo" in adjustment:
        return bool(adjustment["inference_geo"] == usage["geo"])
    region = usage["region"].lower()
    return region == adjustment["region"] or (adjustment["region"] == "eu-*" and region.startswith("eu-"))


def entries_of(document: Card) -> list[Entry]:
    cards = RateCards.model_validate(document)
    return [*cards.cards, *cards.adjustments]


@settings(max_examples=100, deadline=None)
@given(document=documents(), usages=st.lists(CALLS, min_size=1, max_size=8))
def test_a_call_costs_what_the_card_says(document: Card, usages: list[dict[str, Any]]) -> None:
    priced = PriceBook(entries_of(document)).price(frame(*(call(**usage) for usage in usages)))
    for index, usage in enumerate(usages):
        wanted = expected(document, usage)
        assert priced.priced[index] == (wanted is not None), usage
        found = {bucket: int(amounts[index]) for bucket, amounts in priced.by_bucket.items() if amounts[index]}
        assert found == (wanted or {}), (document, usage)
        assert priced.total_pusd[index] == sum(found.values())


@settings(max_examples=40, deadline=None)
@given(document=documents(), usages=st.lists(CALLS, min_size=1, max_size=8))
def test_a_book_of_cards_prices_alike_after_it_was_published(document: Card, usages: list[dict[str, Any]]) -> None:
    """Amounts are text on the wire, down to 0.000000000000000001."""
    cards = RateCards.model_validate(document)
    book = RateBook([cards.model_dump(mode="json", by_alias=True, exclude_unset=True)], package_prices())
    calls = frame(*(call(**usage) for usage in usages))
    before, after = PriceBook(entries_of(document)).price(calls), RateBook.decode(book.encode()).prices().price(calls)
    assert before.cards == after.cards
    for rates in before.sets:  # so does each rate card that the meter publishes
        assert rates_of_record(RateCardRecord.model_validate_json(card_record(rates).model_dump_json())) == rates
    assert before.total_pusd.tolist() == after.total_pusd.tolist()


@settings(max_examples=40, deadline=None)
@given(
    share=st.decimals(0, 2, places=6),
    tokens=st.tuples(st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**6)),
    day=st.integers(0, 60).map(lambda day: date(2026, 10, 1) + timedelta(days=day)),
    tier=st.sampled_from(["standard", "batch", "priority", "flex"]),
)
def test_a_share_costs_the_share_of_what_the_call_costs_in_public(
    share: Decimal, tokens: tuple[int, int, int], day: date, tier: str
) -> None:
    """GPT-5.6 Terra has steps and tiers, and rates of whole pico-dollars."""
    entry = {"from": "2026-01-01", "source": "test", "multiplier": f"{share:f}"}
    own = entries_of({"cards": [{"provider": "openai", "model": "gpt-5.6-terra", "rates": [entry]}]})
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    units = {"file_searches": Decimal(tokens[2] % 7)} if tokens[2] % 2 else {}
    row = call(
        "gpt-5.6-terra", provider="openai", tier=tier, at=at, units=units, web_searches=tokens[2] % 5,
        input=tokens[0], cache_read=tokens[2], output=tokens[1],
    )  # fmt: skip
    public, mine = PUBLIC.price(frame(row)), PriceBook(own).price(frame(row))
    assert public.quality.tolist() == mine.quality.tolist()
    for bucket, amounts in public.by_bucket.items():
        assert int(mine.by_bucket[bucket][0]) == round(Fraction(share) * int(amounts[0])), bucket


PUBLIC = PriceBook()
