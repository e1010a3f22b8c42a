"""Why the spend changed: observed against expected, in parts that sum to the whole."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from spendstream.core.detect.attribution.cells import lay_out
from spendstream.core.detect.attribution.contributors import contributors, facts, total
from spendstream.core.detect.attribution.cube import Cube, Floats, to_pusd
from spendstream.core.detect.attribution.decompose import decompose
from spendstream.core.detect.attribution.rates import FACTORS
from spendstream.core.detect.attribution.words import Story, without_history
from spendstream.core.money import PUSD
from spendstream.schemas.alert import Attribution, Factor, Part

_NEGLIGIBLE: Final = Decimal("1e-6")
"""Of the spend: a part below this share is the rounding of what was learned."""


def attribute(
    observed: Cube,
    expected: Cube,
    dimensions: Sequence[str],
    group_by: Sequence[str],
    expected_usd_per_minute: Decimal | float | None = None,
) -> Attribution:
    """Split the change of a group's spend into its causes, and say who drives it.

    ``dimensions``: the names of the cubes' dimension values. ``group_by``: those that are the same for the whole
    group. ``expected_usd_per_minute``: what the spend should be now, where that is known better than from
    ``expected``, as by the hour of the week: the usual calls are then scaled to come to it.

    Of $1.00 a minute against $0.40: longer prompts +$0.50, more calls +$0.15, more cache hits -$0.05. Failed calls
    are calls; calls without a price cost nothing. The parts sum to observed - expected to the last digit.
    """
    now_usd, before_usd = observed.usd_per_minute(), expected.usd_per_minute()
    if expected_usd_per_minute is not None:
        wanted = to_pusd(max(Decimal(expected_usd_per_minute), Decimal(0)))
        if before_usd <= 0 < wanted:
            return _without_history(now_usd, wanted, observed, expected, dimensions, group_by)
        expected = _scaled(expected, float(wanted / before_usd) if before_usd > 0 else 0.0)
        before_usd = wanted
    cells = lay_out(expected, observed, dimensions)
    found = decompose(cells)
    change = now_usd - before_usd
    story = Story(cells, found, tuple(group_by))
    parts = [
        Part(factor=factor, change_usd_per_minute=part, words=story.words(factor, rises=part > 0))
        for factor, part in _ranked(found.parts, change, max(now_usd, before_usd))
    ]
    return Attribution(
        observed_usd_per_minute=now_usd,
        expected_usd_per_minute=before_usd,
        parts=tuple(parts),
        contributors=tuple(contributors(expected, observed, dimensions, group_by)),
        facts=tuple(facts(total(cells.before), total(cells.now))),
    )


def _scaled(cube: Cube, by: float) -> Cube:
    return replace(cube, sums=cube.sums * by)


def _without_history(
    now_usd: Decimal,
    wanted: Decimal,
    observed: Cube,
    expected: Cube,
    dimensions: Sequence[str],
    group_by: Sequence[str],
) -> Attribution:
    """Nothing priced is known of what the expected spend was made of: it can only be more or less of it."""
    change = now_usd - wanted
    part = Part(factor="volume", change_usd_per_minute=change, words=without_history(now_usd, wanted))
    return Attribution(
        observed_usd_per_minute=now_usd,
        expected_usd_per_minute=wanted,
        parts=(part,) if change else (),
        contributors=tuple(contributors(expected, observed, dimensions, group_by)),
    )


def _ranked(parts: Floats, change: Decimal, spend: Decimal) -> list[tuple[Factor, Decimal]]:
    """Return the factors that matter as USD a minute: what moved the spend its way first, what held against it last.

    What rounding left, and parts too small to be more than that, go into the first.
    """
    sign = 1 if change >= 0 else -1
    usd = {factor: to_pusd(Decimal(part) / PUSD) for factor, part in zip(FACTORS, parts.tolist(), strict=True)}
    kept = [(factor, part) for factor, part in usd.items() if abs(part) > _NEGLIGIBLE * spend]
    kept.sort(key=lambda item: -sign * item[1])
    if not kept:
        return [("volume", change)] if change else []
    first, part = kept[0]
    rest = change - sum((part for _, part in kept), Decimal(0))
    return [each for each in ((first, part + rest), *kept[1:]) if each[1]]
