"""Each part of a change in words. The numbers are plain sums of the calls, so that anybody can look them up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np

from spendstream.core.detect.attribution.cells import Cells
from spendstream.core.detect.attribution.cube import Floats
from spendstream.core.detect.attribution.decompose import Decomposition
from spendstream.core.detect.attribution.figures import amount, percent
from spendstream.core.detect.attribution.focus import Focus, Sides, focuses, ratio
from spendstream.core.detect.attribution.mix import model_words, tier_words
from spendstream.core.detect.attribution.price import price_words
from spendstream.core.detect.attribution.rates import AT, GPU, INPUT, KINDS, OUTPUT, SEARCHES
from spendstream.core.money import dollars
from spendstream.schemas.alert import Factor
from spendstream.schemas.buckets import INPUT_BUCKETS, OUTPUT_BUCKETS, tokens_field
from spendstream.schemas.measures import COLUMN

_INPUT: Final = tuple(map(tokens_field, INPUT_BUCKETS))
_OUTPUT: Final = tuple(map(tokens_field, OUTPUT_BUCKETS))
_VISIBLE: Final = tuple(name for name in _OUTPUT if name != "reasoning_tokens")
_READ: Final = ("cache_read_tokens", "cache_read_audio_tokens")
_WRITTEN: Final = ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_tokens")
_CALLS: Final = ("calls",)
_MANY: Final = 0.1
"""Of the calls: where the share of failures or retries moved by so much, it belongs to the reason."""


@dataclass(frozen=True)
class Story:
    """Tells the parts of one change."""

    cells: Cells
    found: Decomposition
    group_by: tuple[str, ...]

    def words(self, factor: Factor, rises: bool) -> str:
        """Return what happened. ``rises``: whether this part made the spend greater."""
        tell: dict[Factor, Callable[[bool], str]] = {
            "volume": self._volume,
            "model_mix": self._model_mix,
            "tier": self._tier,
            "tokens_per_call": self._per_call,
            "bucket_mix": self._bucket_mix,
            "cache": self._cache,
            "price": self._price,
        }
        return tell[factor](rises)

    def _focuses(self, by_cell: Floats, rises: bool) -> Iterator[Focus]:
        return focuses(self.cells, by_cell if rises else -by_cell, self.group_by)

    def _volume(self, rises: bool) -> str:
        stratum_of = self.cells.stratum_of_cell
        by_cell = (self.found.volume / np.bincount(stratum_of, minlength=len(self.found.volume)))[stratum_of]
        for focus in self._focuses(by_cell, rises):
            before, now = (float(side[COLUMN["calls"]]) for side in (focus.before, focus.now))
            if amount(before) == amount(now):
                continue
            if now > before and rises:
                retried = ratio(focus, ("retries",), _CALLS)
                tail = f", {percent(retried.now)} of them retries" if retried.now > retried.before + _MANY else ""
                return f"more calls{focus.where}: {amount(now)} a minute instead of {amount(before)}{tail}"
            if now < before and not rises:
                return f"fewer calls{focus.where}: {amount(now)} a minute instead of {amount(before)}"
        return f"more calls of the {'dearer' if rises else 'cheaper'} kind"

    def _model_mix(self, rises: bool) -> str:
        own, model_of = self.found.model_mix, self.cells.model_of
        by_cell = (own / np.bincount(model_of, minlength=len(own)))[model_of]
        for focus in self._focuses(by_cell, rises):
            if said := model_words(self.cells, focus, by_cell, rises):
                return said
        return f"another mix of models, {'dearer' if rises else 'cheaper'} by the call"

    def _tier(self, rises: bool) -> str:
        for focus in self._focuses(self.found.tier, rises):
            if said := tier_words(self.cells, focus, self.found.tier, rises):
                return said
        return f"another mix of service tiers, {'dearer' if rises else 'cheaper'} by the call"

    def _price(self, rises: bool) -> str:
        by_cell = self.found.rates[:, AT["price"]]
        for focus in self._focuses(by_cell, rises):
            if said := price_words(self.cells, focus, by_cell, rises):
                return said
        return f"price change: {'dearer' if rises else 'cheaper'} for the same tokens"

    def _per_call(self, rises: bool) -> str:
        sides = self.found.sides.copy()
        sides[:, INPUT] += self.found.rates[:, AT["tokens_per_call"]] - sides.sum(axis=1)
        aligned = sides if rises else -sides
        for side in np.argsort(-aligned.sum(axis=0)).tolist():
            if aligned[:, side].sum() <= 0:
                break
            for focus in self._focuses(sides[:, side], rises):
                if said := _per_call_words(side, focus, rises):
                    return said
        return f"{'more' if rises else 'less'} used by the call, weighed by its price"

    def _cache(self, rises: bool) -> str:
        for focus in self._focuses(self.found.rates[:, AT["cache"]], rises):
            read, written = ratio(focus, _READ, _INPUT), ratio(focus, _WRITTEN, _INPUT)
            failing = ratio(focus, ("failed_calls",), _CALLS)
            fail = f", with {percent(failing.now)} of calls failing" if failing.now > failing.before + _MANY else ""
            if _moves(read, not rises):
                hits = f"{'fewer' if rises else 'more'} cache hits{focus.where}{fail}"
                return f"{hits}: {_of_input(read, 'read from cache')}"
            if _moves(written, rises):
                return (
                    f"{'more' if rises else 'fewer'} cache writes{focus.where}: {_of_input(written, 'written to it')}"
                )
        return f"the cache saves {'less' if rises else 'more'}, for prompts of that length"

    def _bucket_mix(self, rises: bool) -> str:
        kinds = self.found.kinds
        shifts = [(f"{kind.name} {('input', 'output')[kind.side]}", kind.buckets, kind.side) for kind in KINDS]
        shifts += [("reasoning", ("reasoning",), OUTPUT), ("visible output", ("output",), OUTPUT)]
        within_text = self.found.rates[:, AT["bucket_mix"]] - kinds.sum(axis=0)
        parts = [*kinds, within_text, within_text]
        order = sorted(range(len(parts)), key=lambda at: float(parts[at].sum()), reverse=rises)
        for at in order:
            name, buckets, side = shifts[at]
            for focus in self._focuses(parts[at], rises):
                share = ratio(focus, tuple(map(tokens_field, buckets)), (_INPUT, _OUTPUT)[side])
                # of two kinds that change places, the one that grows says more
                if share.rises == rises and _moves(share, share.rises):
                    what = f"{'more' if share.rises else 'less'} {name}{focus.where}"
                    shares = f"{percent(share.now)} of {('input', 'output')[side]} tokens"
                    return f"{what}: {shares} instead of {percent(share.before)}"
        return f"another mix of token kinds, {'dearer' if rises else 'cheaper'} by the token"


def _per_call_words(side: int, focus: Focus, rises: bool) -> str | None:
    if said := _failure_words(focus, rises):
        return said
    if side == INPUT:
        headline = f"{'longer' if rises else 'shorter'} prompts{focus.where}"
        return _a_call(ratio(focus, _INPUT, _CALLS), rises, headline, " input tokens")
    if side == OUTPUT:
        return _answer_words(focus, rises)
    more = "more" if rises else "fewer"
    if side == SEARCHES:
        return _a_call(ratio(focus, ("web_searches",), _CALLS), rises, f"{more} web searches{focus.where}", "")
    if side == GPU:
        busy = ratio(focus, ("gpu_us",), _CALLS)
        seconds = Sides(busy.before / 1e6, busy.now / 1e6)
        return _a_call(seconds, rises, f"{'more' if rises else 'less'} GPU time{focus.where}", " s")
    return None


def _failure_words(focus: Focus, rises: bool) -> str | None:
    """Return what failures explain: a call that fails has read and written less, or nothing."""
    failing = ratio(focus, ("failed_calls",), _CALLS)
    if abs(failing.now - failing.before) < _MANY or failing.rises == rises:
        return None
    headline = f"{'calls work again' if rises else 'calls cut short'}{focus.where}"
    shares = f"{percent(failing.now)} fail instead of {percent(failing.before)}"
    return _a_call(ratio(focus, (*_INPUT, *_OUTPUT), _CALLS), rises, f"{headline}, {shares}", " tokens")


def _answer_words(focus: Focus, rises: bool) -> str | None:
    visible, reasoning = ratio(focus, _VISIBLE, _CALLS), ratio(focus, ("reasoning_tokens",), _CALLS)
    sign = 1 if rises else -1
    if sign * (reasoning.now - reasoning.before) > sign * (visible.now - visible.before):
        headline = f"{'more' if rises else 'less'} reasoning{focus.where}"
        return _a_call(reasoning, rises, headline, " reasoning tokens")
    return _a_call(visible, rises, f"{'longer' if rises else 'shorter'} answers{focus.where}", " output tokens")


def _a_call(used: Sides, rises: bool, headline: str, unit: str) -> str | None:
    if used.rises != rises or amount(used.now) == amount(used.before):
        return None
    return f"{headline}: {amount(used.now)}{unit} a call instead of {amount(used.before)}"


def _moves(share: Sides, upwards: bool) -> bool:
    return share.rises == upwards and percent(share.now) != percent(share.before)


def _of_input(share: Sides, how: str) -> str:
    return f"{percent(share.now)} of input tokens {how} instead of {percent(share.before)}"


def without_history(now: Decimal, expected: Decimal) -> str:
    """Return what can be said where nothing is known of what the expected spend is made of."""
    return f"{dollars(now)} a minute where {dollars(expected)} is usual; of what, isn't known yet"
