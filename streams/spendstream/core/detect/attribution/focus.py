"""Where a part of the change lies: in all of the group, or in one feature, service or model of it."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.attribution.cells import Cells
from spendstream.core.detect.attribution.cube import Floats
from spendstream.schemas.measures import COLUMN

_MOST: Final = 0.75
"""Of a part: a single value with so much of it is named."""
_ALL: Final = 0.85
"""Of the calls: a value with so many of them is the group itself."""
_ORDER: Final = ("feature", "service", "team", "environment")


class Focus(NamedTuple):
    """Some of the cells, what to call them, and their sums before and now."""

    chosen: NDArray[np.bool_]
    name: str
    before: Floats
    now: Floats

    @property
    def where(self) -> str:
        """As in "more calls in code_agent"; empty for the whole group."""
        return f" in {self.name}" if self.name else ""


class Sides(NamedTuple):
    """Anything before and now."""

    before: float
    now: float

    @property
    def rises(self) -> bool:
        return self.now > self.before


def whole(cells: Cells) -> Focus:
    """Return the focus on everything."""
    return _on(cells, np.ones(len(cells.tiers), dtype=np.bool_), "")


def focuses(cells: Cells, by_cell: Floats, group_by: Sequence[str]) -> Iterator[Focus]:
    """Yield where to look for a part's numbers, the best first: what holds most of it, the whole, the top stratum.

    ``by_cell``: the part's change, by cell.
    """
    for value, chosen, part, calls in _by_value(cells, by_cell, group_by):
        if part >= _MOST and calls <= _ALL:
            yield _on(cells, chosen, value)
            break
    yield whole(cells)
    for value, chosen, part, _ in _by_value(cells, by_cell, group_by):
        if part > 0:
            yield _on(cells, chosen, value)


def _by_value(
    cells: Cells, by_cell: Floats, group_by: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.bool_], float, float]]:
    """Yield each dimension's leading value: its name, its cells, its share of the part, its share of the calls."""
    total = by_cell.sum()
    names = cells.stratum_dimensions
    calls = np.maximum(cells.before[:, COLUMN["calls"]], cells.now[:, COLUMN["calls"]])
    stratum_of = cells.stratum_of_cell
    for dimension in sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)):
        if dimension in group_by:
            continue
        at = names.index(dimension)
        values, number = np.unique([cells.strata[stratum][at] for stratum in stratum_of], return_inverse=True)
        if len(values) < 2 or total == 0:
            continue
        shares = np.bincount(number, weights=by_cell) / total
        top = int(shares.argmax())
        chosen = number == top
        yield (
            str(values[top]) or f"no {dimension}",
            chosen,
            float(shares[top]),
            float(calls[chosen].sum() / calls.sum()),
        )


def _on(cells: Cells, chosen: NDArray[np.bool_], name: str) -> Focus:
    return Focus(chosen, name, cells.before[chosen].sum(axis=0), cells.now[chosen].sum(axis=0))


def ratio(focus: Focus, above: Sequence[str], below: Sequence[str]) -> Sides:
    """Return a ratio of sums before and now, 0 where there is nothing below the line."""
    top, bottom = ([COLUMN[name] for name in names] for names in (above, below))
    was, is_ = (
        float(side[top].sum() / side[bottom].sum()) if side[bottom].sum() > 0 else 0.0
        for side in (focus.before, focus.now)
    )
    return Sides(was, is_)
