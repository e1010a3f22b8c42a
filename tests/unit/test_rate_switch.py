"""Other rate cards come into force at an offset that the log states, whoever reads it and however often."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings

from spendstream.core.meter import Books, MeterRules, PartitionMeter, UnknownRateBook, new_marker, newest_marker
from spendstream.core.pricing import PriceBook
from spendstream.core.progress import ProgressRecord, read_progress
from spendstream.schemas.progress import BookInForce, Progress, RateSwitch
from tests.reference_meter import LogRecord, Prices, meter
from tests.unit.conftest import CARDS
from tests.unit.log import LATER, Log, as_batch, cut, make_usage_event
from tests.unit.test_meter import SEEDS, random_log, rules
from tests.unit.world import LOG, Chaos, World, assert_same, live

DEARER = """
cards:
  - provider: acme
    model: acme-1
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 9, output: 45}}]
"""
"""Three times the price, so that calls change their size: $3 becomes $9, and its block another. acme-mini has none."""


@pytest.fixture(scope="module")
def dearer_book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    file = tmp_path_factory.mktemp("cards") / "dearer.yaml"
    file.write_text(DEARER)
    return PriceBook.load([file])


def switch(book: str, published: int) -> bytes:
    return RateSwitch(rate_book=book, published=published).model_dump_json().encode()


def costs(meter: PartitionMeter) -> dict[int, int]:
    """Return what the calls since the last take cost, in pico-dollars, by offset."""
    calls = meter.take().calls
    return {} if calls is None else dict(zip(calls["offset"], calls["cost_pusd"], strict=True))


INPUT_ONLY: dict[str, Any] = {"input_tokens": 100, "output_tokens": 0}


@pytest.mark.parametrize("sizes", [[], [3], [4], [1] * 8])
def test_a_switch_prices_what_comes_after_it_however_the_log_is_cut(
    acme_book: PriceBook, dearer_book: PriceBook, sizes: list[int]
) -> None:
    """Offsets 0 to 2 at $3 a million, the switch at 3, offsets 4 to 6 at $9."""
    log = Log()
    for number in range(7):
        log.append(switch("dear", 5) if number == 3 else make_usage_event(number, **INPUT_ONLY))
    one = PartitionMeter(new_marker(0, LOG, -1), MeterRules(), acme_book, {("dear", 5): dearer_book})
    for batch in cut(log.records, sizes):
        one.absorb(batch, LATER)
    assert one.book == BookInForce(id="dear", published=5, since=4)
    assert (one.counters.records, one.counters.metered, one.counters.dead_letters) == (6, 6, 0)
    cheap, dear = 100 * 3_000_000, 100 * 9_000_000
    assert costs(one) == {0: cheap, 1: cheap, 2: cheap, 4: dear, 5: dear, 6: dear}


def test_a_marker_states_the_book_of_what_comes_after_it(acme_book: PriceBook, dearer_book: PriceBook) -> None:
    log = Log()
    log.append(make_usage_event(1))
    log.append(switch("dear", 5))
    log.append(make_usage_event(2, **INPUT_ONLY))
    world = World(log.records, MeterRules(), acme_book, books={("dear", 5): dearer_book})
    one = world.recover()
    one.absorb(as_batch(log.records[:2]), LATER)
    world.flush(one, one.take(), crash=None)
    assert read_progress(world.progress[-1]).marker.book == BookInForce(id="dear", published=5, since=2)
    successor = world.recover()
    successor.absorb(as_batch(log.records[2:]), LATER)
    assert costs(successor) == {2: 100 * 9_000_000}


def test_a_switch_to_an_older_book_or_to_one_of_another_release_changes_nothing(
    acme_book: PriceBook, dearer_book: PriceBook
) -> None:
    log = Log()
    for value in (switch("dear", 5), switch("base", 4), switch("dear", 5), switch("newer release", 6)):
        log.append(value)
    log.append(make_usage_event(1, **INPUT_ONLY))
    books: Books = {("dear", 5): dearer_book, ("newer release", 6): None}
    one = PartitionMeter(new_marker(0, LOG, -1), MeterRules(), acme_book, books)
    one.absorb(log.batch(), LATER)
    assert one.book == BookInForce(id="dear", published=5, since=1)
    assert costs(one) == {4: 100 * 9_000_000}


def test_a_book_published_again_is_the_same_since_the_same_offset(dearer_book: PriceBook) -> None:
    log = Log()
    log.append(switch("dear", 7))
    started = new_marker(0, LOG, -1).model_copy(update={"book": BookInForce(id="dear", published=5, since=0)})
    one = PartitionMeter(started, MeterRules(), dearer_book, {("dear", 7): dearer_book})
    one.absorb(log.batch(), LATER)
    assert one.book == BookInForce(id="dear", published=7, since=0)


def test_a_book_that_is_not_at_hand_changes_nothing_until_it_is(acme_book: PriceBook, dearer_book: PriceBook) -> None:
    log = Log()
    log.append(make_usage_event(1, **INPUT_ONLY))
    log.append(b"{broken")
    log.append(switch("dear", 5))
    log.append(make_usage_event(2, **INPUT_ONLY))
    books: dict[tuple[str, int], PriceBook | None] = {}
    one = PartitionMeter(new_marker(0, LOG, -1), MeterRules(), acme_book, books)
    with pytest.raises(UnknownRateBook) as unknown:
        one.absorb(log.batch(), LATER)
    assert unknown.value.switch == RateSwitch(rate_book="dear", published=5)
    assert (one.has_pending, one.through_offset, one.counters.records) == (False, -1, 0)
    books["dear", 5] = dearer_book
    one.absorb(log.batch(), LATER)
    assert (one.counters.records, one.counters.dead_letters) == (3, 1)
    assert costs(one) == {0: 100 * 3_000_000, 3: 100 * 9_000_000}


@pytest.mark.parametrize(
    "value", [b'{"rate_book":"dear"}', b'{"rate_book":"","published":1}', b'{"rate_book":"dear","published":-1}']
)
def test_half_a_switch_is_a_dead_letter(acme_book: PriceBook, source_log: Log, value: bytes) -> None:
    source_log.append(value)
    one = PartitionMeter(new_marker(0, LOG, -1), MeterRules(), acme_book)
    one.absorb(source_log.batch(), LATER)
    assert (one.counters.records, one.counters.dead_letters) == (1, 1)


def test_an_event_with_a_field_of_that_name_is_a_call(acme_book: PriceBook, source_log: Log) -> None:
    source_log.append({"rate_book": "dear", "published": 5, **make_usage_event(1)})
    one = PartitionMeter(new_marker(0, LOG, -1), MeterRules(), acme_book)
    one.absorb(source_log.batch(), LATER)
    assert one.counters.metered == 1


def test_of_two_markers_that_state_a_book_at_one_offset_the_first_counts(acme_book: PriceBook) -> None:
    """Two workers that start a log at once: each writes, then reads both."""
    unstated = new_marker(0, LOG, 6)
    first, second = (unstated.model_copy(update={"book": BookInForce(id=name, since=7)}) for name in ("a", "b"))
    assert newest_marker(LOG, [record_of(each) for each in (unstated, first, second)]) == first
    later = unstated.model_copy(update={"through_offset": 7})
    assert newest_marker(LOG, [record_of(each) for each in (first, later)]) == later


def record_of(marker: Progress) -> ProgressRecord:
    output = PartitionMeter(marker, MeterRules(), PriceBook()).take().progress
    return ProgressRecord(marker, output.ids, output.generations)


def with_switches(
    rng: random.Random, log: list[LogRecord], books: dict[str, PriceBook], prices: dict[str, Prices]
) -> tuple[list[LogRecord], dict[tuple[str, int], PriceBook | None], dict[int, Prices | None]]:
    """Turn some records into switches, a third of them late repetitions. Returns the log, its books, the truth."""
    changed, shelf = list(log), {}
    truth: dict[int, Prices | None] = {}
    published: list[tuple[str, int]] = []
    for at in sorted(rng.sample(range(len(log)), k=min(len(log), rng.randint(1, 5)))):
        if published and rng.random() < 0.3:
            name, number = rng.choice(published)
            truth[log[at].offset] = None
        else:
            name, number = rng.choice(list(books)), 10 + len(published)
            published.append((name, number))
            truth[log[at].offset] = prices[name]
        shelf[name, number] = books[name]
        changed[at] = replace(log[at], value=switch(name, number), key=b"spendstream.rate-book")
    return changed, dict(shelf), truth


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_log_that_switches_prices_alike_through_crashes_replays_and_doubles(
    acme_book: PriceBook, dearer_book: PriceBook, seed: int
) -> None:
    """Every crash point of a flush, and workers that lost the partition without knowing; calls change their block."""
    rng = random.Random(seed)
    ours, theirs = rules(cardinality_cap=rng.choice((2, 10_000)))
    log = random_log(rng, rng.randint(5, 120), teams=3, ids=10_000, spread_s=rng.choice((0, 5000)))
    books = {"base": acme_book, "dear": dearer_book}
    prices = {name: Prices(book) for name, book in books.items()}
    changed, shelf, truth = with_switches(rng, log, books, prices)
    world = World(changed, ours, acme_book, books=shelf)
    last = live(world, Chaos(rng.choice((1, 4, 20, 200)), 0.6, 0.6, rng.choice((0, 0.3))), rng)
    assert_same(world, last, meter(changed, theirs, prices["base"], truth))


def test_a_worker_with_other_cards_after_a_crash_would_count_a_call_twice(
    acme_book: PriceBook, dearer_book: PriceBook
) -> None:
    """Why a marker states its book. A call of $3 shares its minute's block; at $9 it stands in another."""
    assert "input: 6" in CARDS
    log = Log()
    log.append(make_usage_event(1, input_tokens=500_000, output_tokens=0))
    world = World(log.records, MeterRules(), acme_book)
    one = world.recover()
    one.absorb(log.batch(), LATER)
    world.write_calls(one.take())
    assert world.ledger[0]["cost_usd"] == Decimal(3)
    for book, rollups in ((acme_book, 1), (dearer_book, 2)):
        world = World(log.records, MeterRules(), acme_book)
        one = world.recover()
        one.absorb(log.batch(), LATER)
        output = one.take()
        world.write_calls(output)
        world.write_rollups(output)
        world.book = book  # the successor of the crash
        successor = world.recover()
        successor.absorb(log.batch(), LATER)
        world.write_rollups(successor.take())
        assert len(world.rollups) == rollups
