"""Each part of a change in a sentence. The numbers are plain sums of the calls, so anyone can look them up."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.attribution.cells import SPEND, Cells, Floats, Numbers
from spendstream.core.detect.attribution.decompose import (
    AT,
    GPU,
    INPUT,
    KINDS,
    OUTPUT,
    REQUESTS,
    SEARCHES,
    Decomposition,
)
from spendstream.schemas.alert import Factor
from spendstream.schemas.buckets import INPUT_BUCKETS, OUTPUT_BUCKETS, TOKEN_BUCKETS, tokens_field
from spendstream.schemas.measures import COLUMN

_CALLS: Final = ("calls",)
_INPUT: Final = tuple(map(tokens_field, INPUT_BUCKETS))
_OUTPUT: Final = tuple(map(tokens_field, OUTPUT_BUCKETS))
_VISIBLE: Final = tuple(name for name in _OUTPUT if name != "reasoning_tokens")
_READ: Final = ("cache_read_tokens", "cache_read_audio_tokens", "cache_read_image_tokens")
_WRITTEN: Final = ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_tokens")

_FEES: Final = (("web_search", "web_searches"), ("gpu", "gpu_us"), ("request", "calls"))
_QUANTITIES: Final = [COLUMN[name] for name in (*map(tokens_field, TOKEN_BUCKETS), *(name for _, name in _FEES))]
_COSTS: Final = [COLUMN[f"cost_{bucket}_pusd"] for bucket in (*TOKEN_BUCKETS, *(bucket for bucket, _ in _FEES))]

_MAIN_SHARE: Final = 0.75
"""Of a part: a single value that holds as much is named."""
_WHOLE_SHARE: Final = 0.85
"""Of the calls: a value that has more of them is the group itself."""
_DIMENSION_ORDER: Final = ("feature", "service", "team", "environment")
_MANY_CALLS: Final = 0.1
"""Of the calls: where the share of failures or retries moved by this much, it belongs to the reason."""
_MANY_UNPRICED: Final = 0.05
_OTHER_LENGTH: Final = 1.3
"""A price that moves as prompts change in length by this much may be a tier of the same rate card."""
_SLIGHT_CHANGE: Final = 0.1
_EVEN: Final = 0.001


def figure(value: float) -> str:
    """Return a count in two or three digits: 18,432 as ``18,400``, 51.2 as ``51``, 3.42 as ``3.4``."""
    if value == 0:
        return "0"
    places = (1 if value < 10 else 2) - math.floor(math.log10(value))
    rounded = round(value, min(places, 0) if value >= 10 else places)
    if rounded == int(rounded):
        return f"{int(rounded):,}"
    return f"{rounded:.{places}f}".rstrip("0")


def percent(share: float) -> str:
    """Return a share: ``62%``; below one percent ``0.4%``."""
    hundredths = 100 * share
    if hundredths == 0 or hundredths >= 0.95:
        return f"{hundredths:,.0f}%"
    return f"{hundredths:.1f}%" if hundredths >= 0.05 else "almost 0%"


class Sides(NamedTuple):
    """Anything before and now."""

    before: float
    now: float

    @property
    def change(self) -> float:
        return self.now - self.before


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

    def per(self, above: Sequence[str], below: Sequence[str] = _CALLS) -> Sides:
        """Return a ratio of sums before and now, 0 where there is nothing below the line; without one, the sums."""
        top, bottom = ([COLUMN[name] for name in names] for names in (above, below))
        found = []
        for side in (self.before, self.now):
            divisor = side[bottom].sum() if below else 1.0
            found.append(float(side[top].sum() / divisor) if divisor > 0 else 0.0)
        return Sides(*found)


@dataclass(frozen=True)
class Template:
    """A sentence, and the ratio that must have moved for it to be true.

    ``headlines``: for a part that raises the spend, and for one that lowers it. ``numbers``: what follows the name of
    the focus, with ``{now}`` and ``{before}``. ``inverse``: the ratio falls where the part raises the spend.
    """

    headlines: tuple[str, str]
    numbers: str
    above: tuple[str, ...]
    below: tuple[str, ...] = _CALLS
    shown: Callable[[float], str] = figure
    scale: float = 1.0
    inverse: bool = False

    def fill(self, focus: Focus, rises: bool) -> str | None:
        """Return the sentence about a focus; None where its numbers don't show it."""
        ratio = focus.per(self.above, self.below)
        before, now = (self.shown(value * self.scale) for value in ratio)
        if (ratio.change > 0) != (rises != self.inverse) or before == now:
            return None
        failing, retried = focus.per(("failed_calls",)), focus.per(("retries",))
        moves_it = abs(failing.change) >= _MANY_CALLS and (failing.change > 0) != rises
        # what calls that fail or repeat add, by placeholder; None where a sentence with it doesn't hold
        notes = {
            "retries": f", {percent(retried.now)} of them retries" if rises and retried.change > _MANY_CALLS else "",
            "failing": f", with {percent(failing.now)} of calls failing" if failing.change > _MANY_CALLS else "",
            "failures": f", {percent(failing.now)} fail instead of {percent(failing.before)}" if moves_it else None,
        }
        if any(f"{{{name}}}" in self.numbers and note is None for name, note in notes.items()):
            return None
        return f"{self.headlines[not rises]}{focus.where}{self.numbers.format(now=now, before=before, **notes)}"


_VOLUME: Final = Template(
    ("more calls", "fewer calls"), ": {now} a minute instead of {before}{retries}", _CALLS, below=()
)
# a call that fails has read and written less, or nothing
_CUT_SHORT: Final = Template(
    ("calls work again", "calls cut short"), "{failures}: {now} tokens a call instead of {before}", (*_INPUT, *_OUTPUT)
)
_PROMPTS: Final = Template(
    ("longer prompts", "shorter prompts"), ": {now} input tokens a call instead of {before}", _INPUT
)
_ANSWERS: Final = Template(
    ("longer answers", "shorter answers"), ": {now} output tokens a call instead of {before}", _VISIBLE
)
_REASONING: Final = Template(
    ("more reasoning", "less reasoning"), ": {now} reasoning tokens a call instead of {before}", ("reasoning_tokens",)
)
_SEARCHES: Final = Template(
    ("more web searches", "fewer web searches"), ": {now} a call instead of {before}", ("web_searches",)
)
_GPU_TIME: Final = Template(
    ("more GPU time", "less GPU time"), ": {now} s a call instead of {before}", ("gpu_us",), scale=1e-6
)
_CACHE: Final = (
    Template(
        ("fewer cache hits", "more cache hits"),
        "{failing}: {now} of input tokens read from cache instead of {before}",
        _READ,
        below=_INPUT,
        shown=percent,
        inverse=True,
    ),
    Template(
        ("more cache writes", "fewer cache writes"),
        ": {now} of input tokens written to it instead of {before}",
        _WRITTEN,
        below=_INPUT,
        shown=percent,
    ),
)


def _bucket_share(name: str, side: int, buckets: Sequence[str]) -> Template:
    return Template(
        (f"more {name}", f"less {name}"),
        f": {{now}} of {('input', 'output')[side]} tokens instead of {{before}}",
        tuple(map(tokens_field, buckets)),
        below=(_INPUT, _OUTPUT)[side],
        shown=percent,
    )


_BUCKET_MIX: Final = (
    *(_bucket_share(f"{kind.name} {('input', 'output')[kind.side]}", kind.side, kind.buckets) for kind in KINDS),
    _bucket_share("reasoning", OUTPUT, ("reasoning",)),
    _bucket_share("visible output", OUTPUT, ("output",)),
)

_OTHERWISE: Final[dict[Factor, str]] = {
    "volume": "a shift to {dearer} calls",
    "model_mix": "a different mix of models, {dearer} per call",
    "tier": "a different mix of service tiers, {dearer} per call",
    "tokens_per_call": "{more} usage per call, weighted by price",
    "bucket_mix": "a different mix of token kinds, {dearer} per token",
    "cache": "the cache saves {less} at this prompt length",
    "price": "price change: {dearer} for the same tokens",
}
"""What to say of a part where no sums show more."""

_FACTS: Final = (
    ("failed_calls", _CALLS, 0.05, percent, "{now} of calls fail instead of {before}"),
    ("retries", _CALLS, 0.1, percent, "{now} of calls are retries instead of {before}"),
    ("unpriced_calls", (), 1.0, figure, "{now} calls a minute without a price instead of {before}"),
)
"""Measure, by what it is divided, the least that is said, how it is shown, and what to say."""

Sentence = Callable[[Focus, bool], str | None]
"""Says what happened, for a focus and whether the part raises the spend; None where the sums don't show it."""


def _output(focus: Focus, rises: bool) -> str | None:
    moved = [focus.per(template.above).change * (1 if rises else -1) for template in (_ANSWERS, _REASONING)]
    return (_REASONING if moved[1] > moved[0] else _ANSWERS).fill(focus, rises)


_PER_CALL: Final[dict[int, Sentence]] = {
    INPUT: _PROMPTS.fill,
    OUTPUT: _output,
    SEARCHES: _SEARCHES.fill,
    GPU: _GPU_TIME.fill,
    REQUESTS: lambda focus, rises: None,
}


@dataclass(frozen=True)
class Explainer:
    """Explains the parts of one change. ``group_by``: the dimensions that are the same for the whole group."""

    cells: Cells
    found: Decomposition
    group_by: tuple[str, ...]

    def explain(self, factor: Factor, rises: bool) -> str:
        """Return what happened. ``rises``: whether this part raised the spend."""
        for by_cell, sentences in self._evidence(factor, rises):
            for focus in _focuses(self.cells, by_cell if rises else -by_cell, self.group_by):
                for sentence in sentences:
                    if said := sentence(focus, rises):
                        return said
        dearer, more, less = ("dearer", "more", "less") if rises else ("cheaper", "less", "more")
        return _OTHERWISE[factor].format(dearer=dearer, more=more, less=less)

    def _evidence(self, factor: Factor, rises: bool) -> Iterator[tuple[Floats, Sequence[Sentence]]]:
        """Yield what a part consists of, by cell, with the sentences to try, the most telling first."""
        cells, found = self.cells, self.found
        match factor:
            case "volume":
                yield _spread(found.volume, cells.stratum_of_cell), (_VOLUME.fill,)
            case "model_mix":
                by_cell = _spread(found.model_mix, cells.model_of)
                yield by_cell, (lambda focus, rises: _model_mix(cells, focus, by_cell, rises),)
            case "tier":
                yield found.tier, (lambda focus, rises: _tier_mix(cells, focus, found.tier, rises),)
            case "price":
                prices = found.rates[:, AT["price"]]
                yield prices, (lambda focus, rises: _price(cells, focus, prices, rises),)
            case "cache":
                yield found.rates[:, AT["cache"]], [template.fill for template in _CACHE]
            case "tokens_per_call":
                sides = found.sides.copy()
                sides[:, INPUT] += found.rates[:, AT["tokens_per_call"]] - sides.sum(axis=1)
                aligned = sides.sum(axis=0) * (1 if rises else -1)
                for side in np.argsort(-aligned).tolist():
                    if aligned[side] > 0:
                        yield sides[:, side], (_CUT_SHORT.fill, _PER_CALL[side])
            case "bucket_mix":
                within_text = found.rates[:, AT["bucket_mix"]] - found.kinds.sum(axis=0)
                parts = [*found.kinds, within_text, within_text]
                for at in sorted(range(len(parts)), key=lambda at: float(parts[at].sum()), reverse=rises):
                    yield parts[at], (_BUCKET_MIX[at].fill,)


def facts(cells: Cells) -> list[str]:
    """Return what else has grown by half or more: failures, retries, calls without a price."""
    everything = _focus(cells, np.ones(len(cells.tiers), dtype=np.bool_), "")
    said = []
    for measure, below, least, shown, text in _FACTS:
        before, now = everything.per((measure,), below)
        if now >= least and now >= 1.5 * before:
            said.append(text.format(now=shown(now), before=shown(before)))
    return said


def _spread(parts: Floats, group_of: Numbers) -> Floats:
    """Return the parts of groups of cells by cell, in equal shares."""
    by_cell: Floats = (parts / np.bincount(group_of, minlength=len(parts)))[group_of]
    return by_cell


def _focuses(cells: Cells, by_cell: Floats, group_by: Sequence[str]) -> Iterator[Focus]:
    """Yield where to look for a part's numbers, the best first: what holds most of it, the whole, the top stratum.

    ``by_cell``: the part's change, by cell.
    """
    leading = list(_leading_values(cells, by_cell, group_by))
    yield from [focus for focus, part, calls in leading if part >= _MAIN_SHARE and calls <= _WHOLE_SHARE][:1]
    yield _focus(cells, np.ones(len(cells.tiers), dtype=np.bool_), "")
    yield from [focus for focus, part, _ in leading if part > 0]


def _leading_values(cells: Cells, by_cell: Floats, group_by: Sequence[str]) -> Iterator[tuple[Focus, float, float]]:
    """Yield each dimension's leading value, with its share of the part and its share of the calls."""
    total = by_cell.sum()
    names = cells.stratum_dimensions
    calls = np.maximum(cells.before[:, COLUMN["calls"]], cells.now[:, COLUMN["calls"]])
    for dimension in sorted(names, key=lambda name: (*_DIMENSION_ORDER, name).index(name)):
        if dimension in group_by:
            continue
        at = names.index(dimension)
        values, number = np.unique(
            [cells.strata[stratum][at] for stratum in cells.stratum_of_cell], return_inverse=True
        )
        if len(values) < 2 or total == 0:
            continue
        shares = np.bincount(number, weights=by_cell) / total
        top = int(shares.argmax())
        chosen = number == top
        focus = _focus(cells, chosen, str(values[top]) or f"no {dimension}")
        yield focus, float(shares[top]), float(calls[chosen].sum() / calls.sum())


def _focus(cells: Cells, chosen: NDArray[np.bool_], name: str) -> Focus:
    return Focus(chosen, name, cells.before[chosen].sum(axis=0), cells.now[chosen].sum(axis=0))


class _Choice(NamedTuple):
    """A model or a tier: its part in the change, its share of the calls, its cost per call on the side it had calls."""

    name: str
    part: float
    share: Sides
    cost: float
    is_unpriced: bool


def _model_mix(cells: Cells, focus: Focus, by_cell: Floats, rises: bool) -> str | None:
    told = _telling_choice(cells, cells.model_names, focus, by_cell, rises)
    if told is None:
        return None
    shares = f"{percent(told.share.now)} of calls, before {percent(told.share.before)}"
    if told.share.change < 0:
        kind = "fewer calls to dear models"
    else:
        kind = "models without a price" if told.is_unpriced else "dearer models" if rises else "cheaper models"
    return f"{kind}{focus.where}: {told.name or 'no model'} now {shares}"


def _tier_mix(cells: Cells, focus: Focus, by_cell: Floats, rises: bool) -> str | None:
    told = _telling_choice(cells, np.array(cells.tiers), focus, by_cell, rises)
    if told is None:
        return None
    shares = f"{percent(told.share.now)} of calls instead of {percent(told.share.before)}"
    return f"{'more' if told.share.change > 0 else 'fewer'} {told.name or 'standard'} calls{focus.where}: {shares}"


def _telling_choice(
    cells: Cells, names: NDArray[np.str_], focus: Focus, by_cell: Floats, rises: bool
) -> _Choice | None:
    """Return the most telling model or tier: the one that took over, else the one that lost its calls.

    ``names``: by cell. None where the shares within the focus don't show it.
    """
    calls, unpriced = COLUMN["calls"], COLUMN["unpriced_calls"]
    choices = []
    for name in dict.fromkeys(names[focus.chosen].tolist()):
        own = _focus(cells, focus.chosen & (names == name), name)
        both = zip((own.before, own.now), (focus.before, focus.now), strict=True)
        share = Sides(*(float(part[calls] / whole[calls]) if whole[calls] > 0 else 0.0 for part, whole in both))
        shown = own.now if own.now[calls] > 0 else own.before
        cost = float(shown[SPEND]) / max(float(shown[calls]), 1e-300)
        part = float(by_cell[own.chosen].sum())
        choices.append(_Choice(name, part, share, cost, bool(shown[unpriced] > shown[calls] / 2)))
    if len(choices) < 2:
        return None
    sign = 1 if rises else -1
    gainer = max(choices, key=lambda choice: choice.share.change)
    loser = min(choices, key=lambda choice: choice.share.change)
    pushing = max(choices, key=lambda choice: sign * choice.part)
    took_over = gainer.share.change > 0 and sign * (gainer.cost - loser.cost) > 0
    told = gainer if took_over else pushing
    if percent(told.share.now) == percent(told.share.before):
        return None
    return told if took_over or (told.share.change > 0) == rises else None


def _price(cells: Cells, focus: Focus, by_cell: Floats, rises: bool) -> str | None:
    """Return which model's tokens cost more or less, and by how much; None where the sums don't show it."""
    names, sign = cells.model_names, 1 if rises else -1
    candidates = dict.fromkeys(names[focus.chosen].tolist())
    name = max(candidates, key=lambda each: sign * float(by_cell[focus.chosen & (names == each)].sum()))
    of_model = _focus(cells, focus.chosen & (names == name), name)
    unpriced = of_model.per(("unpriced_calls",))
    calls = f"{name} calls" if name else "calls"
    shares = f"{percent(unpriced.now)} of {calls} without a price instead of {percent(unpriced.before)}"
    if abs(unpriced.change) > _MANY_UNPRICED and (unpriced.change < 0) == rises:
        return f"prices {'known' if rises else 'missing'}: {shares}"
    times, is_even = _same_tokens(cells, of_model.chosen) or (1.0, True)
    if (times > 1) != rises or round(abs(times - 1), 4) == 0:
        return None
    dearer = f"{percent(abs(times - 1))} {'more' if rises else 'less'} for the same tokens"
    if not cells.has_model:
        return f"price change, or other models: {dearer}"
    # a rate card with tiers makes prompts of other lengths look like other prices
    length = of_model.per(_INPUT)
    follows_length = length.now > _OTHER_LENGTH * length.before or length.before > _OTHER_LENGTH * length.now
    may_be_tier = not is_even and (follows_length or abs(times - 1) < _SLIGHT_CHANGE)
    headline = "price change, or another price tier by prompt length" if may_be_tier else "price change"
    return f"{headline}: {name or 'no model'} costs {dearer}"


def _same_tokens(cells: Cells, chosen: NDArray[np.bool_]) -> tuple[float, bool] | None:
    """Return what the tokens of now cost, in times of what they would have cost before.

    Also whether that is the same for all buckets and strata. None where nothing compares.
    """
    before, now = cells.before[chosen], cells.now[chosen]
    had, has = before[:, _QUANTITIES], now[:, _QUANTITIES]
    both = (had > 0) & (has > 0)
    price = np.divide(before[:, _COSTS], had, out=np.zeros_like(had), where=both)
    was, is_ = (price * has)[both], now[:, _COSTS][both]
    if was.sum() <= 0:
        return None
    times = float(is_.sum() / was.sum())
    # weighted by cost: odd prices of what costs next to nothing don't count
    uneven = np.abs(is_ - times * was).sum() / (times * was.sum()) if times > 0 else 0.0
    return times, bool(uneven < _EVEN)
