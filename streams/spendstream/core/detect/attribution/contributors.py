"""Who drives the change, and what there is to say beside the money."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import numpy as np

from spendstream.core.detect.attribution.cube import SPEND, Cube, Floats, to_pusd
from spendstream.core.detect.attribution.figures import amount, percent
from spendstream.core.money import PUSD
from spendstream.schemas.alert import Contributor
from spendstream.schemas.measures import COLUMN

TOP: Final = 3
LEAST_SHARE: Final = 0.05

_FAILURES: Final = 0.05
_RETRIES: Final = 0.1
_UNPRICED: Final = 1.0
"""A minute. Below these, and where they were much the same before, nothing is said."""


def contributors(before: Cube, now: Cube, dimensions: Sequence[str], group_by: Sequence[str]) -> list[Contributor]:
    """Return, of each dimension that the group leaves open, up to three values that changed the spend most.

    Those with less than 5% of the change are left out.
    """
    spends = [cube.rates()[:, SPEND] / PUSD for cube in (before, now)]
    change = float(spends[1].sum() - spends[0].sum())
    if change == 0:
        return []
    found = []
    for at, dimension in enumerate(dimensions):
        if dimension in group_by:
            continue
        was, is_ = (_by_value(cube, at, spend) for cube, spend in zip((before, now), spends, strict=True))
        by_value = {value: (was.get(value, 0.0), is_.get(value, 0.0)) for value in (*was, *is_)}
        ranked = sorted(by_value.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0]))[:TOP]
        found += [
            Contributor(
                dimension=dimension,
                value=value,
                change_usd_per_minute=_usd(was_is[1] - was_is[0]),
                observed_usd_per_minute=_usd(was_is[1]),
                share=round((was_is[1] - was_is[0]) / change, 6),
            )
            for value, was_is in ranked
            if abs(was_is[1] - was_is[0]) >= LEAST_SHARE * abs(change)
        ]
    return found


def _by_value(cube: Cube, at: int, spend: Floats) -> dict[str, float]:
    found: dict[str, float] = {}
    for member, usd in zip(cube.members, spend.tolist(), strict=True):
        value = member[at]
        found[value] = found.get(value, 0.0) + usd
    return found


def facts(before: Floats, now: Floats) -> list[str]:
    """Return what else has grown: failures, retries, calls without a price. Arguments: a minute's sums, in all."""
    said = []
    failing = _shares("failed_calls", before, now)
    if _has_grown(*failing, _FAILURES):
        said.append(f"{percent(failing[1])} of calls fail instead of {percent(failing[0])}")
    retried = _shares("retries", before, now)
    if _has_grown(*retried, _RETRIES):
        said.append(f"{percent(retried[1])} of calls are retries instead of {percent(retried[0])}")
    unpriced = [float(side[COLUMN["unpriced_calls"]]) for side in (before, now)]
    if _has_grown(unpriced[0], unpriced[1], _UNPRICED):
        said.append(f"{amount(unpriced[1])} calls a minute without a price instead of {amount(unpriced[0])}")
    return said


def _has_grown(before: float, now: float, least: float) -> bool:
    return now >= least and now >= 1.5 * before


def _shares(measure: str, before: Floats, now: Floats) -> tuple[float, float]:
    """Return the measure's share of the calls, before and now."""
    calls = COLUMN["calls"]
    was, is_ = (float(side[COLUMN[measure]] / side[calls]) if side[calls] > 0 else 0.0 for side in (before, now))
    return was, is_


def _usd(value: float) -> Decimal:
    return to_pusd(Decimal(value))


def total(rates: Floats) -> Floats:
    """Return the sum of all rows."""
    summed: Floats = np.asarray(rates).sum(axis=0)
    return summed
