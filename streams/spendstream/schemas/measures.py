"""The measures of a rollup: each is declared here, once.

Everything else follows from the declaration: the field of the rollup's record and its JSON Schema, the column of the
meter's matrix and how calls fold into it, the column of ``rollups_1m`` and the views, the SQL by which ``reconcile``
computes it from the ledger, and what the detector reads. CONTRIBUTING says how to add one.

Nothing here imports polars or pyarrow: producers and settings import it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from spendstream.schemas.buckets import (
    COST_BUCKETS,
    INPUT_BUCKETS,
    OUTPUT_BUCKETS,
    TOKEN_BUCKETS,
    cost_column,
    tokens_field,
)

if TYPE_CHECKING:
    import polars as pl

Kind = Literal["sum", "max", "min"]
Unit = Literal["count", "ms", "µs", "USD", "time", "offset"]
"""``USD``: integer pico-dollars in the matrix, decimal text on the wire, ``Decimal(38, 12)`` in ClickHouse. ``time``:
µs since 1970 in the matrix, RFC 3339 on the wire, ``DateTime64(6)``. Everything else is one integer everywhere."""

PRICE_QUALITIES: Final = ("", "exact", "substituted", "estimated", "partial")
"""How far ``cost_usd`` can be trusted, by code: exact; at other rates than those asked for, which are unknown; at rates
not known to have applied on that day; without a unit or fee that has no rate. "" for an unpriced call. The worst holds:
partial, then substituted, then estimated."""
EXACT, SUBSTITUTED, ESTIMATED, PARTIAL = range(1, 5)

Fold = Callable[[Any], "pl.Expr"]
"""Given the polars module, returns the expression that folds metered calls into a measure. Columns of a call: those of
``spendstream.core.decode.columns.CALL_SCHEMA``; ``offset``; ``lateness`` (0 on time, 1 late, 2 correction); ``priced``;
``quality``, a code of ``PRICE_QUALITIES``; the costs in pico-dollars, 0 where unpriced; ``gpu_us``, 0 where none was
reported."""


@dataclass(frozen=True)
class RollupMeasure:
    """One measure of a rollup.

    ``name``: its column in the meter's matrix. ``field``: its name on the wire, in ``rollups_1m`` and in the views;
    the same unless the unit differs. ``group``, ``bucket``: on the wire it is not a field but an entry of this map.
    ``fold``: from metered calls. ``ledger``: the same from rows ``c`` of the ledger, as ClickHouse SQL of the type of
    its column. ``is_required``: a record without it is refused; else it is 0 there. ``doc``: for the JSON Schema.
    ``watched_as``: a watch may look at its sum per minute, and an alert calls it this.

    A measure added later can't be required: older records lack it.
    """

    name: str
    kind: Kind
    unit: Unit
    fold: Fold
    ledger: str
    field: str = ""
    doc: str = ""
    is_required: bool = False
    group: Literal["", "tokens", "cost_usd_by_bucket"] = ""
    bucket: str = ""
    watched_as: str = ""

    def __post_init__(self) -> None:
        if not self.field:
            object.__setattr__(self, "field", self.name)


def counted(name: str, doc: str, of_calls: Fold, of_ledger: str, **more: Any) -> RollupMeasure:
    """Declare the number of calls for which a condition holds: ``of_calls`` in polars, ``of_ledger`` in SQL."""
    return RollupMeasure(
        name, "sum", "count", lambda pl: of_calls(pl).sum().cast(pl.Int64), f"toInt64(countIf({of_ledger}))", doc=doc,
        **more,
    )  # fmt: skip


def summed(name: str, doc: str = "", unit: Unit = "count", **more: Any) -> RollupMeasure:
    """Declare the sum of a column that has the measure's name in calls and ledger, and is never null."""
    return RollupMeasure(name, "sum", unit, lambda pl: pl.col(name).sum(), f"sum(c.{name})", doc=doc, **more)


def cost(name: str, field: str, doc: str = "", **more: Any) -> RollupMeasure:
    """Declare a sum of money. Of an unpriced call, ``name`` (pico-dollars) is 0, and the ledger's ``field`` is null."""
    ledger = f"sum(ifNull(c.{field}, toDecimal128(0, 12)))"
    return RollupMeasure(name, "sum", "USD", lambda pl: pl.col(name).sum(), ledger, field, doc, **more)


_TOKENS_OF_LEDGER: Final = " + ".join(f"c.{tokens_field(bucket)}" for bucket in TOKEN_BUCKETS)

COST: Final = "cost_pusd"
TOKENS: Final = tuple(map(tokens_field, TOKEN_BUCKETS))
BUCKET_COSTS: Final = tuple(f"cost_{bucket}_pusd" for bucket in COST_BUCKETS)
COUNTERFACTUALS: Final = ("without_cache_pusd", "at_standard_tier_pusd", "with_requested_model_pusd")

MEASURES: Final[tuple[RollupMeasure, ...]] = (
    RollupMeasure(
        "calls", "sum", "count", lambda pl: pl.len().cast(pl.Int64), "toInt64(count())",
        is_required=True,
    ),
    counted("failed_calls", "Calls whose status is not ok.", lambda pl: pl.col("status") != "ok", "c.status != 'ok'"),
    counted("retries", "Calls with attempt > 1.", lambda pl: pl.col("attempt") > 1, "c.attempt > 1"),
    counted(
        "late_calls", "Counted after their minute had closed.",
        lambda pl: pl.col("lateness") > 0, "c.lateness != 'on_time'",
    ),
    counted(
        "unpriced_calls", "Calls whose cost is unknown.",
        lambda pl: ~pl.col("priced"), "c.cost_usd IS NULL",
    ),
    RollupMeasure(
        "unpriced_tokens", "sum", "count",
        lambda pl: pl.when(pl.col("priced")).then(0).otherwise(pl.sum_horizontal(*TOKENS)).sum(),
        f"sumIf({_TOKENS_OF_LEDGER}, c.cost_usd IS NULL)",
    ),
    summed("web_searches"),
    summed("gpu_us", "GPU time in microseconds.", "µs"),
    RollupMeasure(
        "latency_ms_sum", "sum", "ms", lambda pl: pl.col("latency_ms").sum(), "sum(ifNull(c.latency_ms, 0))",
    ),
    RollupMeasure(
        "latency_ms_max", "max", "ms", lambda pl: pl.col("latency_ms").max().fill_null(0),
        "max(ifNull(c.latency_ms, 0))",
    ),
    counted(
        "latency_calls", "Calls that reported a latency.",
        lambda pl: pl.col("latency_ms").is_not_null(), "c.latency_ms IS NOT NULL",
    ),
    RollupMeasure(
        "first_offset", "min", "offset", lambda pl: pl.col("offset").min(), "min(c.source_offset)",
        doc="The first record absorbed.", is_required=True,
    ),
    RollupMeasure(
        "through_offset", "max", "offset", lambda pl: pl.col("offset").max(), "max(c.source_offset)",
        doc="The last record absorbed: replays at or below it are skipped.", is_required=True,
    ),
    *(summed(tokens_field(bucket), group="tokens", bucket=bucket) for bucket in TOKEN_BUCKETS),
    cost(
        COST, "cost_usd", "Of the priced calls. With unpriced_calls > 0 the true cost is higher.",
        is_required=True,
    ),
    *(
        cost(f"cost_{bucket}_pusd", cost_column(bucket), group="cost_usd_by_bucket", bucket=bucket)
        for bucket in COST_BUCKETS
    ),
    cost(
        "without_cache_pusd", "cost_without_cache_usd", "The same calls, had nothing been cached.", is_required=True
    ),
    cost(
        "at_standard_tier_pusd", "cost_at_standard_tier_usd", "The same calls at the standard service tier.",
        is_required=True,
    ),
    cost(
        "with_requested_model_pusd", "cost_with_requested_model_usd",
        "The same calls, had the requested model served them.", is_required=True,
    ),
    RollupMeasure(
        "first_event_us", "min", "time", lambda pl: pl.col("occurred_at_us").min(), "min(c.occurred_at)",
        "first_event_at", is_required=True,
    ),
    RollupMeasure(
        "last_event_us", "max", "time", lambda pl: pl.col("occurred_at_us").max(), "max(c.occurred_at)",
        "last_event_at", is_required=True,
    ),
    counted(
        "partly_priced_calls", "Calls with a unit or fee that has no rate: the true cost is higher.",
        lambda pl: pl.col("quality") == PARTIAL, "c.price_quality = 'partial'",
    ),
    counted(
        "substituted_calls", "Calls at other rates than those asked for, which are unknown: a tier, region or step.",
        lambda pl: pl.col("quality") == SUBSTITUTED, "c.price_quality = 'substituted'",
    ),
    RollupMeasure(
        "substituted_pusd", "sum", "USD",
        lambda pl: pl.when(pl.col("quality") == SUBSTITUTED).then(pl.col(COST)).otherwise(0).sum(),
        "sumIf(ifNull(c.cost_usd, toDecimal128(0, 12)), c.price_quality = 'substituted')",
        "substituted_usd", "What the substituted calls cost.", watched_as="spend at substituted rates",
    ),
    # New measures go here: the detector's snapshots of an older release then still fit.
)  # fmt: skip
"""In the order of the record's fields, and, within a kind, of the matrix's columns."""


SUMS: Final = tuple(measure.name for measure in MEASURES if measure.kind == "sum")
MAXIMA: Final = tuple(measure.name for measure in MEASURES if measure.kind == "max")
MINIMA: Final = tuple(measure.name for measure in MEASURES if measure.kind == "min")
COLUMN: Final = {name: column for column, name in enumerate((*SUMS, *MAXIMA, *MINIMA))}
"""The matrix: the column of each measure, by its name."""


class WatchedMeasure(NamedTuple):
    """What a rule looks at: ``sum(numerator) / sum(denominator)``, of ``SUMS``; without a denominator it is a sum per
    minute. ``title``: what an alert calls it."""

    numerator: tuple[str, ...]
    denominator: tuple[str, ...]
    unit: str
    title: str

    @property
    def scale(self) -> int:
        """What the numerator is divided by: sums of money are pico-dollars."""
        return 10**12 if self.unit.startswith("USD") else 1


_INPUT: Final = tuple(map(tokens_field, INPUT_BUCKETS))
_OUTPUT: Final = tuple(map(tokens_field, OUTPUT_BUCKETS))
_CACHE_READ: Final = ("cache_read_tokens", "cache_read_audio_tokens", "cache_read_image_tokens")

WATCHED: Final[dict[str, WatchedMeasure]] = {
    "cost": WatchedMeasure((COST,), (), "USD/min", "spend"),
    "calls": WatchedMeasure(("calls",), (), "calls/min", "calls"),
    "tokens": WatchedMeasure(TOKENS, (), "tokens/min", "tokens"),
    "cost_per_call": WatchedMeasure((COST,), ("calls",), "USD/call", "cost per call"),
    "tokens_per_call": WatchedMeasure(TOKENS, ("calls",), "tokens/call", "tokens per call"),
    "input_tokens_per_call": WatchedMeasure(_INPUT, ("calls",), "tokens/call", "input tokens per call"),
    "output_tokens_per_call": WatchedMeasure(_OUTPUT, ("calls",), "tokens/call", "output tokens per call"),
    "reasoning_share": WatchedMeasure(("reasoning_tokens",), _OUTPUT, "share", "reasoning share"),
    "cache_hit_rate": WatchedMeasure(_CACHE_READ, _INPUT, "share", "cache hit rate"),
    "failure_share": WatchedMeasure(("failed_calls",), ("calls",), "share", "failed calls"),
    "retry_share": WatchedMeasure(("retries",), ("calls",), "share", "retried calls"),
    "unpriced_share": WatchedMeasure(("unpriced_calls",), ("calls",), "share", "calls without a price"),
    "partly_priced_share": WatchedMeasure(("partly_priced_calls",), ("calls",), "share", "partly priced calls"),
    "substituted_share": WatchedMeasure(("substituted_calls",), ("calls",), "share", "calls at substituted rates"),
    "latency_ms": WatchedMeasure(("latency_ms_sum",), ("latency_calls",), "ms", "latency"),
    **{
        m.name: WatchedMeasure((m.name,), (), f"{'USD' if m.unit == 'USD' else m.watched_as}/min", m.watched_as)
        for m in MEASURES
        if m.watched_as
    },
}
"""By the name that a watch uses."""
