"""Rollups: absolute totals per minute, JSON on the wire, into `rollups_1m`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
import pyarrow as pa

from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS, cost_column, tokens_field
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.priced import USD
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.sinks.encoders import Encoded, Record, Undecodable, table_insert

TABLE: Final = "rollups_1m"

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Partition = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Block = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]

# A dimension or bucket that has no column would be left out of the key or the sum without a word: refuse it.
_Dimensions = msgspec.defstruct(
    "_Dimensions", [(name, str, "") for name in DIMENSIONS], frozen=True, forbid_unknown_fields=True
)
_Tokens = msgspec.defstruct("_Tokens", [(name, _Count, 0) for name in TOKEN_BUCKETS], forbid_unknown_fields=True)
_Costs = msgspec.defstruct("_Costs", [(name, str, "0") for name in COST_BUCKETS], forbid_unknown_fields=True)

_COUNTS: Final = ("calls", "failed_calls", "retries", "late_calls", "unpriced_calls", "unpriced_tokens")
_COUNTERFACTUALS: Final = ("cost_without_cache_usd", "cost_at_standard_tier_usd", "cost_with_requested_model_usd")


class _Rollup(msgspec.Struct):
    """`spendstream.schemas.rollup.CostRollup` as fast as it reads: money stays text."""

    source_log: str
    source_partition: _Partition
    minute: _Time
    dimensions: _Dimensions  # type: ignore[valid-type]
    first_offset: _Count
    through_offset: _Count
    calls: _Count
    cost_usd: str
    cost_without_cache_usd: str
    cost_at_standard_tier_usd: str
    cost_with_requested_model_usd: str
    first_event_at: _Time
    last_event_at: _Time
    correction_block: _Block = -1
    failed_calls: _Count = 0
    retries: _Count = 0
    late_calls: _Count = 0
    unpriced_calls: _Count = 0
    unpriced_tokens: _Count = 0
    web_searches: _Count = 0
    gpu_us: _Count = 0
    tokens: _Tokens = msgspec.field(default_factory=_Tokens)  # type: ignore[valid-type]
    cost_usd_by_bucket: _Costs = msgspec.field(default_factory=_Costs)  # type: ignore[valid-type]
    latency_ms_sum: _Count = 0
    latency_ms_max: _Count = 0
    latency_calls: _Count = 0


_decode = msgspec.json.Decoder(_Rollup).decode
_INT64: Final = pa.int64()
_INT32: Final = pa.int32()
_SECOND: Final = pa.timestamp("s", tz="UTC")
_MICROSECOND: Final = pa.timestamp("us", tz="UTC")


class RollupEncoder:
    """Encodes rollups. Of the totals of one key in a batch only the last, by `through_offset`, becomes a row."""

    table = TABLE
    is_compacted = True

    def encode(self, records: Sequence[Record]) -> Encoded:
        """Return one insert, or none where the records are all tombstones or undecodable."""
        rollups: list[_Rollup] = []
        sources: list[Record] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                rollups.append(_decode(record.value))
                sources.append(record)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                undecodable.append(Undecodable(record, _reason(error), f"not a rollup: {error}"))
        if not rollups:
            return Encoded((), tuple(undecodable))
        try:
            table = rollup_table(latest(rollups))
        except (pa.ArrowException, ValueError, OverflowError):
            good, bad = _sift(rollups, sources)
            undecodable.extend(bad)
            table = rollup_table(latest(good))
        inserts = (table_insert(TABLE, table),) if table.num_rows else ()
        return Encoded(inserts, tuple(undecodable))


def latest(rollups: Iterable[_Rollup]) -> list[_Rollup]:
    """Return, of each key, the total that absorbed most: greatest `through_offset`, of equal ones the last."""
    by_key: dict[tuple[Any, ...], _Rollup] = {}
    for rollup in rollups:
        key = (
            rollup.source_log,
            rollup.source_partition,
            rollup.minute,
            rollup.correction_block,
            rollup.dimensions,
        )
        known = by_key.get(key)
        if known is None or rollup.through_offset >= known.through_offset:
            by_key[key] = rollup
    return list(by_key.values())


def rollup_table(rollups: Sequence[_Rollup]) -> pa.Table:
    """Return rollups as columns of `rollups_1m`. Money goes from text to decimal128 without a float between.

    Raises: pyarrow's errors, on an amount that is no decimal or finer than 1e-12 USD, or a minute with seconds.
    """
    columns: dict[str, pa.Array] = {
        "minute": pa.array([r.minute for r in rollups], _MICROSECOND).cast(_SECOND),
        "source_log": _names(r.source_log for r in rollups),
        "source_partition": pa.array([r.source_partition for r in rollups], _INT32),
        "correction_block": _ints(rollups, "correction_block"),
    }
    dimensions = [r.dimensions for r in rollups]
    tokens = [r.tokens for r in rollups]
    costs = [r.cost_usd_by_bucket for r in rollups]
    for name in DIMENSIONS:
        columns[name] = _names(getattr(d, name) for d in dimensions)
    for name in (*_COUNTS, "web_searches", "gpu_us"):
        columns[name] = _ints(rollups, name)
    for bucket in TOKEN_BUCKETS:
        columns[tokens_field(bucket)] = _ints(tokens, bucket)
    columns["cost_usd"] = _money(rollups, "cost_usd")
    for bucket in COST_BUCKETS:
        columns[cost_column(bucket)] = _money(costs, bucket)
    for name in _COUNTERFACTUALS:
        columns[name] = _money(rollups, name)
    for name in ("latency_ms_sum", "latency_ms_max", "latency_calls"):
        columns[name] = _ints(rollups, name)
    for name in ("first_event_at", "last_event_at"):
        columns[name] = pa.array([getattr(r, name) for r in rollups], _MICROSECOND)
    for name in ("first_offset", "through_offset"):
        columns[name] = _ints(rollups, name)
    return pa.table(columns)


def _sift(rollups: Sequence[_Rollup], records: Sequence[Record]) -> tuple[list[_Rollup], list[Undecodable]]:
    """Part the rollups that make a row from those that don't, one by one."""
    good: list[_Rollup] = []
    bad: list[Undecodable] = []
    for rollup, record in zip(rollups, records, strict=True):
        try:
            rollup_table([rollup])
        except (pa.ArrowException, ValueError, OverflowError) as error:
            bad.append(Undecodable(record, Reason.INVALID_VALUE, f"not a rollup: {error}"))
        else:
            good.append(rollup)
    return good, bad


def _reason(error: Exception) -> Reason:
    return Reason.INVALID_VALUE if isinstance(error, msgspec.ValidationError) else Reason.NOT_JSON


def _names(values: Iterable[str]) -> pa.Array:
    return pa.array(list(values), pa.string()).dictionary_encode()


def _ints(rows: Sequence[Any], name: str) -> pa.Array:
    return pa.array([getattr(row, name) for row in rows], _INT64)


def _money(rows: Sequence[Any], name: str) -> pa.Array:
    return pa.array([getattr(row, name) for row in rows], pa.string()).cast(USD)
