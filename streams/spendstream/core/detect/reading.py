"""Rollup records as the detector reads them: what identifies an aggregate, and its additive measures as integers."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from spendstream.core.money import PUSD
from spendstream.core.rollup.measures import BUCKET_COSTS, COLUMN, COST, COUNTERFACTUALS, SUMS, TOKENS
from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS


class RollupRecord(NamedTuple):
    """A record of the rollup topic: its partition there, Kafka timestamp in ms, key and value."""

    partition: int
    timestamp_ms: int
    key: bytes
    value: bytes


class NotARollup(ValueError):
    """A record of the rollup topic that can't be read as one."""


class Rollup(msgspec.Struct):
    """``schemas.rollup.CostRollup``, without what the detector doesn't ask for. Money is text, as on the wire."""

    source_log: str
    source_partition: int
    minute: str
    correction_block: int
    dimensions: dict[str, str]
    through_offset: int
    calls: int
    failed_calls: int
    retries: int
    late_calls: int
    unpriced_calls: int
    unpriced_tokens: int
    web_searches: int
    gpu_us: int
    latency_ms_sum: int
    latency_calls: int
    tokens: dict[str, int]
    cost_usd: str
    cost_usd_by_bucket: dict[str, str]
    cost_without_cache_usd: str
    cost_at_standard_tier_usd: str
    cost_with_requested_model_usd: str
    first_offset: int = -1


_decode = msgspec.json.Decoder(Rollup).decode
_TOKEN_COLUMNS: Final = {bucket: COLUMN[field] for bucket, field in zip(TOKEN_BUCKETS, TOKENS, strict=True)}
_COST_COLUMNS: Final = {bucket: COLUMN[field] for bucket, field in zip(COST_BUCKETS, BUCKET_COSTS, strict=True)}
_COST_COLUMN: Final = COLUMN[COST]
_FIRST_COUNTERFACTUAL: Final = COLUMN[COUNTERFACTUALS[0]]
_REST: Final = [0] * (len(SUMS) - SUMS.index(TOKENS[0]))
_THROUGH: Final = b'"through_offset":'

assert SUMS[: SUMS.index(TOKENS[0])] == (
    *("calls", "failed_calls", "retries", "late_calls", "unpriced_calls", "unpriced_tokens", "web_searches"),
    *("gpu_us", "latency_ms_sum", "latency_calls"),
)
assert SUMS[_FIRST_COUNTERFACTUAL:] == COUNTERFACTUALS


def read(record: RollupRecord) -> Rollup:
    """Read a rollup record. Raises: NotARollup."""
    try:
        rollup = _decode(record.value)
        if (
            not rollup.tokens.keys() <= _TOKEN_COLUMNS.keys()
            or not rollup.cost_usd_by_bucket.keys() <= _COST_COLUMNS.keys()
        ):
            raise NotARollup(f"partition {record.partition}, key {record.key!r}: a bucket that is not known")
        return rollup
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotARollup(f"partition {record.partition}, key {record.key!r}: {error}") from error


def sums_of(rollups: Sequence[Rollup]) -> NDArray[np.int64]:
    """Return the additive measures of rollups: n × len(SUMS), in the order of ``SUMS``; money in pico-dollars."""
    amounts: dict[str, int] = {}
    return np.array([_row(rollup, amounts) for rollup in rollups], dtype=np.int64).reshape(len(rollups), len(SUMS))


def newest(records: Iterable[RollupRecord]) -> Iterable[RollupRecord]:
    """Return of each key the record with the greatest ``through_offset``: the others would be replaced at once."""
    found: dict[bytes, RollupRecord] = {}
    for record in records:
        former = found.setdefault(record.key, record)
        if former is not record and _through(record.value) >= _through(former.value):
            found[record.key] = record
    return found.values()


def _row(rollup: Rollup, amounts: dict[str, int]) -> list[int]:
    row = [
        rollup.calls, rollup.failed_calls, rollup.retries, rollup.late_calls, rollup.unpriced_calls,
        rollup.unpriced_tokens, rollup.web_searches, rollup.gpu_us, rollup.latency_ms_sum, rollup.latency_calls,
        *_REST,
    ]  # fmt: skip
    for bucket, count in rollup.tokens.items():
        row[_TOKEN_COLUMNS[bucket]] = count
    row[_COST_COLUMN] = _pusd(rollup.cost_usd, amounts)
    for bucket, cost in rollup.cost_usd_by_bucket.items():
        row[_COST_COLUMNS[bucket]] = _pusd(cost, amounts)
    row[_FIRST_COUNTERFACTUAL:] = (
        _pusd(rollup.cost_without_cache_usd, amounts),
        _pusd(rollup.cost_at_standard_tier_usd, amounts),
        _pusd(rollup.cost_with_requested_model_usd, amounts),
    )
    return row


def _pusd(text: str, known: dict[str, int]) -> int:
    """Return decimal USD as pico-dollars; faster than through ``Decimal``, for amounts that the meter wrote."""
    pusd = known.get(text)
    if pusd is None:
        whole, _, decimals = text.partition(".")
        fraction = int(decimals.ljust(12, "0")) if decimals else 0
        pusd = int(whole) * PUSD + (-fraction if whole.startswith("-") else fraction)
        known[text] = pusd
    return pusd


def _through(value: bytes) -> int:
    """Return a record's ``through_offset`` without reading the rest; -1 where it isn't there."""
    at = value.find(_THROUGH)
    if at < 0:
        return -1
    at += len(_THROUGH)
    end = value.find(b",", at)
    return int(value[at:end]) if end > 0 and value[at:end].strip().isdigit() else -1
