"""In words: how much more, or less, the same tokens cost."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.attribution.cells import Cells
from spendstream.core.detect.attribution.cube import Floats
from spendstream.core.detect.attribution.figures import percent
from spendstream.core.detect.attribution.focus import Focus, Sides, ratio
from spendstream.schemas.buckets import INPUT_BUCKETS, TOKEN_BUCKETS, cost_column, tokens_field
from spendstream.schemas.measures import COLUMN

_FEES: Final = (("web_search", "web_searches"), ("gpu", "gpu_us"), ("request", "calls"))
_QUANTITIES: Final = [COLUMN[name] for name in (*map(tokens_field, TOKEN_BUCKETS), *(name for _, name in _FEES))]
_COSTS: Final = [
    COLUMN[cost_column(bucket).removesuffix("_usd") + "_pusd"]
    for bucket in (*TOKEN_BUCKETS, *(bucket for bucket, _ in _FEES))
]
_INPUT: Final = tuple(map(tokens_field, INPUT_BUCKETS))
_MANY: Final = 0.05
_LONGER: Final = 1.3
"""A price that moves as prompts change in length by this much may be a tier of the same rate card."""
_SLIGHT: Final = 0.1
_EVEN: Final = 0.001


class _Compared(NamedTuple):
    """What tokens cost, in times of before; and whether that is the same for all buckets and strata."""

    times: float
    is_even: bool


def price_words(cells: Cells, focus: Focus, by_cell: Floats, rises: bool) -> str | None:
    """Return which model's tokens cost more or less, and by how much; None where the sums don't show it."""
    names = np.array([cells.models[model] for model in cells.model_of.tolist()])
    sign = 1 if rises else -1
    candidates = dict.fromkeys(names[focus.chosen].tolist())
    name = max(candidates, key=lambda each: sign * float(by_cell[focus.chosen & (names == each)].sum()))
    chosen = focus.chosen & (names == name)
    of_model = Focus(chosen, name, cells.before[chosen].sum(axis=0), cells.now[chosen].sum(axis=0))
    unpriced = ratio(of_model, ("unpriced_calls",), ("calls",))
    calls = f"{name} calls" if name else "calls"
    shares = f"{percent(unpriced.now)} of {calls} without a price instead of {percent(unpriced.before)}"
    if not rises and unpriced.now > unpriced.before + _MANY:
        return f"prices missing: {shares}"
    if rises and unpriced.now < unpriced.before - _MANY:
        return f"prices known: {shares}"
    compared = _same_tokens(cells, chosen)
    if compared is None or (compared.times > 1) != rises or round(abs(compared.times - 1), 4) == 0:
        return None
    dearer = f"{percent(abs(compared.times - 1))} {'more' if rises else 'less'} for the same tokens"
    if not cells.has_model:
        return f"price change, or other models: {dearer}"
    prompts = ratio(of_model, _INPUT, ("calls",))
    return f"{_headline(compared, prompts)}: {name or 'no model'} costs {dearer}"


def _headline(compared: _Compared, prompts: Sides) -> str:
    """Return what it may have been. A rate card with tiers makes prompts of other lengths look like other prices."""
    follows_length = prompts.now > _LONGER * prompts.before or prompts.before > _LONGER * prompts.now
    is_slight = abs(compared.times - 1) < _SLIGHT
    if compared.is_even or not (follows_length or is_slight):
        return "price change"
    return "price change, or another price tier by prompt length"


def _same_tokens(cells: Cells, chosen: NDArray[np.bool_]) -> _Compared | None:
    """Return what the tokens of now cost against what they would have cost before; None where nothing compares."""
    before, now = cells.before[chosen], cells.now[chosen]
    had, has = before[:, _QUANTITIES], now[:, _QUANTITIES]
    both = (had > 0) & (has > 0)
    price = np.divide(before[:, _COSTS], had, out=np.zeros_like(had), where=both)
    was, is_ = (price * has)[both], now[:, _COSTS][both]
    if was.sum() <= 0:
        return None
    times = float(is_.sum() / was.sum())
    # weighed by cost: what costs next to nothing may be odd
    uneven = np.abs(is_ - times * was).sum() / (times * was.sum()) if times > 0 else 0.0
    return _Compared(times, bool(uneven < _EVEN))
