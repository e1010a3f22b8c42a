"""Rollups on the wire: an aggregate to its Kafka record and back. See ``spendstream.schemas.rollup.CostRollup``."""

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from spendstream.core.money import pusd_from_text, usd_text
from spendstream.core.rollup.aggregates import AggregateKey
from spendstream.core.rollup.measures import BUCKET_COSTS, COLUMN, COST, COUNTERFACTUALS, MEASURES, TOKENS
from spendstream.core.timestamps import from_epoch_us
from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS

_COUNTS: Final = (
    "calls",
    "failed_calls",
    "retries",
    "late_calls",
    "unpriced_calls",
    "unpriced_tokens",
    "web_searches",
    "gpu_us",
    "latency_ms_sum",
    "latency_ms_max",
    "latency_calls",
    "first_offset",
    "through_offset",
)
_COUNTERFACTUAL_FIELDS: Final = dict(
    zip(
        COUNTERFACTUALS,
        ("cost_without_cache_usd", "cost_at_standard_tier_usd", "cost_with_requested_model_usd"),
        strict=True,
    )
)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def rollup_record(
    source_log: str, partition: int, names: tuple[str, ...], key: AggregateKey, totals: NDArray[np.int64]
) -> tuple[bytes, bytes]:
    """Return an aggregate's Kafka key and value."""
    values = totals.tolist()
    minute = _time(key.minute_us)
    record: dict[str, Any] = {
        "source_log": source_log,
        "source_partition": partition,
        "minute": minute,
        "correction_block": key.block,
        "dimensions": dict(zip(names, key.dimensions, strict=True)),
    }
    for name in _COUNTS:
        record[name] = values[COLUMN[name]]
    record["tokens"] = {
        bucket: count for bucket, field in zip(TOKEN_BUCKETS, TOKENS, strict=True) if (count := values[COLUMN[field]])
    }
    record["cost_usd"] = usd_text(values[COLUMN[COST]])
    record["cost_usd_by_bucket"] = {
        bucket: usd_text(cost)
        for bucket, field in zip(COST_BUCKETS, BUCKET_COSTS, strict=True)
        if (cost := values[COLUMN[field]])
    }
    for measure, field in _COUNTERFACTUAL_FIELDS.items():
        record[field] = usd_text(values[COLUMN[measure]])
    record["first_event_at"] = _time(values[COLUMN["first_event_us"]])
    record["last_event_at"] = _time(values[COLUMN["last_event_us"]])
    return rollup_key(source_log, partition, key), _encode(record)


def rollup_key(source_log: str, partition: int, key: AggregateKey) -> bytes:
    """Return an aggregate's Kafka key."""
    return _encode([source_log, partition, _time(key.minute_us), key.block, *key.dimensions])


def read_rollup(names: tuple[str, ...], value: bytes) -> tuple[str, AggregateKey, NDArray[np.int64]] | None:
    """Return a rollup record's source log, key and totals; None where its dimensions are not these."""
    record = _decode(value)
    if tuple(record["dimensions"]) != names:
        return None
    totals = np.zeros(len(MEASURES), dtype=np.int64)
    for name in _COUNTS:
        totals[COLUMN[name]] = record[name]
    for bucket, field in zip(TOKEN_BUCKETS, TOKENS, strict=True):
        totals[COLUMN[field]] = record["tokens"].get(bucket, 0)
    totals[COLUMN[COST]] = pusd_from_text(record["cost_usd"])
    for bucket, field in zip(COST_BUCKETS, BUCKET_COSTS, strict=True):
        totals[COLUMN[field]] = pusd_from_text(record["cost_usd_by_bucket"].get(bucket, "0"))
    for measure, field in _COUNTERFACTUAL_FIELDS.items():
        totals[COLUMN[measure]] = pusd_from_text(record[field])
    totals[COLUMN["first_event_us"]] = _us(record["first_event_at"])
    totals[COLUMN["last_event_us"]] = _us(record["last_event_at"])
    key = AggregateKey(_us(record["minute"]), record["correction_block"], tuple(record["dimensions"].values()))
    return record["source_log"], key, totals


def _time(us: int) -> str:
    return from_epoch_us(us).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _us(text: str) -> int:
    return int(np.datetime64(text.removesuffix("Z"), "us").astype(np.int64))
