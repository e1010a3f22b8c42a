"""The meter of one partition against a slow, plain reference, through crashes, replays and doubles."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.meter import MeterRules
from spendstream.core.pricing import PriceBook
from tests.reference_meter import LogRecord, Prices, Rules, meter
from tests.unit.log import LATER, NOON, NOON_MS, Log, cut, encode, make_usage_event
from tests.unit.world import Chaos, World, assert_same, live

MALFORMED = (
    b"",
    b"{",
    b"null",
    b"[1]",
    b'{"event_id":"x"}',
    b"\xff\xfe",
    encode(make_usage_event(1, input_tokens=-1)),
    encode(make_usage_event(1, occurred_at="1970-01-01T00:00:00Z")),
    encode(make_usage_event(1, occurred_at="2100-01-01T00:00:00Z")),
    b'{"big":"' + b"x" * 5000 + b'"}',
    None,
)
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"cached": 400, "latency_ms": 900},
    {"input_tokens": 1001, "latency_ms": 0},
    {"service_tier": "batch", "attempt": 2},
    {"model_served": "acme-mini", "model_requested": "acme-1", "status": "error"},
    {"model_served": "nobody-knows", "reasoning_tokens": 7},
    {"output_image_tokens": 3},
    {"gpu_seconds": 0.0000025, "web_searches": 2},
    {"gpu_seconds": 0, "input_tokens": None, "output_tokens": None, "status": "rate_limited"},
    {"tags": {"b": "ü\n", "a": "1"}, "prompt_system_tokens": 100},
    {"requested_at": "2026-03-03T23:59:59.999999Z", "model_served": "acme-mini"},
    {"team": 'q"uote', "service": "été"},
    {"input_tokens": 1_000_000},  # dear: 6 USD
    {"input_tokens": 100_000_000, "output_tokens": 100_000_000},  # among the dearest: 2,850 USD
)


def rules(**fields: Any) -> tuple[MeterRules, Rules]:
    common = asdict(Rules(**{"max_record_bytes": 4000, **fields}))
    return MeterRules(**common), Rules(**common)


def random_log(rng: random.Random, records: int, teams: int, ids: int, spread_s: int) -> list[LogRecord]:
    """Records a second or so apart: mostly on time, some late, too late, ahead, repeated, broken, without key."""
    log = Log(rng.choice((0, 1, 4090, 10**9)))
    at_s = 0.0
    sent: list[bytes] = []
    for _ in range(records):
        at_s += rng.choice((0, 0.001, 0.5, 1, 3, 40))
        kind = rng.random()
        behind_s = rng.choice((0, 0, 0, 0, 0.25, 59.999999, 60, 61, 120, 659, 660, 720, spread_s))
        value: bytes | None
        if kind < 0.08:
            value = rng.choice(MALFORMED)
        elif kind < 0.2 and sent:
            value = rng.choice(sent[-rng.choice((1, 20, 1000)) :])
        else:
            ahead_s = rng.choice((299, 300, 300.000001, 301, 10**7)) if kind > 0.96 else 0
            shape = rng.choice(SHAPES)
            team = f"team-{rng.randrange(teams)}"
            event = make_usage_event(rng.randrange(ids), at_s=at_s + ahead_s - behind_s, **{"team": team, **shape})
            value = encode(event)
            sent.append(value)
        timestamp_ms = -1 if rng.random() < 0.03 else NOON_MS + round(at_s * 1000) - rng.choice((0, 0, 0, 5, 2000))
        log.append_at(
            value, timestamp_ms, None if rng.random() < 0.05 else b"k", rng.choice((0, 0, 0, 0, 1, 100, 5000))
        )
    return log.records


@pytest.fixture(scope="module")
def prices(acme_book: PriceBook) -> Prices:
    return Prices(acme_book)


SEEDS = st.integers(0, 2**32)


@given(
    seed=SEEDS,
    records=st.integers(1, 120),
    teams=st.sampled_from([1, 3, 30]),
    cap=st.sampled_from([1, 2, 5, 10_000]),
    lateness_s=st.sampled_from([0, 60, 600]),
    horizon_s=st.sampled_from([1, 60, 3600]),
    largest_batch=st.sampled_from([1, 4, 20, 200]),
    crashes=st.sampled_from([0.0, 0.4, 0.8]),
)
@settings(max_examples=60, deadline=None)
def test_what_survives_crashes_replays_and_doubles_is_what_the_log_amounts_to(
    acme_book: PriceBook,
    prices: Prices,
    seed: int,
    records: int,
    teams: int,
    cap: int,
    lateness_s: int,
    horizon_s: int,
    largest_batch: int,
    crashes: float,
) -> None:
    rng = random.Random(seed)
    ours, theirs = rules(cardinality_cap=cap, allowed_lateness_s=lateness_s, dedupe_horizon_s=horizon_s)
    log = random_log(rng, records, teams, ids=rng.choice((records // 2 + 1, 10_000)), spread_s=rng.choice((0, 5000)))
    world = World(log, ours, acme_book)
    last = live(world, Chaos(largest_batch, rng.choice((0.2, 0.6, 1.0)), crashes, rng.choice((0, 0.2))), rng)
    assert_same(world, last, meter(log, theirs, prices))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_long_log_survives_thirty_crashes(acme_book: PriceBook, prices: Prices, seed: int) -> None:
    rng = random.Random(seed)
    ours, theirs = rules(cardinality_cap=8, dedupe_horizon_s=86_400)
    log = random_log(rng, 2000, teams=20, ids=10**9, spread_s=3000)
    world = World(log, ours, acme_book)
    last = live(world, Chaos(largest_batch=600, flushes=0.5, crashes=0.6, zombies=0.1), rng)
    expected = meter(log, theirs, prices)
    assert_same(world, last, expected)
    # within the horizon an event_id is one call: the ledger keyed by it holds as much
    assert sum(row["cost_usd"] or 0 for row in world.ledger_by_id.values()) == sum(
        (rollup["cost_usd"] for rollup in expected.rollups.values()), Decimal(0)
    )
    kinds = expected.counters
    assert all(kinds[name] > 5 for name in ("metered", "duplicates", "dead_letters", "rerouted", "late", "corrections"))


MILLIONS = """
cards:
  - provider: acme
    model: acme-1
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 10000, output: 9000}}]
"""


@pytest.mark.parametrize("tokens", [100_000_000, 200_000])
def test_a_minute_of_more_than_64_bits_of_money_is_exact_through_crashes(
    book_of_cards: Callable[[str], PriceBook], tokens: int
) -> None:
    """2,000 calls of $1,000,000, or of $2,000, in one series: far above the 9.2 million that an aggregate can hold."""
    calls = 2000 if tokens == 100_000_000 else 6000
    log = Log()
    for number in range(calls):
        log.append(make_usage_event(number, input_tokens=tokens, output_tokens=0), at_s=number / 1000)
    book = book_of_cards(MILLIONS)
    ours, theirs = rules(dedupe_horizon_s=86_400)
    world = World(log.records, ours, book)
    last = live(world, Chaos(largest_batch=400, flushes=0.5, crashes=0.5), random.Random(tokens))
    expected = meter(log.records, theirs, Prices(book))
    assert_same(world, last, expected)
    spent = sum((rollup["cost_usd"] for rollup in expected.rollups.values()), Decimal(0))
    assert spent == calls * tokens * Decimal(10_000) / 10**6 > Decimal(2**63) / 10**12


@given(seed=SEEDS, sizes=st.lists(st.integers(1, 50), max_size=40))
@settings(max_examples=12, deadline=None)
def test_batch_boundaries_change_nothing(acme_book: PriceBook, seed: int, sizes: list[int]) -> None:
    log = random_log(random.Random(seed), 80, teams=6, ids=60, spread_s=3000)
    ours, _ = rules(cardinality_cap=2, dedupe_horizon_s=60)
    whole, cut_up = (World(log, ours, acme_book).recover() for _ in range(2))
    for batch in cut(log, []):
        whole.absorb(batch, LATER)
    for batch in cut(log, sizes):
        cut_up.absorb(batch, LATER)
    one, other = whole.take(), cut_up.take()
    assert {k: t.tolist() for k, t in one.rollups} == {k: t.tolist() for k, t in other.rollups}
    assert (one.calls is None) == (other.calls is None)
    if one.calls is not None and other.calls is not None:
        assert one.calls.drop("row").equals(other.calls.drop("row"))
    assert one.progress.marker == other.progress.marker
    assert one.progress.ids.tolist() == other.progress.ids.tolist()


def test_a_batch_metered_before_is_skipped(acme_book: PriceBook, source_log: Log) -> None:
    source_log.append(make_usage_event(1))
    source_log.append(make_usage_event(2))
    one = World(source_log.records, MeterRules(), acme_book).recover()
    one.absorb(source_log.batch(), LATER)
    one.absorb(source_log.batch(), LATER)
    assert one.counters.metered == 2
    assert one.counters.records == 2


def test_a_batch_of_nothing_but_dead_letters_is_flushed_and_not_read_again(acme_book: PriceBook) -> None:
    log = Log()
    for value in MALFORMED:
        log.append(value)
    world = World(log.records, MeterRules(max_record_bytes=4000), acme_book)
    one = world.recover()
    one.absorb(log.batch(), LATER)
    assert one.has_pending
    world.flush(one, one.take(), None)
    assert len(world.dead_letters) == len(MALFORMED)
    assert world.recover().through_offset == log.records[-1].offset


@pytest.mark.parametrize(("ahead_s", "dead"), [(300, 0), (300.000001, 1)])
def test_an_event_ahead_of_its_record_by_more_than_the_allowed_skew_is_dead(
    acme_book: PriceBook, source_log: Log, ahead_s: float, dead: int
) -> None:
    source_log.append(make_usage_event(1, at_s=ahead_s), at_s=0)
    one = World(source_log.records, MeterRules(), acme_book).recover()
    one.absorb(source_log.batch(), LATER)
    assert (one.counters.dead_letters, one.counters.metered) == (dead, 1 - dead)
    for rejected in one.take().rejected:
        assert rejected.rejection.field == "occurred_at"
        assert "set the producer's clock" in rejected.rejection.message
        assert rejected.rejection.event_id == make_usage_event(1)["event_id"]


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"task_id": "t", "conversation_id": "c"}, b"t"),
        ({"task_id": "", "conversation_id": "c"}, b"c"),
        ({}, make_usage_event(1)["event_id"].encode()),
    ],
)
def test_a_keyless_record_is_sent_on_by_the_key_it_should_have_had(
    acme_book: PriceBook, source_log: Log, fields: dict[str, str], key: bytes
) -> None:
    record = source_log.append(make_usage_event(1, **fields), key=None)
    one = World(source_log.records, MeterRules(), acme_book).recover()
    one.absorb(source_log.batch(), LATER)
    taken = one.take()
    assert [(r.key, r.value, r.timestamp_ms) for r in taken.rerouted] == [(key, record.value, NOON_MS)]
    assert taken.calls is None


def test_an_unpriced_call_is_counted_with_its_tokens_and_never_free(acme_book: PriceBook, source_log: Log) -> None:
    source_log.append(make_usage_event(1, model_served="nobody-knows"))
    world = World(source_log.records, MeterRules(), acme_book)
    one = world.recover()
    one.absorb(source_log.batch(), LATER)
    world.flush(one, one.take(), None)
    (row,) = world.ledger.values()
    assert row["cost_usd"] is None
    assert row["unpriced_reason"] == "unknown_model"
    assert one.counters.unpriced == 1


def test_an_evicted_minute_is_never_opened_again(acme_book: PriceBook, source_log: Log) -> None:
    source_log.append(make_usage_event(1, at_s=0), at_s=0)
    source_log.append(make_usage_event(2, at_s=660), at_s=660)
    world = World(source_log.records, MeterRules(), acme_book)
    one = world.recover()
    one.absorb(source_log.batch(), LATER)
    world.flush(one, one.take(), None)
    assert len(one.aggregates) == 1
    source_log.append(make_usage_event(3, at_s=0), at_s=661)
    one.absorb(source_log.batch(), LATER)
    ((key, _),) = one.take().rollups
    assert key.block == 0
    assert one.counters.corrections == 1


def test_a_record_stamped_in_the_future_neither_forgets_ids_nor_lets_its_event_through(
    acme_book: PriceBook, source_log: Log
) -> None:
    """A stamp of 70 years ahead is capped at the wall clock plus the allowed skew: the first id is still known."""
    ahead_s = 70 * 365 * 86_400
    source_log.append(make_usage_event(1), at_s=0)
    source_log.append(make_usage_event(2), at_s=ahead_s)
    source_log.append(make_usage_event(1), at_s=1)
    source_log.append(make_usage_event(3, at_s=ahead_s), at_s=ahead_s)
    one = World(source_log.records, MeterRules(), acme_book).recover()
    one.absorb(source_log.batch(), NOON)
    assert (one.counters.metered, one.counters.duplicates, one.counters.dead_letters) == (2, 1, 1)
