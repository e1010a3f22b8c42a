"""The rates that price a call: integers, one row of them for each size of input."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from hashlib import blake2b
from typing import Final, Literal, get_args

from spendstream.schemas.buckets import COST_BUCKETS, TOKEN_BUCKETS
from spendstream.schemas.usage import ServiceTier

Source = Literal["contract", "custom", "genai-prices"]

SERVICE_TIERS: Final[tuple[ServiceTier, ...]] = get_args(ServiceTier)
NO_RATE: Final = -1
PICO_PER_USD: Final = 10**12
TOKENS_PER_MTOK: Final = 10**6
MAX_RATE_PUSD: Final = 10**10
"""Pico-dollars a token of ``spendstream.schemas.rate_card.MAX_RATE_USD_PER_MTOK``."""


class Inexact(ValueError):
    """An amount that isn't a whole number of pico-dollars a unit, or is out of range."""


def pusd_per_token(usd_per_mtok: Decimal) -> int:
    """Return pico-dollars a token: $3 per million tokens is 3,000,000. Raises: Inexact."""
    rate = whole(usd_per_mtok * (PICO_PER_USD // TOKENS_PER_MTOK))
    if not 0 <= rate <= MAX_RATE_PUSD:
        raise Inexact(f"{usd_per_mtok} USD per million tokens is out of range")
    return rate


def whole(pusd: Decimal) -> int:
    """Return an amount of pico-dollars as the integer that it is. Raises: Inexact."""
    rounded = int(pusd)
    if rounded != pusd:
        raise Inexact(f"{pusd} is not a whole number of pico-dollars")
    return rounded


@dataclass(frozen=True, slots=True)
class CardRef:
    """Which rates priced a call. Equal rates of equal origin and date have the same id, on every machine."""

    id: str
    """Hash of the exact rates, their origin and their first day: 16 hexadecimal digits."""
    source: Source
    provider: str
    model: str
    tier_applied: str
    """The service tier whose rates these are. ``standard`` for a call of another tier: no price of it is known."""
    valid_from: datetime | None
    """First instant of the rates; none where the price book gives no date."""
    reference: str
    """Where the rates are published: a URL, a contract and its clause."""


@dataclass(frozen=True)
class RateSet:
    """Dated rates of one card at one service tier. Amounts are integers in pico-dollars (1e-12 USD)."""

    source: Source
    provider: str
    model: str
    tier_applied: str
    valid_from_us: int | None
    reference: str
    thresholds: tuple[int, ...]
    """Total input tokens that must be exceeded for the next step, rising."""
    steps: tuple[tuple[int, ...], ...]
    """Rates a token, in the order of TOKEN_BUCKETS, one row more than there are thresholds; NO_RATE where none."""
    web_search: int = NO_RATE
    request: int = 0
    gpu_hour: int | None = None
    """Of all GPUs together. None: tokens are billed, not GPU time."""
    deployment: str = ""
    priced_as: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The rate that a bucket takes, by bucket: ``{"reasoning": "output"}``."""

    @cached_property
    def ref(self) -> CardRef:
        """The card reference, with the id that is the hash of all that fixes a price."""
        content: list[object] = [
            self.source,
            self.provider,
            self.model,
            self.deployment,
            self.tier_applied,
            self.valid_from_us,
        ]
        content += [self.reference, self.thresholds, self.steps, self.web_search, self.request, self.gpu_hour]
        digest = blake2b(json.dumps(content, ensure_ascii=True).encode(), digest_size=8).hexdigest()
        valid_from = None if self.valid_from_us is None else instant(self.valid_from_us)
        return CardRef(digest, self.source, self.provider, self.model, self.tier_applied, valid_from, self.reference)

    def rate(self, bucket: str, total_input_tokens: int = 0) -> int:
        """Return a token bucket's rate in pico-dollars a token, for a call of this much input; NO_RATE if none."""
        step = sum(total_input_tokens > threshold for threshold in self.thresholds)
        return self.steps[step][TOKEN_BUCKETS.index(bucket)]


Intern = Callable[[RateSet], int]
"""Takes a rate set into the table and returns its index there."""


def instant(epoch_us: int) -> datetime:
    """Return microseconds since 1970 as a UTC time."""
    return datetime.fromtimestamp(epoch_us // 1_000_000, UTC).replace(microsecond=epoch_us % 1_000_000)


def bit(bucket: str) -> int:
    """Return the bit that stands for a cost bucket in a mask."""
    return 1 << COST_BUCKETS.index(bucket)


def mask(buckets: Iterable[str]) -> int:
    """Return the bits of several cost buckets."""
    return sum(bit(bucket) for bucket in buckets)


def in_mask(bits: int) -> tuple[str, ...]:
    """Return the cost buckets of a mask, in their order."""
    return tuple(bucket for bucket in COST_BUCKETS if bits & bit(bucket))
