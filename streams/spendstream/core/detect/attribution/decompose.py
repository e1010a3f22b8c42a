"""A change of spend in factors, level by level: whole = calls of strata × models × tiers × sides × kinds × USD a token.

Each level's value is a sum of products, ``sum(weight * value)``, whose change is split over the weights and the
values by logarithmic means (LMDI-I): exact, and the same in whatever order the factors are taken. A weight that was or
becomes zero (a new model, one that vanished) takes the whole change of its product, as the limit does; the level
above keeps its own weight, so that a model's replacement hides no growth in calls.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from spendstream.core.detect.attribution.cells import SPEND, Cells, Floats, Numbers
from spendstream.schemas.alert import Factor
from spendstream.schemas.buckets import tokens_field
from spendstream.schemas.measures import COLUMN

FACTORS: Final[tuple[Factor, ...]] = (
    "volume",
    "model_mix",
    "tier",
    "tokens_per_call",
    "bucket_mix",
    "cache",
    "price",
)
AT: Final = {factor: at for at, factor in enumerate(FACTORS)}
"""The column of each factor in a matrix of parts."""


class Kind(NamedTuple):
    """Buckets of one side of a call that may stand for each other. The first is what isn't cached."""

    name: str
    side: int
    buckets: tuple[str, ...]
    cached: bool = False


INPUT, OUTPUT, SEARCHES, GPU, REQUESTS = range(5)
"""The sides of a call: what it reads, what it writes, and what is paid by the search, the GPU-second, the call."""

KINDS: Final = (
    Kind("text", INPUT, ("input", "cache_read", "cache_write_5m", "cache_write_1h", "cache_write"), cached=True),
    Kind("audio", INPUT, ("input_audio", "cache_read_audio"), cached=True),
    Kind("image", INPUT, ("input_image", "cache_read_image"), cached=True),
    Kind("video", INPUT, ("input_video",)),
    Kind("text", OUTPUT, ("output", "reasoning")),
    Kind("audio", OUTPUT, ("output_audio",)),
    Kind("image", OUTPUT, ("output_image",)),
    Kind("video", OUTPUT, ("output_video",)),
)

_SIDES: Final = 5
_NEGLIGIBLE: Final = 1e-6
"""Of a cell's cost: what the buckets' costs leave over below this share is rounding."""


class Changed(NamedTuple):
    """A value before and now, and the change in parts. Shapes: n, n, n × len(FACTORS); the parts sum to now - before.

    Values are costs in pico-dollars, per whatever the level counts.
    """

    before: Floats
    now: Floats
    parts: Floats


class Level(NamedTuple):
    """One level's outcome.

    ``own``: the change by each child's weight. ``gain``: what a unit of change in the child's value changes here.
    """

    changed: Changed
    own: Floats
    gain: Floats


@dataclass(frozen=True)
class Decomposition:
    """Where the change comes from, in pico-dollars a minute.

    ``parts``: by factor, in the order of FACTORS. Matrices by place tell which strata, models and cells make up a
    part: ``volume`` by stratum, ``model_mix`` by model, ``tier`` by cell, ``sides`` cells × 5, ``kinds`` kinds × cells,
    ``rates`` cells × FACTORS for the factors of a token's cost.
    """

    parts: Floats
    volume: Floats
    model_mix: Floats
    tier: Floats
    sides: Floats
    kinds: Floats
    rates: Floats


def decompose(cells: Cells) -> Decomposition:
    """Split the change from ``cells.before`` to ``cells.now``. The parts sum to it, but for floating rounding."""
    count = len(cells.tiers)
    calls = [side[:, COLUMN["calls"]] for side in (cells.before, cells.now)]
    kinds, sides = _sides(cells, calls)
    by_cell = np.repeat(np.arange(count), _SIDES)
    per_call = _combined(by_cell, count, _per_call(cells, calls), sides, "tokens_per_call")
    of_model = [_summed(cells.model_of, len(cells.models), each) for each in calls]
    of_stratum = [_summed(cells.stratum_of, len(cells.strata), each) for each in of_model]
    tiers = _combined(
        cells.model_of,
        len(cells.models),
        [_quotient(own, whole[cells.model_of]) for own, whole in zip(calls, of_model, strict=True)],
        per_call.changed,
        "tier",
    )
    models = _combined(
        cells.stratum_of,
        len(cells.strata),
        [_quotient(own, whole[cells.stratum_of]) for own, whole in zip(of_model, of_stratum, strict=True)],
        tiers.changed,
        "model_mix",
    )
    whole = _combined(np.zeros(len(cells.strata), dtype=np.int64), 1, of_stratum, models.changed, "volume")
    # what a level's own part means for the whole is the product of the gains above it
    model_gain = whole.gain[cells.stratum_of]
    cell_gain = (models.gain * model_gain)[cells.model_of]
    side_gain = (tiers.gain * cell_gain)[by_cell]
    kind_gain = (per_call.gain * side_gain).reshape(count, _SIDES)
    return Decomposition(
        parts=whole.changed.parts[0],
        volume=whole.own,
        model_mix=models.own * model_gain,
        tier=tiers.own * cell_gain,
        sides=(per_call.own * side_gain).reshape(count, _SIDES),
        kinds=np.stack([own * kind_gain[:, kind.side] for kind, own in zip(KINDS, kinds, strict=True)]),
        rates=per_call.changed.parts * (tiers.gain * cell_gain)[:, None],
    )


def _per_call(cells: Cells, calls: list[Floats]) -> list[Floats]:
    """Return how much of each side a call has, before and now; cells × sides, flat."""
    found = []
    for sums, called in zip((cells.before, cells.now), calls, strict=True):
        amounts = np.zeros((len(sums), _SIDES))
        for kind in KINDS:
            amounts[:, kind.side] += _tokens(sums, kind).sum(axis=1)
        amounts[:, SEARCHES] = sums[:, COLUMN["web_searches"]]
        amounts[:, GPU] = sums[:, COLUMN["gpu_us"]]
        amounts[:, REQUESTS] = called
        found.append(_quotient(amounts, called[:, None]).ravel())
    return found


def _sides(cells: Cells, calls: list[Floats]) -> tuple[list[Floats], Changed]:
    """Return what a unit of each side costs, cells × sides, flat; and the parts of the kinds' shares."""
    count = len(cells.tiers)
    both = (cells.before, cells.now)
    before, now = np.zeros((2, count, _SIDES))
    parts = np.zeros((count, _SIDES, len(FACTORS)))
    kinds: list[Floats] = []
    for side in (INPUT, OUTPUT):
        own = [kind for kind in KINDS if kind.side == side]
        amounts = [np.stack([_tokens(sums, kind).sum(axis=1) for kind in own]) for sums in both]
        rates = [_usd_per_token(kind, both, calls) for kind in own]
        level = _combined(
            np.tile(np.arange(count), len(own)),
            count,
            [_quotient(amount, amount.sum(axis=0)).ravel() for amount in amounts],
            Changed(*(np.concatenate(each) for each in zip(*rates, strict=True))),
            "bucket_mix",
        )
        kinds += list(level.own.reshape(len(own), count))
        before[:, side], now[:, side], parts[:, side] = level.changed
    for side, bucket, quantity in ((SEARCHES, "web_search", "web_searches"), (GPU, "gpu", "gpu_us")):
        for into, sums in zip((before, now), both, strict=True):
            into[:, side] = _quotient(sums[:, COLUMN[f"cost_{bucket}_pusd"]], sums[:, COLUMN[quantity]])
    for into, sums, called in zip((before, now), both, calls, strict=True):
        into[:, REQUESTS] = _quotient(_paid_by_the_call(sums), called)
    for side in (SEARCHES, GPU, REQUESTS):
        parts[:, side, AT["price"]] = now[:, side] - before[:, side]
    return kinds, Changed(before.ravel(), now.ravel(), parts.reshape(-1, len(FACTORS)))


def _paid_by_the_call(sums: Floats) -> Floats:
    """Return what no token, search or GPU time accounts for: fees per call, and costs of buckets without a quantity."""
    accounted = np.zeros(len(sums))
    quantities = [(f"cost_{bucket}_pusd", tokens_field(bucket)) for kind in KINDS for bucket in kind.buckets]
    for cost, quantity in (*quantities, ("cost_web_search_pusd", "web_searches"), ("cost_gpu_pusd", "gpu_us")):
        accounted += np.where(sums[:, COLUMN[quantity]] > 0, sums[:, COLUMN[cost]], 0.0)
    left = sums[:, SPEND] - accounted
    paid: Floats = np.where(left > _NEGLIGIBLE * sums[:, SPEND], left, 0.0)
    return paid


def _combined(parent_of: Numbers, parents: int, weights: list[Floats], values: Changed, factor: Factor) -> Level:
    """Sum weight × value by parent, and split the change over the weights (the factor) and the values (their parts)."""
    before, now = weights[0] * values.before, weights[1] * values.now
    kept = (weights[0] > 0) & (weights[1] > 0)
    lasting = kept & (values.before > 0) & (values.now > 0)
    ratio = np.divide(weights[1], weights[0], out=np.ones_like(before), where=kept)
    mean = logarithmic_mean(before, now)
    own = np.where(kept, mean * np.log(ratio), now - before)
    gain = np.zeros_like(before)
    np.divide(mean, logarithmic_mean(values.before, values.now), out=gain, where=lasting)
    moved = values.now - values.before
    np.divide(now - before, moved, out=gain, where=kept & ~lasting & (moved != 0))
    parts = values.parts * gain[:, None]
    parts[:, AT[factor]] += own
    summed = np.zeros((parents, len(FACTORS)))
    np.add.at(summed, parent_of, parts)
    changed = Changed(_summed(parent_of, parents, before), _summed(parent_of, parents, now), summed)
    return Level(changed, own, gain)


def logarithmic_mean(a: Floats, b: Floats) -> Floats:
    """Return (b - a) / ln(b / a), elementwise: a where they are equal, 0 where either is 0."""
    positive = (a > 0) & (b > 0)
    low, high = np.where(positive, np.minimum(a, b), 1.0), np.where(positive, np.maximum(a, b), 1.0)
    relative = (high - low) / low
    is_near = relative < 1e-6  # there the quotient would lose its digits
    logs = np.log1p(np.where(is_near, 1.0, relative))
    mean: Floats = np.where(positive, np.where(is_near, low / 2 + high / 2, (high - low) / logs), 0.0)
    return mean


def _summed(parent_of: Numbers, parents: int, values: Floats) -> Floats:
    summed: Floats = np.bincount(parent_of, weights=values, minlength=parents).astype(np.float64)
    return summed


def _quotient(above: Floats, below: Floats) -> Floats:
    """Return above / below, 0 where there is nothing to divide by. ``below`` is broadcast."""
    quotient: Floats = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return quotient


def _tokens(sums: Floats, kind: Kind) -> Floats:
    tokens: Floats = sums[:, [COLUMN[tokens_field(bucket)] for bucket in kind.buckets]]
    return tokens


def _usd_per_token(kind: Kind, both: tuple[Floats, Floats], calls: list[Floats]) -> Changed:
    """Return what a token of a kind costs, by cell. ``both``, ``calls``: the sums and the calls, before and now.

    The split over the buckets and the prices change together: each is valued at the mean of the other, so that their
    parts sum to the change. Of a cached kind, the split that a mere change of length explains goes to the length.
    """
    tokens = _tokens(both[0], kind), _tokens(both[1], kind)
    costs = [sums[:, [COLUMN[f"cost_{bucket}_pusd"] for bucket in kind.buckets]] for sums in both]
    totals = [each.sum(axis=1, keepdims=True) for each in tokens]
    shares = [_quotient(each, total) for each, total in zip(tokens, totals, strict=True)]
    known = [_quotient(cost, token) for cost, token in zip(costs, tokens, strict=True)]
    # A bucket without tokens on one side has no price there: assume that it changed as the others did. Where they were
    # free, it was free; where they became free, it did; how much dearer than nothing a price has become is unknown.
    risen = _price_index(tokens, known)
    was = np.divide(known[1], risen, out=known[1].copy(), where=risen > 0)
    price = [
        np.where(tokens[0] > 0, known[0], was),
        np.where(tokens[1] > 0, known[1], known[0] * np.where(np.isfinite(risen), risen, 1.0)),
    ]
    per_call = [_quotient(total[:, 0], called) for total, called in zip(totals, calls, strict=True)]
    longer = _quotient(per_call[1], per_call[0])
    lengthened = _lengthened(shares[0], shares[1], longer) if kind.cached else shares[0]
    mean_price = (price[0] + price[1]) / 2
    before, now = (shares[0] * price[0]).sum(axis=1), (shares[1] * price[1]).sum(axis=1)
    parts = np.zeros((len(before), len(FACTORS)))
    parts[:, AT["tokens_per_call"]] = ((lengthened - shares[0]) * mean_price).sum(axis=1)
    shift = AT["cache"] if kind.cached else AT["bucket_mix"]
    parts[:, shift] = ((shares[1] - lengthened) * mean_price).sum(axis=1)
    parts[:, AT["price"]] = ((price[1] - price[0]) * (shares[0] + shares[1]) / 2).sum(axis=1)
    return Changed(before, now, parts)


def _price_index(tokens: tuple[Floats, Floats], prices: list[Floats]) -> Floats:
    """Return how the prices of the buckets used on both sides have risen, n × 1: Fisher's index, 1 where none is.

    0 where they all became free, infinite where they all were.
    """
    both = (tokens[0] > 0) & (tokens[1] > 0)
    old, new = (np.where(both, price, 0.0) for price in prices)
    index = np.ones((len(both), 1))
    for weights in tokens:
        was, is_ = ((price * weights).sum(axis=1, keepdims=True) for price in (old, new))
        with np.errstate(divide="ignore"):
            index *= np.divide(is_, was, out=np.ones_like(was), where=(was > 0) | (is_ > 0))
    risen: Floats = np.sqrt(index)
    return risen


def _lengthened(before: Floats, now: Floats, longer: Floats) -> Floats:
    """Return the split over the buckets that the length alone explains. ``longer``: how many times as long a call is.

    A prompt that grows may have its new tokens cached in the old proportion, or not at all: both are just longer
    prompts. Fewer cache hits are those of a call that reads less from cache than it did, for its length: a prompt that
    shrinks may lose its cached tokens in proportion. So the cached tokens of a call are taken as they are now, between
    what they were and what they would be in proportion.
    """
    growth = np.where(longer > 0, longer, 1.0)[:, None]
    in_proportion, as_before = before[:, 1:], before[:, 1:] / growth
    low, high = np.minimum(in_proportion, as_before), np.maximum(in_proportion, as_before)
    cached = np.clip(now[:, 1:], low, high)
    whole = cached.sum(axis=1, keepdims=True)
    cached = cached / np.maximum(whole, 1.0)
    return np.concatenate((1.0 - cached.sum(axis=1, keepdims=True), cached), axis=1)
