"""What pricing a batch yields: columns, one element a call."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from spendstream.core.pricing.rate_set import CardRef, in_mask
from spendstream.core.pricing.table import Int32s
from spendstream.core.pricing.timeline import Int64s


class Unpriced(IntEnum):
    """Why a call has no price."""

    PRICED = 0
    UNKNOWN_MODEL = 1
    """No card prices the model, or none yet at that time."""
    NO_RATE = 2
    """The call uses a bucket that its card has no rate for: anything less than the whole cost would be a lie."""
    TOO_LARGE = 3
    """The cost exceeds 9.2 million USD, which 64 bits of pico-dollars don't hold: a broken count."""


@dataclass(frozen=True, slots=True)
class PricedColumns:
    """Costs of a batch in integer pico-dollars (1e-12 USD), and what priced them. Arrays have one element a call.

    An unpriced call has 0 in all amounts; ``priced`` tells it from a call that was free.
    """

    total_pusd: Int64s
    priced: npt.NDArray[np.bool_]
    by_bucket: dict[str, Int64s]
    """By cost bucket, summing to the total. A bucket that no call uses is absent."""
    card: Int32s
    """Index into ``cards``; -1 where the model is unknown. A call whose card lacks a rate has a card and no price."""
    cards: tuple[CardRef, ...]
    unpriced_reason: npt.NDArray[np.int8]
    """An ``Unpriced``."""
    tier_substituted: npt.NDArray[np.bool_]
    """The call's service tier has no known price, so the standard rates were taken."""
    without_cache_pusd: Int64s
    """The same calls, had cache reads and writes been plain input."""
    at_standard_tier_pusd: Int64s
    with_requested_model_pusd: Int64s
    """The same calls, had the requested model served them. Like the others, the total itself where nothing is known."""
    missing: Int32s
    """Buckets used without a rate, as a mask: see ``missing_buckets``."""

    def missing_buckets(self, call: int) -> tuple[str, ...]:
        """Return the buckets that a call uses and its card has no rate for; ``gpu`` where no GPU time was reported."""
        return in_mask(int(self.missing[call]))
