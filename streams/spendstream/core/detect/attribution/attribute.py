"""Why the spend changed: observed against expected, in parts that sum to the whole; and who drives it."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from spendstream.core.detect.attribution.cells import SPEND, Cube, Floats, lay_out, to_pusd
from spendstream.core.detect.attribution.decompose import FACTORS, decompose
from spendstream.core.detect.attribution.explain import Explainer, facts
from spendstream.core.money import PUSD, dollars
from spendstream.schemas.alert import Attribution, Contributor, Factor, Part

_NEGLIGIBLE: Final = Decimal("1e-6")
"""Of the spend: a smaller part is rounding in what was learned."""

MAX_CONTRIBUTORS: Final = 3
"""Of each dimension."""
MIN_SHARE: Final = 0.05
"""Of the change: values with less are no contributors."""


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
            # no priced calls were learned, so the expected spend has no make-up: there is only more or less of it
            change = now_usd - wanted
            words = (
                f"{dollars(now_usd)} a minute where {dollars(wanted)} is usual; what that consists of isn't known yet"
            )
            return Attribution(
                observed_usd_per_minute=now_usd,
                expected_usd_per_minute=wanted,
                parts=(Part(factor="volume", change_usd_per_minute=change, words=words),) if change else (),
                contributors=tuple(contributors(expected, observed, dimensions, group_by)),
            )
        expected = replace(expected, sums=expected.sums * (float(wanted / before_usd) if before_usd > 0 else 0.0))
        before_usd = wanted
    cells = lay_out(expected, observed, dimensions)
    found = decompose(cells)
    change = now_usd - before_usd
    explainer = Explainer(cells, found, tuple(group_by))
    parts = [
        Part(factor=factor, change_usd_per_minute=part, words=explainer.explain(factor, rises=part > 0))
        for factor, part in _ranked(found.parts, change, max(now_usd, before_usd))
    ]
    return Attribution(
        observed_usd_per_minute=now_usd,
        expected_usd_per_minute=before_usd,
        parts=tuple(parts),
        contributors=tuple(contributors(expected, observed, dimensions, group_by)),
        facts=tuple(facts(cells)),
    )


def _ranked(parts: Floats, change: Decimal, spend: Decimal) -> list[tuple[Factor, Decimal]]:
    """Return the factors that matter, in USD a minute: first what moved the spend most, last what offset it.

    Rounding, and parts no larger than that, go into the first.
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
        ranked = sorted(by_value.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0]))[:MAX_CONTRIBUTORS]
        found += [
            Contributor(
                dimension=dimension,
                value=value,
                change_usd_per_minute=to_pusd(Decimal(was_is[1] - was_is[0])),
                observed_usd_per_minute=to_pusd(Decimal(was_is[1])),
                share=round((was_is[1] - was_is[0]) / change, 6),
            )
            for value, was_is in ranked
            if abs(was_is[1] - was_is[0]) >= MIN_SHARE * abs(change)
        ]
    return found


def _by_value(cube: Cube, at: int, spend: Floats) -> dict[str, float]:
    found: dict[str, float] = {}
    for member, usd in zip(cube.members, spend.tolist(), strict=True):
        value = member[at]
        found[value] = found.get(value, 0.0) + usd
    return found
