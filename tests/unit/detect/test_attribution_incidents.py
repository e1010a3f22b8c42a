"""The demo's incidents, metered and priced: each is told with the right reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import spendstream.demo
from spendstream.core.batch import RecordBatch
from spendstream.core.detect.attribution import Cube, Profiles, attribute
from spendstream.core.meter import MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.core.timestamps import MINUTE_US, epoch_us
from spendstream.demo.generator import Traffic
from spendstream.demo.scenario import Incident, Kind
from spendstream.schemas.alert import Attribution, Factor
from spendstream.schemas.measures import SUMS
from spendstream.schemas.rollup import ON_TIME

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
CALM_MINUTES = 25
INCIDENT_MINUTES = 3
SLICE_S = 10
RATE_PER_S = 30
DIMENSIONS = ("service", "team", "feature", "customer", "environment", "provider", "model", "service_tier", "region")

FIRST: dict[str, Kind] = {
    "code_agent": "runaway_loop",
    "search_answer": "context_blowup",
    "ticket_summary": "dearer_model",
    "support_chat": "cache_off",
    "code_completion": "provider_outage",
}
SECOND: dict[str, Kind] = {
    "campaign_copy": "runaway_loop",
    "code_agent": "context_blowup",  # most of whose usual prompt is read from cache
    "search_answer": "dearer_model",
    "deep_research": "cache_off",
    "support_chat": "provider_outage",
}


@dataclass
class Day:
    """What the meter made of the traffic. ``minutes``: (dimension values, sums), by minute since the start."""

    minutes: dict[int, list[tuple[tuple[str, ...], np.ndarray]]]
    usual: Profiles
    rows: np.ndarray


@cache
def day(which: int) -> Day:
    """Meter a calm time, and learn it, and then some minutes of five incidents at once, in a feature each."""
    starts_at = START + timedelta(minutes=CALM_MINUTES)
    kinds = (FIRST, SECOND)[which]
    incidents = [Incident(kind, feature, starts_at, 3_600) for feature, kind in kinds.items()]
    traffic = Traffic(3 + which, RATE_PER_S, START, incidents)
    book = PriceBook.load([Path(spendstream.demo.__file__).parent / "rates.yaml"])
    meter = PartitionMeter(new_marker(0, "log", -1), MeterRules(dimensions=DIMENSIONS), book)
    first = 0
    for step in range(1, (CALM_MINUTES + INCIDENT_MINUTES) * 60 // SLICE_S + 1):
        now = START + timedelta(seconds=SLICE_S * step)
        made = traffic.slice(now, SLICE_S)
        stamps = np.full(len(made), epoch_us(now) // 1_000)
        offsets = np.arange(first, first + len(made))
        meter.absorb(RecordBatch(0, offsets, stamps, [p.key for p in made], [p.value for p in made]), now)
        first += len(made)
    minutes: dict[int, list[tuple[tuple[str, ...], np.ndarray]]] = {}
    for key, totals in meter.aggregates:
        minute = (key.minute_us - epoch_us(START)) // MINUTE_US
        if key.block == ON_TIME and minute >= 0:
            minutes.setdefault(minute, []).append((key.dimensions, totals[: len(SUMS)].copy()))
    usual = Profiles(DIMENSIONS)
    for minute in range(CALM_MINUTES):
        rows = np.array([usual.combination(values) for values, _ in minutes[minute]])
        sums = np.array([sums for _, sums in minutes[minute]])
        usual.learn(epoch_us(START) + minute * MINUTE_US, rows, sums, np.zeros(0, dtype=np.int64))
    return Day(minutes, usual, np.arange(len(usual)))


def told(which: int, feature: str | None, minute: int = CALM_MINUTES + 1) -> Attribution:
    """Attribute a minute of a feature, or of everything."""
    that = day(which)
    at = DIMENSIONS.index("feature")
    observed = [(values, sums) for values, sums in that.minutes[minute] if feature in (None, values[at])]
    rows = [row for row in that.rows.tolist() if feature in (None, that.usual.values(row)[at])]
    found = attribute(
        Cube([values for values, _ in observed], np.array([sums for _, sums in observed])),
        that.usual.expected(np.array(rows)),
        DIMENSIONS,
        ("feature",) if feature else (),
    )
    change = found.observed_usd_per_minute - found.expected_usd_per_minute
    assert sum((part.change_usd_per_minute for part in found.parts), Decimal(0)) == change
    return found


def top(found: Attribution, dimension: str) -> tuple[str, float]:
    return next((c.value, c.share) for c in found.contributors if c.dimension == dimension)


CASES: list[tuple[int, str, Factor, str]] = [
    (0, "code_agent", "volume", "more calls: "),
    (0, "search_answer", "tokens_per_call", "longer prompts: "),
    (0, "ticket_summary", "model_mix", "dearer models: claude-opus-4-1-20250805 now "),
    (0, "support_chat", "cache", "fewer cache hits: 0% of input tokens read from cache instead of "),
    (1, "campaign_copy", "volume", "more calls: "),
    (1, "code_agent", "tokens_per_call", "longer prompts: "),
    (1, "search_answer", "model_mix", "dearer models: gemini-2.5-pro now "),
    (1, "deep_research", "cache", "fewer cache hits"),
]


@pytest.mark.parametrize(("which", "feature", "factor", "words"), CASES)
def test_an_incident_is_told_with_its_reason(which: int, feature: str, factor: Factor, words: str) -> None:
    found = told(which, feature)
    assert found.observed_usd_per_minute > found.expected_usd_per_minute
    assert (found.parts[0].factor, found.reason[: len(words)]) == (factor, words)


@pytest.mark.parametrize(("which", "feature"), [(0, "code_agent"), (1, "campaign_copy")])
def test_a_runaway_loop_is_one_customer(which: int, feature: str) -> None:
    _, share = top(told(which, feature), "customer")
    assert share > 0.9


def test_more_calls_in_one_feature_are_named_when_all_spend_is_looked_at() -> None:
    found = told(0, None)
    volume = next(part for part in found.parts if part.factor == "volume")
    assert volume.words.startswith("more calls in code_agent: ")
    assert top(found, "feature")[0] == "code_agent"


@pytest.mark.parametrize(("which", "feature"), [(0, "code_completion"), (1, "support_chat")])
def test_an_outage_says_that_calls_fail_and_are_tried_again(which: int, feature: str) -> None:
    found = told(which, feature)
    failing, retried = found.facts
    assert failing.startswith("8")
    assert "% of calls fail instead of" in failing
    assert "% of calls are retries instead of" in retried
    words = {part.factor: part.words for part in found.parts}
    assert words["volume"].endswith("of them retries")
    assert words["tokens_per_call"].startswith("calls cut short, 8")


def test_a_calm_minute_has_no_great_part() -> None:
    that = day(0)
    found = told(0, None, minute=CALM_MINUTES - 1)
    assert that.usual.dimensions == DIMENSIONS
    largest = max(abs(part.change_usd_per_minute) for part in found.parts)
    assert largest < found.expected_usd_per_minute / 4
    assert found.facts == ()
