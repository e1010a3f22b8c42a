"""Price a batch of calls, in columns."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from spendstream.core.pricing.bill import MAX_PUSD, Amounts, Bill, bill, lost_without_cache, may_overflow
from spendstream.core.pricing.choose import Chooser, Key
from spendstream.core.pricing.priced import PricedColumns, Unpriced
from spendstream.core.pricing.table import UNCACHED, Int32s, RateTable, tier_code
from spendstream.core.pricing.timeline import UNKNOWN, Int64s, Timeline
from spendstream.core.pricing.usage import Usage, usage_of

Bools = npt.NDArray[np.bool_]

KEYS: Final = tuple(field.name for field in fields(Key))
"""The columns that choose a card."""


def price(calls: pl.DataFrame, chooser: Chooser, table: RateTable) -> PricedColumns:
    """Price each call at the rates in force when it was requested. See ``PriceBook.price``.

    1. Calls with equal keys are found, and for each key the rates over time; then for each call its rate set.
    2. Each call is billed. Its counterfactuals are billed where their rate sets differ from its own.
    3. Calls with a bucket that has no rate, or with a cost that 64 bits don't hold, become unpriced as a whole.
    """
    codes, keys = _distinct_keys(calls)
    choices = [chooser.choose(key) for key in keys]
    table.refresh()
    usage = usage_of(calls)
    if may_overflow(table, usage):
        usage = usage.unbounded()

    at_us = calls["priced_at_us"].to_numpy()
    sets = _sets_in_force([choice.billed for choice in choices], codes, at_us)
    billed = bill(table, sets, usage)
    reason = _reasons(sets, billed)
    priced = reason == Unpriced.PRICED

    without_cache = _without_cache(table, billed, usage)
    at_standard_tier, with_requested_model = billed.total, billed.total
    if any(choice.at_standard_tier is not choice.billed for choice in choices):
        others = _sets_in_force([choice.at_standard_tier for choice in choices], codes, at_us)
        at_standard_tier = _billed_otherwise(table, others, sets, billed, usage)
    if any(choice.with_requested_model is not choice.billed for choice in choices):
        others = _sets_in_force([choice.with_requested_model for choice in choices], codes, at_us)
        with_requested_model = _billed_otherwise(table, others, sets, billed, usage)

    card, used_sets = _cards(sets, len(table.sets))
    asked = np.array([tier_code(key.service_tier) for key in keys], dtype=np.int8)[codes]
    return PricedColumns(
        total_pusd=_if_priced(billed.total, priced),
        priced=priced,
        by_bucket={bucket: _if_priced(amounts, priced) for bucket, amounts in billed.by_bucket.items()},
        card=card,
        cards=tuple(table.sets[index].ref for index in used_sets),
        unpriced_reason=reason,
        tier_substituted=priced & (table.tier.take(sets) != asked) & ~table.is_gpu.take(sets),
        without_cache_pusd=_if_priced(without_cache, priced),
        at_standard_tier_pusd=_if_priced(at_standard_tier, priced),
        with_requested_model_pusd=_if_priced(with_requested_model, priced),
        missing=np.where(reason == Unpriced.NO_RATE, billed.missing, np.int32(0)),
    )


def _distinct_keys(calls: pl.DataFrame) -> tuple[Int64s, list[Key]]:
    """Return the distinct keys of a batch, and for each call the index of its own."""
    numbered = calls.select(*KEYS, pl.int_range(pl.len(), dtype=pl.Int64).alias("call"))
    first_call = numbered.select(pl.col("call").first().over(KEYS)).to_series().to_numpy()
    distinct = np.flatnonzero(first_call == np.arange(calls.height))
    codes = np.empty(calls.height, dtype=np.int64)
    codes[distinct] = np.arange(len(distinct))
    return codes[first_call], [Key(*row[:-1]) for row in numbered[distinct].iter_rows()]


def _sets_in_force(timelines: Sequence[Timeline], codes: Int64s, at_us: Int64s) -> Int64s:
    """Return the rate set of each call. A price seldom changes within a batch: only then are times looked up."""
    if not len(at_us):
        return np.zeros(0, dtype=np.int64)
    first_us, last_us = int(at_us.min()), int(at_us.max())
    constant = [timeline.throughout(first_us, last_us) for timeline in timelines]
    sets = np.array([UNKNOWN if s is None else s for s in constant], dtype=np.int64)[codes]
    for code, timeline in enumerate(timelines):
        if constant[code] is None:
            rows = np.flatnonzero(codes == code)
            sets[rows] = timeline.at_each(at_us[rows])
    return sets


def _reasons(sets: Int64s, billed: Bill) -> npt.NDArray[np.int8]:
    reason = np.where(billed.missing != 0, np.int8(Unpriced.NO_RATE), np.int8(Unpriced.PRICED))
    reason[~_fits(billed.total)] = Unpriced.TOO_LARGE
    reason[sets == UNKNOWN] = Unpriced.UNKNOWN_MODEL
    return reason


def _without_cache(table: RateTable, billed: Bill, usage: Usage) -> Amounts:
    if not usage.counts.keys() & UNCACHED.keys():
        return billed.total
    extra, missing = lost_without_cache(table, billed, usage)
    total = billed.total + extra
    return np.where((missing == 0) & _fits(total), total, billed.total)


def _billed_otherwise(table: RateTable, others: Int64s, sets: Int64s, billed: Bill, usage: Usage) -> Amounts:
    """Return the totals under other rate sets; the billed total where those don't price the call."""
    rows = np.flatnonzero(others != sets)
    if not len(rows):
        return billed.total
    other = bill(table, others[rows], usage.take(rows))
    known = (other.missing == 0) & (others[rows] != UNKNOWN) & _fits(other.total)
    totals = billed.total.copy()
    totals[rows] = np.where(known, other.total, totals[rows])
    return totals


def _cards(sets: Int64s, table_size: int) -> tuple[Int32s, Int64s]:
    """Return for each call the position of its rate set among those of the batch, -1 if unknown; and these sets."""
    used = np.zeros(table_size, dtype=np.bool_)
    used[sets] = True
    used[UNKNOWN] = False
    position = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    return position.take(sets), np.flatnonzero(used)


def _fits(amounts: Amounts) -> Bools:
    """Tell which amounts 64 bits hold. Those computed in 64 bits do: ``may_overflow`` was asked before."""
    if amounts.dtype != object:
        return np.ones(len(amounts), dtype=np.bool_)
    return np.asarray(amounts <= MAX_PUSD, dtype=np.bool_)


def _if_priced(amounts: Amounts, priced: Bools) -> Int64s:
    if not priced.all():
        amounts = np.where(priced, amounts, 0)
    return amounts.astype(np.int64, copy=False)
