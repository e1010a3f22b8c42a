"""What a token of one kind (text in, audio in, text out, …) costs on average, and why that changed."""

from typing import Final, NamedTuple

import numpy as np

from spendstream.core.detect.attribution.cube import Floats
from spendstream.schemas.alert import Factor

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
    Kind("image", INPUT, ("input_image",)),
    Kind("text", OUTPUT, ("output", "reasoning")),
    Kind("audio", OUTPUT, ("output_audio",)),
    Kind("image", OUTPUT, ("output_image",)),
)


class Changed(NamedTuple):
    """A value before and now, and the change in parts. Shapes: n, n, n × len(FACTORS); the parts sum to now - before.

    Values are costs in pico-dollars, per whatever the level counts.
    """

    before: Floats
    now: Floats
    parts: Floats


def usd_per_token(kind: Kind, tokens: tuple[Floats, Floats], costs: tuple[Floats, Floats], longer: Floats) -> Changed:
    """Return what a token of a kind costs, by cell.

    ``tokens``, ``costs``: before and now, cells × buckets. ``longer``: by how much a call has more of these tokens.

    The split over the buckets and the prices change together: each is valued at the mean of the other, so that their
    parts sum to the change. Of a cached kind, the split that a mere change of length explains goes to the length.
    """
    totals = [each.sum(axis=1, keepdims=True) for each in tokens]
    shares = [_divided(each, total) for each, total in zip(tokens, totals, strict=True)]
    known = [_divided(cost, token) for cost, token in zip(costs, tokens, strict=True)]
    # A bucket without tokens on one side has no price there: assume that it changed as the others did. Where they were
    # free, it was free; where they became free, it did; how much dearer than nothing a price has become is unknown.
    risen = _price_index(tokens, known)
    was = np.divide(known[1], risen, out=known[1].copy(), where=risen > 0)
    price = [
        np.where(tokens[0] > 0, known[0], was),
        np.where(tokens[1] > 0, known[1], known[0] * np.where(np.isfinite(risen), risen, 1.0)),
    ]
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
    """Return the split over the buckets that the length alone explains.

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


def _divided(above: Floats, below: Floats) -> Floats:
    """Return the quotient, 0 where there is nothing to divide by."""
    quotient: Floats = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return quotient
