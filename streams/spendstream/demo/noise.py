"""The noise of real producers: events that come late, come twice, or come broken."""

import random
from collections.abc import Callable
from typing import Any, Final

from spendstream.schemas.usage import MAX_TOKENS

FAR_LATE: Final = 0.03
"""Share of the late events that are later than any usual allowance: 10 to 25 minutes."""

LONGEST_REPEAT_MS: Final = 15 * 60 * 1_000


def lateness_ms(rng: random.Random) -> int:
    """Return how late a late event is, in ms: 2 s and more, half a minute on average; a few 10 to 25 minutes."""
    if rng.random() < FAR_LATE:
        return int(rng.uniform(600_001, 1_500_000))
    return min(590_000, 2_000 + int(rng.expovariate(1 / 28_000)))


def duplicate_delay_ms(rng: random.Random) -> int:
    """Return when an event is published again, in ms: most at once, some within a minute, a few within 15."""
    luck = rng.random()
    if luck < 0.7:
        return int(luck * 400)
    if luck < 0.95:
        return int(rng.uniform(1_000, 60_000))
    return int(rng.uniform(60_000, LONGEST_REPEAT_MS))


def malformed(event: dict[str, Any], rng: random.Random, encode: Callable[[Any], bytes]) -> bytes:
    """Return an event's record broken in one of the ways that producers break them."""
    spoil = rng.choice(_SPOILERS)
    if spoil is None:
        value = encode(event)
        return value[: int(len(value) * (0.1 + 0.8 * rng.random()))]
    broken = event.copy()
    spoil(broken)
    return encode(broken)


def _without_service(event: dict[str, Any]) -> None:
    del event["service"]


def _without_time(event: dict[str, Any]) -> None:
    event["occurred_at"] = None


def _negative(event: dict[str, Any]) -> None:
    event["input_tokens"] = -1 - event["input_tokens"]


def _text_for_number(event: dict[str, Any]) -> None:
    event["input_tokens"] = f"{event['input_tokens']} tokens"


def _beyond_belief(event: dict[str, Any]) -> None:
    event["input_tokens"] = MAX_TOKENS + 1


_SPOILERS: Final = (None, None, _without_service, _without_time, _negative, _text_for_number, _beyond_belief)
