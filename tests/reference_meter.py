"""The meter again, slow and plain: one record at a time, in dictionaries. What the real one must amount to.

Shares only the contract and the price of a single call with the product: no columns, no batches, no recovery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
from pydantic import ValidationError

from spendstream.core.pricing import PriceBook
from spendstream.schemas.buckets import COST_BUCKETS, PROMPT_PARTS, TOKEN_BUCKETS
from spendstream.schemas.units import units_text
from spendstream.schemas.usage import UsageEvent

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000_000
PICO = Decimal(10) ** 12
LATENESS = ("on_time", "late", "correction")
QUALITIES = ("", "exact", "substituted", "estimated", "partial")
WHY_UNPRICED = ("", "unknown_model", "no_rate_for_bucket", "too_large")


@dataclass(frozen=True)
class LogRecord:
    """A record of the source log; ``timestamp_ms`` -1 where it has none."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Rules:
    """As ``MeterRules``, said again."""

    dimensions: tuple[str, ...] = ("service", "team", "model")
    allowed_lateness_s: int = 600
    allowed_skew_s: int = 300
    dedupe_horizon_s: int = 3600
    cardinality_cap: int = 10_000
    max_record_bytes: int = 1_000_000


@dataclass(frozen=True)
class Cost:
    """USD; ``total`` None where unpriced, and then the others are 0."""

    total: Decimal | None
    by_bucket: dict[str, Decimal]
    without_cache: Decimal
    at_standard_tier: Decimal
    with_requested_model: Decimal
    why_unpriced: str
    quality: str


class Prices:
    """Prices one call at a time, and remembers: logs are made of few different calls."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._known: dict[tuple[Any, ...], Cost] = {}

    def of(self, event: UsageEvent) -> Cost:
        row = {
            "provider": event.provider,
            "model_requested": event.model_requested or "",
            "model_served": event.model_served or "",
            "service_tier": event.service_tier,
            "region": event.region or "",
            "inference_geo": event.inference_geo or "",
            "capacity": event.capacity,
            "context_step": event.context_step,
            "units": units_text(event.units or {}),
            "deployment": event.deployment or "",
            "priced_at_us": micros(event.requested_at or event.occurred_at),
            **{f"{bucket}_tokens": tokens(event, bucket) for bucket in TOKEN_BUCKETS},
            "web_searches": event.web_searches or 0,
            "gpu_us": None if event.gpu_seconds is None else round(event.gpu_seconds * 1e6),
        }
        known = tuple(row.values())
        if known not in self._known:
            self._known[known] = self._ask(row)
        return self._known[known]

    def _ask(self, row: dict[str, Any]) -> Cost:
        nullable = {"context_step": pl.Int64, "units": pl.String, "gpu_us": pl.Int64}
        one = self._book.price(pl.DataFrame([row], schema_overrides=nullable))
        return Cost(
            total=usd(one.total_pusd[0]) if one.priced[0] else None,
            by_bucket={bucket: usd(amount[0]) for bucket, amount in one.by_bucket.items() if amount[0]},
            without_cache=usd(one.without_cache_pusd[0]),
            at_standard_tier=usd(one.at_standard_tier_pusd[0]),
            with_requested_model=usd(one.with_requested_model_pusd[0]),
            why_unpriced=WHY_UNPRICED[one.unpriced_reason[0]],
            quality=QUALITIES[one.quality[0]],
        )


@dataclass
class Outcome:
    """``ledger``, ``dead_letters`` and ``rerouted`` by source offset; ``rollups`` by (minute, block, dimensions)."""

    ledger: dict[int, dict[str, Any]] = field(default_factory=dict)
    rollups: dict[tuple[int, int, tuple[str, ...]], dict[str, Any]] = field(default_factory=dict)
    dead_letters: dict[int, str] = field(default_factory=dict)
    rerouted: dict[int, bytes] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)


def meter(
    log: Iterable[LogRecord], rules: Rules, prices: Prices, switches: Mapping[int, Prices | None] | None = None
) -> Outcome:
    """Return what a log amounts to. ``switches``: by offset, the records that are no usage but change the prices."""
    outcome = Outcome()
    watermark = -(10**30)
    log_clock = 0
    accepted_in: dict[int, int] = {}
    windows: dict[tuple[int, int], list[tuple[str, ...]]] = {}
    quarter_ms = max(1, rules.dedupe_horizon_s * 1000 // 4)
    for record in log:
        log_clock = max(log_clock, record.timestamp_ms)
        if switches and record.offset in switches:
            prices = switches[record.offset] or prices
            continue
        outcome.counters["records"] += 1
        event = read(record.value, rules.max_record_bytes)
        if isinstance(event, str):
            outcome.counters["dead_letters"] += 1
            outcome.dead_letters[record.offset] = event
            continue
        at = micros(event.occurred_at)
        recorded_ms = log_clock if record.timestamp_ms == -1 else record.timestamp_ms
        if recorded_ms > 0 and at > recorded_ms * 1000 + rules.allowed_skew_s * 1_000_000:
            outcome.counters["dead_letters"] += 1
            outcome.dead_letters[record.offset] = "occurred_in_future"
            continue
        if record.key is None:
            outcome.counters["rerouted"] += 1
            outcome.rerouted[record.offset] = event.partition_key
            continue
        watermark = max(watermark, at)
        minute = at - at % MINUTE
        late = 0
        if watermark >= minute + MINUTE:
            late = 2 if watermark >= minute + MINUTE + rules.allowed_lateness_s * 1_000_000 else 1
        quarter = log_clock // quarter_ms
        if quarter - accepted_in.get(event.event_id.int, -(10**30)) <= 4:
            outcome.counters["duplicates"] += 1
            continue
        accepted_in[event.event_id.int] = quarter
        cost = prices.of(event)
        outcome.counters["metered"] += 1
        outcome.counters["late"] += late == 1
        outcome.counters["corrections"] += late == 2
        outcome.counters["unpriced"] += cost.total is None
        outcome.counters["substituted"] += cost.quality == "substituted"
        outcome.counters["estimated"] += cost.quality == "estimated"
        outcome.counters["partly_priced"] += cost.quality == "partial"
        outcome.ledger[record.offset] = ledger_row(event, record.offset, recorded_ms, late, cost)
        block = block_of(record.offset, late, cost, event)
        dimensions = tuple(getattr(event, name) or "" for name in rules.dimensions)
        admitted = windows.setdefault((minute, block), [])
        if dimensions not in admitted:
            if len(admitted) < rules.cardinality_cap:
                admitted.append(dimensions)
            else:
                dimensions = ("__other__",) * len(rules.dimensions)
        key = (minute, block, dimensions)
        fold(outcome.rollups.setdefault(key, empty_rollup(record.offset, at)), event, record.offset, late, cost)
    return outcome


def block_of(offset: int, late: int, cost: Cost, event: UsageEvent) -> int:
    """Cheap calls share 2^21 offsets, dear ones 2^12, the dearest none: no sum passes 64 bits."""
    usd = max(cost.total or 0, cost.without_cache, cost.at_standard_tier, cost.with_requested_model)
    largest = max(usd * PICO, Decimal(round((event.gpu_seconds or 0.0) * 1e6)))
    if largest >= 2**51:
        return -1 - (3 * offset + 2)
    if late == 2:
        return offset // 4096
    return -1 - (3 * (offset // 4096) + 1) if largest >= 2**42 else -1 - 3 * (offset // 2**21)


def read(value: bytes | None, max_bytes: int) -> UsageEvent | str:
    if not value:
        return "empty"
    if len(value) > max_bytes:
        return "too_large"
    try:
        return UsageEvent.model_validate_json(value)
    except ValidationError:
        return "invalid"


def ledger_row(event: UsageEvent, offset: int, recorded_ms: int, late: int, cost: Cost) -> dict[str, Any]:
    known = cost.total is not None
    return {
        "event_id": event.event_id.bytes,
        "source_offset": offset,
        "occurred_at": event.occurred_at,
        "recorded_at": EPOCH + timedelta(milliseconds=recorded_ms),
        "service": event.service,
        "team": event.team or "",
        "model": event.model,
        "status": event.status,
        "latency_ms": event.latency_ms,
        "lateness": LATENESS[late],
        "unpriced_reason": cost.why_unpriced,
        "price_quality": cost.quality,
        "agent": event.agent or "",
        "turn": event.turn,
        "parent_event_id": event.parent_event_id and event.parent_event_id.bytes,
        "capacity": event.capacity,
        "units": sorted((event.units or {}).items()),
        "usage_notes": "; ".join(event.usage_notes or ()),
        "cost_usd": cost.total,
        **{f"{bucket}_tokens": tokens(event, bucket) for bucket in TOKEN_BUCKETS},
        **{f"prompt_{part}_tokens": getattr(event, f"prompt_{part}_tokens") or 0 for part in PROMPT_PARTS},
        **{f"cost_{b}_usd": cost.by_bucket.get(b, Decimal(0)) if known else None for b in COST_BUCKETS},
        "cost_without_cache_usd": cost.without_cache if known else None,
    }


def empty_rollup(offset: int, at: int) -> dict[str, Any]:
    counts = [
        "calls",
        "failed_calls",
        "retries",
        "late_calls",
        "unpriced_calls",
        "unpriced_tokens",
        "partly_priced_calls",
        "substituted_calls",
    ]
    return {
        **dict.fromkeys([*counts, "web_searches", "gpu_us", "latency_ms_sum", "latency_ms_max", "latency_calls"], 0),
        "tokens": Counter(),
        "cost_usd": Decimal(0),
        "substituted_usd": Decimal(0),
        "cost_usd_by_bucket": Counter(),
        "cost_without_cache_usd": Decimal(0),
        "cost_at_standard_tier_usd": Decimal(0),
        "cost_with_requested_model_usd": Decimal(0),
        "first_offset": offset,
        "first_event_at": at,
        "last_event_at": at,
    }


def fold(rollup: dict[str, Any], event: UsageEvent, offset: int, late: int, cost: Cost) -> None:
    at = micros(event.occurred_at)
    rollup["calls"] += 1
    rollup["failed_calls"] += event.status != "ok"
    rollup["retries"] += event.attempt > 1
    rollup["late_calls"] += late > 0
    rollup["web_searches"] += event.web_searches or 0
    rollup["gpu_us"] += round((event.gpu_seconds or 0.0) * 1e6)
    for bucket in TOKEN_BUCKETS:
        if count := tokens(event, bucket):
            rollup["tokens"][bucket] += count
    if cost.total is None:
        rollup["unpriced_calls"] += 1
        rollup["unpriced_tokens"] += sum(tokens(event, bucket) for bucket in TOKEN_BUCKETS)
    rollup["partly_priced_calls"] += cost.quality == "partial"
    if cost.quality == "substituted":
        rollup["substituted_calls"] += 1
        rollup["substituted_usd"] += cost.total or 0
    rollup["cost_usd"] += cost.total or 0
    for bucket, amount in cost.by_bucket.items():
        rollup["cost_usd_by_bucket"][bucket] += amount
    rollup["cost_without_cache_usd"] += cost.without_cache
    rollup["cost_at_standard_tier_usd"] += cost.at_standard_tier
    rollup["cost_with_requested_model_usd"] += cost.with_requested_model
    if event.latency_ms is not None:
        rollup["latency_calls"] += 1
        rollup["latency_ms_sum"] += event.latency_ms
        rollup["latency_ms_max"] = max(rollup["latency_ms_max"], event.latency_ms)
    rollup["through_offset"] = offset
    rollup["first_event_at"] = min(rollup["first_event_at"], at)
    rollup["last_event_at"] = max(rollup["last_event_at"], at)


def tokens(event: UsageEvent, bucket: str) -> int:
    return getattr(event, f"{bucket}_tokens") or 0


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def usd(pusd: int) -> Decimal:
    return Decimal(int(pusd)) / PICO
