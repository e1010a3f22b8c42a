"""What a rule looks at: a measure from the sums of one minute or of many."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.money import PUSD
from spendstream.core.rollup.measures import COLUMN, COST
from spendstream.schemas.buckets import INPUT_BUCKETS, OUTPUT_BUCKETS, TOKEN_BUCKETS, tokens_field
from spendstream.schemas.watch import Measure

CALLS: Final = COLUMN["calls"]
SPEND: Final = COLUMN[COST]

_INPUT: Final = tuple(map(tokens_field, INPUT_BUCKETS))
_OUTPUT: Final = tuple(map(tokens_field, OUTPUT_BUCKETS))
_TOKENS: Final = tuple(map(tokens_field, TOKEN_BUCKETS))
_CACHE_READ: Final = ("cache_read_tokens", "cache_read_audio_tokens")


class Definition(NamedTuple):
    """``sum(numerator) / sum(denominator) / scale``; without a denominator it is a sum per minute."""

    numerator: tuple[str, ...]
    denominator: tuple[str, ...]
    scale: float
    unit: str


DEFINITIONS: Final[dict[Measure, Definition]] = {
    "cost": Definition((COST,), (), PUSD, "USD/min"),
    "calls": Definition(("calls",), (), 1, "calls/min"),
    "tokens": Definition(_TOKENS, (), 1, "tokens/min"),
    "cost_per_call": Definition((COST,), ("calls",), PUSD, "USD/call"),
    "tokens_per_call": Definition(_TOKENS, ("calls",), 1, "tokens/call"),
    "input_tokens_per_call": Definition(_INPUT, ("calls",), 1, "tokens/call"),
    "output_tokens_per_call": Definition(_OUTPUT, ("calls",), 1, "tokens/call"),
    "reasoning_share": Definition(("reasoning_tokens",), _OUTPUT, 1, "share"),
    "cache_hit_rate": Definition(_CACHE_READ, _INPUT, 1, "share"),
    "failure_share": Definition(("failed_calls",), ("calls",), 1, "share"),
    "retry_share": Definition(("retries",), ("calls",), 1, "share"),
    "unpriced_share": Definition(("unpriced_calls",), ("calls",), 1, "share"),
    "latency_ms": Definition(("latency_ms_sum",), ("latency_calls",), 1, "ms"),
}


def unit(measure: Measure) -> str:
    """Return the unit of a measure's values, such as ``USD/min``."""
    return DEFINITIONS[measure].unit


def is_ratio(measure: Measure) -> bool:
    """Whether a measure is a ratio of sums; else it is a sum per minute."""
    return bool(DEFINITIONS[measure].denominator)


def numerators(measure: Measure, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what a measure sums above the line, exactly. ``sums``: n × len(SUMS); the result: n."""
    return _total(DEFINITIONS[measure].numerator, sums)


def denominators(measure: Measure, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what a ratio sums below the line; 1 for a sum per minute. Shapes as ``numerators``."""
    names = DEFINITIONS[measure].denominator
    return _total(names, sums) if names else np.ones(len(sums), dtype=np.int64)


def _total(names: tuple[str, ...], sums: NDArray[np.int64]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = sums[:, [COLUMN[name] for name in names]].sum(axis=1)
    return total
