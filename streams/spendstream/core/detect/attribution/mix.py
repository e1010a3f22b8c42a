"""In words: which model, or which service tier, has taken the calls of which."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from spendstream.core.detect.attribution.cells import Cells
from spendstream.core.detect.attribution.cube import SPEND, Floats
from spendstream.core.detect.attribution.figures import percent
from spendstream.core.detect.attribution.focus import Focus, Sides
from spendstream.schemas.measures import COLUMN

_CALLS: Final = COLUMN["calls"]
_UNPRICED: Final = COLUMN["unpriced_calls"]


class _Choice(NamedTuple):
    """A model or a tier: its part in the change, its share of the calls, its cost per call on the side it had calls."""

    name: str
    part: float
    share: Sides
    cost: float
    is_unpriced: bool

    @property
    def gained(self) -> float:
        return self.share.now - self.share.before


def model_words(cells: Cells, focus: Focus, by_cell: Floats, rises: bool) -> str | None:
    """Return what happened among the models; None where the focus' shares don't show it."""
    choices = _choices(cells, [cells.models[model] for model in cells.model_of.tolist()], focus, by_cell)
    told = _telling(choices, rises)
    if told is None:
        return None
    name, shares = told.name or "no model", f"{percent(told.share.now)} of calls, before {percent(told.share.before)}"
    if told.gained < 0:
        return f"fewer calls to dear models{focus.where}: {name} now {shares}"
    kind = "models without a price" if told.is_unpriced else "dearer models" if rises else "cheaper models"
    return f"{kind}{focus.where}: {name} now {shares}"


def tier_words(cells: Cells, focus: Focus, by_cell: Floats, rises: bool) -> str | None:
    """Return what happened among the service tiers; None where the focus' shares don't show it."""
    told = _telling(_choices(cells, cells.tiers, focus, by_cell), rises)
    if told is None:
        return None
    more = "more" if told.gained > 0 else "fewer"
    shares = f"{percent(told.share.now)} of calls instead of {percent(told.share.before)}"
    return f"{more} {told.name or 'standard'} calls{focus.where}: {shares}"


def _telling(choices: Sequence[_Choice], rises: bool) -> _Choice | None:
    """Return the choice that says most: the one that took over, else the one that was left."""
    if len(choices) < 2:
        return None
    sign = 1 if rises else -1
    gainer = max(choices, key=lambda choice: choice.gained)
    loser = min(choices, key=lambda choice: choice.gained)
    pushing = max(choices, key=lambda choice: sign * choice.part)
    is_apt = gainer.gained > 0 and sign * (gainer.cost - loser.cost) > 0
    told = gainer if is_apt else pushing
    if percent(told.share.now) == percent(told.share.before) or (not is_apt and (told.gained > 0) != rises):
        return None
    return told


def _choices(cells: Cells, names: Sequence[str], focus: Focus, by_cell: Floats) -> list[_Choice]:
    found = []
    all_calls = [side[_CALLS] for side in (focus.before, focus.now)]
    labels = np.array(names)
    for name in dict.fromkeys(np.array(names)[focus.chosen].tolist()):
        chosen = focus.chosen & (labels == name)
        sums = [side[chosen].sum(axis=0) for side in (cells.before, cells.now)]
        shares = [float(own[_CALLS] / calls) if calls > 0 else 0.0 for own, calls in zip(sums, all_calls, strict=True)]
        shown = sums[1] if sums[1][_CALLS] > 0 else sums[0]
        calls = max(float(shown[_CALLS]), 1e-300)
        is_unpriced = bool(shown[_UNPRICED] > calls / 2)
        part = float(by_cell[chosen].sum())
        found.append(_Choice(name, part, Sides(*shares), float(shown[SPEND]) / calls, is_unpriced))
    return found
