"""Price a batch of calls, in columns: sums of products of integers, in pico-dollars (1e-12 USD)."""

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from spendstream.core.pricing.choose import Chooser, Key
from spendstream.core.pricing.rates import (
    UNCACHED,
    UNKNOWN,
    YOCTO_PER_PICO,
    CardRef,
    Int8s,
    Int32s,
    Int64s,
    RateSet,
    RateTable,
    Timeline,
    bit,
    half_even,
    worst,
)
from spendstream.schemas.buckets import COST_BUCKETS, INPUT_BUCKETS, TOKEN_BUCKETS, tokens_field
from spendstream.schemas.measures import PARTIAL, PRICE_QUALITIES, SUBSTITUTED

Bools = npt.NDArray[np.bool_]

Amounts = npt.NDArray[Any]
"""Pico-dollars: 64-bit integers, or Python's own."""

MAX_PUSD: Final = np.iinfo(np.int64).max
"""About 9.2 million USD."""

KEYS: Final = tuple(field.name for field in fields(Key))
"""The columns that determine a card."""

COLUMN_OF_COUNT: Final = {**{bucket: tokens_field(bucket) for bucket in TOKEN_BUCKETS}, "web_search": "web_searches"}

_GPU_US_PER_HOUR: Final = 3_600_000_000
_SPLIT: Final = 10**6
_HALF: Final = YOCTO_PER_PICO // 2
_FEES: Final = np.int32(bit("web_search") | bit("units"))
"""What may lack a rate without making the call unpriced: its amount is then too low, and says so."""


class Unpriced(IntEnum):
    """Why a call has no price."""

    PRICED = 0
    UNKNOWN_MODEL = 1
    """No card prices the model at that time."""
    NO_RATE = 2
    """The call uses tokens that its card has no rate for; a cost without them would be wrong."""
    TOO_LARGE = 3
    """The cost exceeds 9.2 million USD, more pico-dollars than 64 bits hold: a count must be wrong."""


@dataclass(frozen=True, slots=True)
class PricedColumns:
    """Costs of a batch in integer pico-dollars (1e-12 USD), and what priced them. Arrays have one element a call.

    An unpriced call has 0 in all amounts; ``priced`` distinguishes it from a free one.
    """

    total_pusd: Int64s
    priced: npt.NDArray[np.bool_]
    by_bucket: dict[str, Int64s]
    """By cost bucket, summing to the total. A bucket that no call uses is absent."""
    card: Int32s
    """Index into ``cards``; -1 if the model is unknown. A call whose card lacks a rate has a card, but no price."""
    cards: tuple[CardRef, ...]
    sets: tuple[RateSet, ...]
    """The rates of each card."""
    unpriced_reason: npt.NDArray[np.int8]
    """An ``Unpriced``."""
    quality: Int8s
    """A code of ``PRICE_QUALITIES``; 0 for an unpriced call."""
    notes: Int32s
    """Index into ``note_texts``: why the quality is not exact. 0 where there is nothing to say."""
    note_texts: tuple[str, ...]
    context_step: Int64s
    """Input tokens that were exceeded for the rates that applied, 0 below all steps."""
    unit_costs: dict[int, dict[str, int]]
    """By call that used units: what each cost, in pico-dollars. Units without a rate are absent."""
    without_cache_pusd: Int64s
    """What the calls would have cost without a cache: reads and writes as plain input."""
    at_standard_tier_pusd: Int64s
    with_requested_model_pusd: Int64s
    """What the calls would have cost with the requested model. Like the two above, the total itself if unknown."""
    missing: Int32s
    """Buckets used without a rate, as a mask: see ``missing_buckets``."""

    def missing_buckets(self, call: int) -> tuple[str, ...]:
        """Return the buckets that a call uses and its card has no rate for; ``gpu`` if its GPU time wasn't reported."""
        mask = int(self.missing[call])
        return tuple(bucket for bucket in COST_BUCKETS if mask & bit(bucket))


@dataclass(frozen=True, slots=True)
class Usage:
    """What each call used. Arrays have one element a call; buckets that no call of the batch uses are absent."""

    counts: dict[str, npt.NDArray[Any]]
    """Tokens, or searches, by bucket; 64-bit integers, or Python's own where a product might overflow."""
    used: Int32s
    """The buckets that a call uses, as a mask."""
    total_input: Int64s
    """Tokens of all input buckets, which determine the tier."""
    gpu_us: Int64s
    has_gpu_time: npt.NDArray[np.bool_]
    """Whether the GPU time was reported: a call that used none differs from one that wasn't timed."""
    units: Mapping[int, Mapping[str, Decimal]]
    """By call that used units: their quantities."""
    stated_step: Int64s | None
    """The step that the provider says it billed, -1 where it says nothing; None if it says nothing of any call."""
    is_unbounded: bool = False
    """Counts are Python integers."""

    def take(self, rows: Int64s) -> "Usage":
        """Return the usage of some calls."""
        counts = {bucket: count[rows] for bucket, count in self.counts.items()}
        gpu_us, has_gpu_time = self.gpu_us[rows], self.has_gpu_time[rows]
        units = {at: self.units[row] for at, row in enumerate(rows.tolist()) if row in self.units} if self.units else {}
        stated = None if self.stated_step is None else self.stated_step[rows]
        return Usage(
            counts, self.used[rows], self.total_input[rows], gpu_us, has_gpu_time, units, stated, self.is_unbounded
        )

    def unbounded(self) -> "Usage":
        """Return the same usage in Python integers, whose products can't overflow."""
        counts = {bucket: count.astype(object) for bucket, count in self.counts.items()}
        return Usage(
            counts,
            self.used,
            self.total_input,
            self.gpu_us,
            self.has_gpu_time,
            self.units,
            self.stated_step,
            True,
        )


@dataclass(frozen=True, slots=True)
class Bill:
    """Costs of calls. They are valid only where ``missing`` is 0, or has only fees."""

    by_bucket: dict[str, Amounts]
    total: Amounts
    missing: Int32s
    """The buckets that a call uses and its card has no rate for, as a mask."""
    rows: Int64s
    """The row of the table that priced each call."""
    no_step: Int64s
    """Calls for which the provider stated a step that their rates don't have."""
    unit_costs: dict[int, dict[str, int]]
    unrated_units: dict[int, list[str]]


class Notes:
    """Builds the notes of a batch: a code for each call, and few texts."""

    def __init__(self, codes: Int32s, texts: list[str]) -> None:
        self.codes = codes
        self.texts = texts
        self._code = {text: code for code, text in enumerate(texts)}

    @classmethod
    def of_sets(cls, table: RateTable, sets: Int64s, used: Int64s) -> "Notes":
        """Return the notes that calls have because of their rates. ``used``: the sets among them that are known."""
        texts = [""]
        if not any(table.notes[index] for index in used):
            return cls(np.zeros(len(sets), dtype=np.int32), texts)
        code: dict[str, int] = {"": 0}
        by_set = np.zeros(len(table.sets), dtype=np.int32)
        for index in used.tolist():
            note = table.notes[index]
            if code.setdefault(note, len(texts)) == len(texts):
                texts.append(note)
            by_set[index] = code[note]
        return cls(by_set.take(sets), texts)

    def add(self, calls: Int64s, note: str) -> None:
        """Append a note to those of some calls."""
        present = self.codes[calls]
        for before in np.unique(present).tolist():
            text = "; ".join(filter(None, (self.texts[before], note)))
            code = self._code.setdefault(text, len(self.texts))
            if code == len(self.texts):
                self.texts.append(text)
            self.codes[calls[present == before]] = code


def price(calls: pl.DataFrame, chooser: Chooser, table: RateTable) -> PricedColumns:
    """Price each call at the rates in force when it was requested. See ``PriceBook.price``.

    1. Find the distinct keys of the batch, the rates of each key over time, and from those each call's rate set.
    2. Bill each call; bill its counterfactuals where their rate sets differ from its own.
    3. Mark calls as unpriced that use tokens without a rate, or whose cost exceeds 64 bits.
    4. Say how exact each price is: by its rates, then by what the call used or stated.
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
    reason = np.where(billed.missing & ~_FEES, np.int8(Unpriced.NO_RATE), np.int8(Unpriced.PRICED))
    reason[~_fits(billed.total)] = Unpriced.TOO_LARGE
    reason[sets == UNKNOWN] = Unpriced.UNKNOWN_MODEL
    _refuse_unstated_units(table, sets, usage, billed, reason)
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
    quality, notes = _quality(table, sets, used_sets, usage, billed, priced)
    return PricedColumns(
        total_pusd=_if_priced(billed.total, priced),
        priced=priced,
        by_bucket={bucket: _if_priced(amounts, priced) for bucket, amounts in billed.by_bucket.items()},
        card=card,
        cards=tuple(table.sets[index].ref for index in used_sets),
        sets=tuple(table.sets[index] for index in used_sets),
        unpriced_reason=reason,
        quality=quality,
        notes=notes.codes,
        note_texts=tuple(notes.texts),
        context_step=table.step.take(billed.rows),
        unit_costs={call: costs for call, costs in billed.unit_costs.items() if priced[call]},
        without_cache_pusd=_if_priced(without_cache, priced),
        at_standard_tier_pusd=_if_priced(at_standard_tier, priced),
        with_requested_model_pusd=_if_priced(with_requested_model, priced),
        missing=np.where(sets == UNKNOWN, np.int32(0), billed.missing),
    )


def _distinct_keys(calls: pl.DataFrame) -> tuple[Int64s, list[Key]]:
    """Return for each call the index of its key, and the distinct keys."""
    varying = [name for name in KEYS if not _is_constant(calls[name])]
    if not varying:
        return np.zeros(calls.height, dtype=np.int64), [Key(*row) for row in calls.select(KEYS).head(1).iter_rows()]
    numbered = calls.select(*varying, pl.int_range(pl.len(), dtype=pl.Int64).alias("call"))
    first_call = numbered.select(pl.col("call").first().over(varying)).to_series().to_numpy()
    distinct = np.flatnonzero(first_call == np.arange(calls.height))
    codes = np.empty(calls.height, dtype=np.int64)
    codes[distinct] = np.arange(len(distinct))
    return codes[first_call], [Key(*row) for row in calls.select(KEYS)[distinct].iter_rows()]


def _is_constant(column: pl.Series) -> bool:
    """Return whether all values are equal: one comparison is cheaper than grouping by the column."""
    return len(column) == 0 or bool((column == column[0]).all())


def _sets_in_force(timelines: Sequence[Timeline], codes: Int64s, at_us: Int64s) -> Int64s:
    """Return the rate set of each call. Times are looked up only if a price changes within the batch."""
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


def _without_cache(table: RateTable, billed: Bill, usage: Usage) -> Amounts:
    if not usage.counts.keys() & UNCACHED.keys():
        return billed.total
    extra, missing = saved_by_cache(table, billed, usage)
    total = billed.total + extra
    return np.where((missing == 0) & _fits(total), total, billed.total)


def _billed_otherwise(table: RateTable, others: Int64s, sets: Int64s, billed: Bill, usage: Usage) -> Amounts:
    """Return the totals under other rate sets; the billed total where those lack a rate that the billed ones have."""
    rows = np.flatnonzero(others != sets)
    if not len(rows):
        return billed.total
    other = bill(table, others[rows], usage.take(rows))
    known = (other.missing & ~billed.missing[rows] == 0) & (others[rows] != UNKNOWN) & _fits(other.total)
    totals = billed.total.copy()
    totals[rows] = np.where(known, other.total, totals[rows])
    return totals


def _refuse_unstated_units(table: RateTable, sets: Int64s, usage: Usage, billed: Bill, reason: Int8s) -> None:
    """Mark calls as unpriced whose model is billed by units alone, and that state none: they aren't free."""
    by_units = table.is_billed_by_units.take(sets)
    if by_units.any():
        for row in np.flatnonzero(by_units & (reason == Unpriced.PRICED)).tolist():
            if row not in usage.units:
                reason[row] = Unpriced.NO_RATE
                billed.missing[row] |= bit("units")


def _quality(
    table: RateTable, sets: Int64s, used: Int64s, usage: Usage, billed: Bill, priced: Bools
) -> tuple[Int8s, Notes]:
    """Return how exact each price is, and why: first by its rates, then by what the call stated and used."""
    quality = np.where(priced, table.quality.take(sets), np.int8(0))
    notes = Notes.of_sets(table, np.where(priced, sets, UNKNOWN), used)
    doubts: list[tuple[Int64s, int, str]] = []
    if any(caveat.rates for index in used.tolist() for caveat in table.caveats[index]):
        doubted = usage.used & table.doubted.take(billed.rows)
        for index in np.unique(sets[doubted != 0]).tolist():
            for caveat in table.caveats[index]:
                about = functools.reduce(operator.or_, (mask for _, mask in caveat.rates), 0)
                doubts.append((np.flatnonzero((sets == index) & (doubted & about != 0)), caveat.quality, caveat.note))
    if len(billed.no_step):
        assert usage.stated_step is not None, "a step that isn't there was stated"
        stated = usage.stated_step[billed.no_step]
        doubts += [
            (billed.no_step[stated == step], SUBSTITUTED, f"no step above {step:,} input tokens is known")
            for step in np.unique(stated).tolist()
        ]
    partly = priced & (billed.missing & _FEES != 0)
    if partly.any():
        doubts.append(
            (np.flatnonzero(partly & (billed.missing & bit("web_search") != 0)), PARTIAL, _no_rate("web_searches"))
        )
        by_note: dict[str, list[int]] = {}
        for row, units in billed.unrated_units.items():
            by_note.setdefault(_no_rate(", ".join(units)), []).append(row)
        doubts += [(np.array(rows, dtype=np.int64), PARTIAL, note) for note, rows in by_note.items()]
    for rows, doubt, note in doubts:
        calls = rows[priced[rows]]
        notes.add(calls, note)
        worse = np.array([worst((before, doubt)) for before in range(len(PRICE_QUALITIES))], dtype=np.int8)
        quality[calls] = worse.take(quality[calls])
    return quality, notes


def _no_rate(what: str) -> str:
    return f"no rate for {what}"


def _cards(sets: Int64s, table_size: int) -> tuple[Int32s, Int64s]:
    """Return for each call the position of its rate set among the batch's, -1 if unknown; and the batch's sets."""
    used = np.zeros(table_size, dtype=np.bool_)
    used[sets] = True
    used[UNKNOWN] = False
    position = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    return position.take(sets), np.flatnonzero(used)


def _fits(amounts: Amounts) -> Bools:
    """Return which amounts fit into 64 bits. Those computed in 64 bits do: ``may_overflow`` ruled out the rest."""
    if amounts.dtype != object:
        return np.ones(len(amounts), dtype=np.bool_)
    return np.asarray(amounts <= MAX_PUSD, dtype=np.bool_)


def _if_priced(amounts: Amounts, priced: Bools) -> Int64s:
    if not priced.all():
        amounts = np.where(priced, amounts, 0)
    return amounts.astype(np.int64, copy=False)


def usage_of(calls: pl.DataFrame) -> Usage:
    """Read the counts: ``<bucket>_tokens``, ``web_searches``, and, null where absent, ``gpu_us``, ``units`` and
    ``context_step``.
    """
    columns = {bucket: calls[column].to_numpy() for bucket, column in COLUMN_OF_COUNT.items()}
    counts = {bucket: count for bucket, count in columns.items() if count.any()}
    used = np.zeros(calls.height, dtype=np.int32)
    total_input = np.zeros(calls.height, dtype=np.int64)
    for bucket, count in counts.items():
        used |= (count > 0) * np.int32(bit(bucket))
        if bucket in INPUT_BUCKETS:
            total_input += count
    gpu_us, stated = calls["gpu_us"].cast(pl.Int64), calls["context_step"]
    units: dict[int, dict[str, Decimal]] = {}
    if calls["units"].null_count() < calls.height:
        for row in calls["units"].is_not_null().arg_true().to_list():
            units[row] = {unit: Decimal(quantity) for unit, quantity in json.loads(calls["units"][row]).items()}
    return Usage(
        counts,
        used,
        total_input,
        gpu_us.fill_null(0).to_numpy(),
        gpu_us.is_not_null().to_numpy(),
        units,
        None if stated.null_count() == calls.height else stated.fill_null(-1).to_numpy(),
    )


def bill(table: RateTable, sets: Int64s, usage: Usage) -> Bill:
    """Price each call under its rate set.

    600 plain and 400 cached tokens at $3 and $0.30 per million cost $0.00192.
    """
    rows, no_step = _rows(table, sets, usage)
    missing = usage.used & ~table.rated.take(rows)
    amounts = {bucket: _cost(table, bucket, count, rows) for bucket, count in usage.counts.items()}
    if table.largest["request"]:
        amounts["request"] = _cost(table, "request", np.int64(1), rows)
    if table.largest_gpu_hour:
        missing |= _bill_gpu(table, sets, usage, amounts)
    unit_costs: dict[int, dict[str, int]] = {}
    unrated: dict[int, list[str]] = {}
    if usage.units:
        missing |= _bill_units(table.sets, sets, usage, amounts, unit_costs, unrated)
    total = sum(amounts.values(), start=np.zeros(len(rows), dtype=np.int64))
    return Bill(amounts, total, missing, rows, no_step, unit_costs, unrated)


def _rows(table: RateTable, sets: Int64s, usage: Usage) -> tuple[Int64s, Int64s]:
    """Return the row of the table that prices each call, and the calls whose stated step their rates don't have.

    Without a stated step, or with an unknown one, the call's own input decides.
    """
    rows = table.rows(sets, usage.total_input)
    if usage.stated_step is None:
        return rows, np.zeros(0, dtype=np.int64)
    no_step = [np.zeros(0, dtype=np.int64)]
    stated = np.flatnonzero(usage.stated_step >= 0)
    for index, step in np.unique(np.stack([sets[stated], usage.stated_step[stated]]), axis=1).T.tolist():
        calls = stated[(sets[stated] == index) & (usage.stated_step[stated] == step)]
        found = table.sets[index]
        # "at least 200,000" and "more than 199,999" are the same step
        start = next((start for start in (0, *found.thresholds) if abs(start - step) <= 1), None)
        if start is not None:
            rows[calls] = table.first_row[index] + (0, *found.thresholds).index(start)
        elif index != UNKNOWN and found.source != "prepaid" and found.gpu_hour is None:
            no_step.append(calls)
    return rows, np.concatenate(no_step)


def _cost(table: RateTable, bucket: str, count: Any, rows: Int64s) -> Amounts:
    """Return count times rate, rounded half-even to a pico-dollar."""
    whole: Amounts = count * table.rates[bucket].take(rows)
    if bucket not in table.fractions:
        return whole
    fraction = table.fractions[bucket].take(rows)
    if not fraction.any():
        return whole
    if whole.dtype == object:
        exact = whole * YOCTO_PER_PICO + count * fraction.astype(object)
        return np.array([half_even(int(cost), YOCTO_PER_PICO) for cost in exact], dtype=object)
    # in two parts, as count times fraction would exceed 64 bits: 10^8 tokens times 10^12
    high, low = np.divmod(fraction, _SPLIT)
    carried, low_rest = np.divmod(count * low, _SPLIT)
    cost: Int64s
    cost, high_rest = np.divmod(count * high + carried, _SPLIT)
    cost += whole
    rest = high_rest * _SPLIT + low_rest
    cost += (rest > _HALF) | ((rest == _HALF) & (cost % 2 == 1))
    return cost


def saved_by_cache(table: RateTable, billed: Bill, usage: Usage) -> tuple[Amounts, Int32s]:
    """Return what the cache saved, and the buckets whose rate as plain input is unknown."""
    extra: Amounts = np.zeros(len(billed.rows), dtype=np.int64)
    missing = np.zeros(len(billed.rows), dtype=np.int32)
    rated = table.rated.take(billed.rows)
    for bucket, plain in UNCACHED.items():
        count = usage.counts.get(bucket)
        if count is not None:
            extra = extra + _cost(table, plain, count, billed.rows) - billed.by_bucket[bucket]
            missing |= usage.used & np.where(rated & bit(plain), np.int32(0), np.int32(bit(bucket)))
    return extra, missing


def may_overflow(table: RateTable, usage: Usage) -> bool:
    """Return whether a batch's largest counts at the highest rates could exceed 64 bits."""
    worst_pusd = table.largest["request"]
    for bucket, count in usage.counts.items():
        rate = max(table.largest[bucket], table.largest[UNCACHED.get(bucket, bucket)])
        worst_pusd += int(count.max(initial=0)) * rate
    if table.largest_gpu_hour:
        worst_pusd += int(usage.gpu_us.max(initial=0)) * table.largest_gpu_hour // _GPU_US_PER_HOUR + 1
    if usage.units:
        quantity = max(sum(units.values()) for units in usage.units.values())
        worst_pusd += (int(quantity) + 1 + table.largest_minimum) * table.largest_unit + 1
    return worst_pusd > MAX_PUSD


def gpu_cost_pusd(gpu_us: int, gpu_hour_pusd: int) -> int:
    """Return the cost of GPU time, rounded to the nearest pico-dollar, halves to the even one."""
    return half_even(gpu_us * gpu_hour_pusd, _GPU_US_PER_HOUR)


def _bill_gpu(table: RateTable, sets: Int64s, usage: Usage, amounts: dict[str, Amounts]) -> Int32s:
    """Add GPU time to the amounts of calls billed by it. Returns ``gpu`` as missing where none was reported."""
    billed = table.is_gpu.take(sets)
    if billed.any():
        costs = np.zeros(len(sets), dtype=object)
        for row in np.flatnonzero(billed):
            costs[row] = gpu_cost_pusd(int(usage.gpu_us[row]), table.sets[sets[row]].gpu_hour or 0)
        amounts["gpu"] = costs if usage.is_unbounded else costs.astype(np.int64)
    return np.where(billed & ~usage.has_gpu_time, np.int32(bit("gpu")), np.int32(0))


def _bill_units(
    rate_sets: Sequence[RateSet],
    sets: Int64s,
    usage: Usage,
    amounts: dict[str, Amounts],
    costs: dict[int, dict[str, int]],
    unrated: dict[int, list[str]],
) -> Int32s:
    """Add units to the amounts, and fill in the cost of each, or that it has no rate. Returns those as missing."""
    total = np.zeros(len(sets), dtype=object)
    missing = np.zeros(len(sets), dtype=np.int32)
    for row, quantities in usage.units.items():
        rates = rate_sets[sets[row]]
        costs[row] = {}
        for unit, quantity in quantities.items():
            rate = rates.unit_rate(unit)
            if rate is not None:
                costs[row][unit] = rate.cost_pusd(quantity)
            elif rates.gpu_hour is None:  # the GPU's time pays for all of it
                unrated.setdefault(row, []).append(unit)
                missing[row] = bit("units")
        total[row] = sum(costs[row].values())
    amounts["units"] = total if usage.is_unbounded else total.astype(np.int64)
    return missing
