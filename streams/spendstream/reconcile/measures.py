"""What a rollup's columns are, given the calls of the ledger."""

from typing import Final

from spendstream.core.aggregates import ALONE, CORRECTION_BLOCK_OFFSETS, SIZES, TIERS
from spendstream.core.money import usd_text
from spendstream.schemas.measures import MEASURES
from spendstream.schemas.rollup import ON_TIME

SUMS: Final = {measure.field: measure.ledger for measure in MEASURES if measure.kind == "sum"}
"""Measures that add up: the column of ``rollups_1m``, and its value over rows ``c`` of the ledger."""
MAXIMA: Final = {measure.field: measure.ledger for measure in MEASURES if measure.kind == "max"}
MINIMA: Final = {measure.field: measure.ledger for measure in MEASURES if measure.kind == "min"}
COSTS: Final = tuple(measure.field for measure in MEASURES if measure.unit == "USD")

CELL: Final = ("source_log", "source_partition", "minute")
"""What one partition of one life of the usage topic contributed to one minute."""

MINUTE: Final = "toDateTime(toStartOfMinute(c.occurred_at), 'UTC')"
_NO_USD: Final = "toDecimal128(0, 12)"
_WHOLE_COSTS: Final = [measure.field for measure in MEASURES if measure.unit == "USD" and measure.name in SIZES]
_LARGEST_USD: Final = f"greatest({', '.join(f'ifNull(c.{name}, {_NO_USD})' for name in _WHOLE_COSTS)})"
_TIER: Final = " + ".join(
    f"({_LARGEST_USD} >= toDecimal128('{usd_text(tier.below)}', 12) OR c.gpu_us >= {tier.below})" for tier in TIERS[:-1]
)
_WIDTH: Final = f"transform(toInt64({_TIER}), {list(range(len(TIERS)))}, {[tier.offsets for tier in TIERS]})"
_ON_TIME: Final = f"toInt64({ON_TIME}) - ({len(TIERS)} * intDiv(c.source_offset, {_WIDTH}) + ({_TIER}))"
BLOCK: Final = (
    f"if(c.lateness = 'correction' AND ({_TIER}) < {ALONE}, "
    f"intDiv(c.source_offset, {CORRECTION_BLOCK_OFFSETS}), {_ON_TIME})"
)
"""A call's ``correction_block``, as the meter chose it: see ``spendstream.core.aggregates``."""
