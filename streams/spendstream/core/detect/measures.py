"""What a rule looks at: a measure from the sums of one minute or of many. See ``schemas.measures.WATCHED``."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.schemas.measures import COLUMN, COST, SUMS, WATCHED
from spendstream.schemas.watch import Measure

CALLS: Final = COLUMN["calls"]
SPEND: Final = COLUMN[COST]


def unit(measure: Measure) -> str:
    """Return the unit of a measure's values, such as ``USD/min``."""
    return WATCHED[measure].unit


def is_ratio(measure: Measure) -> bool:
    """Whether a measure is a ratio of sums; else it is a sum per minute."""
    return bool(WATCHED[measure].denominator)


def numerators(measure: Measure, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what a measure sums above the line, exactly. ``sums``: n × len(SUMS); the result: n."""
    return _total(WATCHED[measure].numerator, sums)


def denominators(measure: Measure, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what a ratio sums below the line; 1 for a sum per minute. Shapes as ``numerators``."""
    names = WATCHED[measure].denominator
    return _total(names, sums) if names else np.ones(len(sums), dtype=np.int64)


def by_measure_of_today(sums: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
    """Return a snapshot's sums as n × len(SUMS). ``names``: its columns. A measure that is new since then is 0."""
    found = np.zeros((len(sums), len(SUMS)), dtype=np.int64)
    for column, name in enumerate(names):
        if name in SUMS:
            found[:, COLUMN[name]] = sums[:, column]
    return found


def _total(names: tuple[str, ...], sums: NDArray[np.int64]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = sums[:, [COLUMN[name] for name in names]].sum(axis=1)
    return total
