"""Realistic usage traffic: seeded and deterministic, with the noise that real producers make.

The same seed and the same slices give the same bytes.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple

import msgspec

from spendstream.demo.calls import RETRIED, Caller, Conversation, Conversations
from spendstream.demo.scenario import FEATURES, RUNAWAY_FACTOR, Incident, Kind, active_kinds
from spendstream.schemas.usage import MAX_TOKENS

FAR_LATE: Final = 0.03
"""Share of the late events that are later than any usual allowance: 10 to 25 minutes."""

MAX_REPEAT_MS: Final = 15 * 60 * 1_000


def lateness_ms(rng: random.Random) -> int:
    """Return how late a late event is, in ms: 2 s and more, half a minute on average; a few 10 to 25 minutes."""
    if rng.random() < FAR_LATE:
        return int(rng.uniform(600_001, 1_500_000))
    return min(590_000, 2_000 + int(rng.expovariate(1 / 28_000)))


def duplicate_delay_ms(rng: random.Random) -> int:
    """Return after how many ms an event is published again: most at once, some within a minute, a few within 15."""
    luck = rng.random()
    if luck < 0.7:
        return int(luck * 400)
    if luck < 0.95:
        return int(rng.uniform(1_000, 60_000))
    return int(rng.uniform(60_000, MAX_REPEAT_MS))


def malformed(event: dict[str, Any], rng: random.Random, encode: Callable[[Any], bytes]) -> bytes:
    """Return an event's record broken in one of the ways that producers break them."""
    broken = event.copy()
    match rng.choice(_FAULTS):
        case "no service":
            del broken["service"]
        case "no time":
            broken["occurred_at"] = None
        case "negative":
            broken["input_tokens"] = -1 - event["input_tokens"]
        case "text for a number":
            broken["input_tokens"] = f"{event['input_tokens']} tokens"
        case "beyond belief":
            broken["input_tokens"] = MAX_TOKENS + 1
        case _:
            value = encode(event)
            return value[: int(len(value) * (0.1 + 0.8 * rng.random()))]
    return encode(broken)


_FAULTS: Final = ("cut off", "cut off", "no service", "no time", "negative", "text for a number", "beyond belief")


DUPLICATES: Final = 0.01
LATE: Final = 0.02
MALFORMED: Final = 0.001
MAX_ATTEMPTS: Final = 4

PublicationKind = Literal["event", "duplicate", "late", "malformed"]
_NO_KINDS: Final[frozenset[Kind]] = frozenset()
_FEATURE_CUM: Final = list(accumulate(feature.weight for feature in FEATURES))


class Publication(NamedTuple):
    """A record to publish. ``late``: an event whose time lies well before its publication."""

    key: bytes | None
    value: bytes
    kind: PublicationKind


@dataclass(frozen=True)
class Expected:
    """The counts of a meter that misses nothing: ``events`` once each, and every other record accounted for."""

    events: int
    duplicates: int
    malformed: int


class Traffic:
    """All services' publications, slice by slice.

    ``rate_per_s`` counts retries and noise too; only a runaway loop comes on top. ``start`` is where the first slice
    may begin. ``published`` and ``expected`` cover what the slices have returned so far; duplicates repeat their event
    within 15 minutes. An incident alters the slices that begin while it is on.
    """

    def __init__(self, seed: int, rate_per_s: float, start: datetime, incidents: Sequence[Incident] = ()) -> None:
        self._rng = random.Random(seed)
        self._caller = Caller(self._rng)
        self._conversations = [Conversations(feature, self._rng) for feature in FEATURES]
        self._by_name = {feature.name: at for at, feature in enumerate(FEATURES)}
        self._incidents = tuple(incidents)
        self._runaways: dict[str, Conversation] = {}
        self._runaways_owed: dict[str, float] = {}
        self._rate_per_s = rate_per_s
        self._owed = 0.0
        self._through_ms = _epoch_ms(start)
        self._retries: list[tuple[int, int, Conversation, int]] = []
        self._duplicates: list[tuple[int, int, Publication]] = []
        self._scheduled = 0
        self._counts: Counter[PublicationKind] = Counter()
        self._encode = msgspec.json.Encoder().encode

    def add_incident(self, incident: Incident) -> None:
        """Add an incident; those that ended before the last slice are forgotten."""
        last = _utc(self._through_ms)
        self._incidents = (*(each for each in self._incidents if each.ends_at > last), incident)

    @property
    def published(self) -> int:
        """Publications so far, of all kinds."""
        return self._counts.total()

    @property
    def expected(self) -> Expected:
        """How many of them are to be metered, dropped as duplicates, and rejected as dead letters."""
        kinds = self._counts
        return Expected(kinds["event"] + kinds["late"], kinds["duplicate"], kinds["malformed"])

    def slice(self, now: datetime, seconds: float) -> list[Publication]:
        """Return the publications of ``[now - seconds, now)``. Slices may leave gaps; they never overlap.

        Raises: ValueError, when the slice is not positive, or begins before the last one ended or before ``start``.
        """
        closed_ms, opened_ms = _epoch_ms(now), _epoch_ms(now - timedelta(seconds=seconds))
        if seconds <= 0 or opened_ms < self._through_ms - 1:
            raise ValueError(f"A slice of {seconds} s until {now} begins before {_utc(self._through_ms)}")
        self._through_ms = closed_ms
        kinds = active_kinds(self._incidents, _utc(opened_ms)) if self._incidents else {}
        self._owed += self._rate_per_s * seconds
        made = self._due(opened_ms, closed_ms, kinds)
        fresh = max(0, int(self._owed) - len(made))
        self._owed -= len(made) + fresh
        chosen = self._rng.choices(range(len(FEATURES)), cum_weights=_FEATURE_CUM, k=fresh)
        for at_ms, feature in zip(_spread_over(opened_ms, closed_ms, fresh), chosen, strict=True):
            on = kinds.get(FEATURES[feature].name, _NO_KINDS) if kinds else _NO_KINDS
            self._publish(made, self._conversations[feature].next(), at_ms, 1, on)
        self._run_away(made, opened_ms, closed_ms, fresh, kinds)
        self._counts.update(publication.kind for publication in made)
        return made

    def _due(self, opened_ms: int, closed_ms: int, kinds: dict[str, frozenset[Kind]]) -> list[Publication]:
        """Return the duplicates and the retries whose time has come."""
        made: list[Publication] = []
        while self._duplicates and self._duplicates[0][0] < closed_ms:
            made.append(heapq.heappop(self._duplicates)[2])
        while self._retries and self._retries[0][0] < closed_ms:
            due_ms, _, conversation, attempt = heapq.heappop(self._retries)
            on = kinds.get(conversation.feature.name, _NO_KINDS)
            self._publish(made, conversation, max(due_ms, opened_ms), attempt, on)
        return made

    def _run_away(
        self,
        made: list[Publication],
        opened_ms: int,
        closed_ms: int,
        usual: int,
        kinds: dict[str, frozenset[Kind]],
    ) -> None:
        """Add the calls of tasks that never end."""
        for name in [name for name, on in kinds.items() if "runaway_loop" in on]:
            at = self._by_name[name]
            if name not in self._runaways:
                self._runaways[name] = self._conversations[at].begin()
            share = FEATURES[at].weight / _FEATURE_CUM[-1]
            owed = self._runaways_owed.get(name, 0.0) + usual * share * (RUNAWAY_FACTOR - 1)
            self._runaways_owed[name] = owed % 1
            for at_ms in _spread_over(opened_ms, closed_ms, int(owed)):
                self._publish(made, self._runaways[name], at_ms, 1, kinds[name])

    def _publish(
        self, made: list[Publication], conversation: Conversation, at_ms: int, attempt: int, kinds: Set[Kind]
    ) -> None:
        event = self._caller.call(conversation, attempt, kinds)
        luck = self._rng.random()
        late = luck < LATE
        occurred_ms = at_ms - lateness_ms(self._rng) if late else at_ms
        # UUID version 7: it sorts by time.
        moment, noise = f"{occurred_ms:012x}", f"{self._rng.getrandbits(76):019x}"
        event["event_id"] = f"{moment[:8]}-{moment[8:]}-7{noise[:3]}-a{noise[3:6]}-{noise[6:18]}"
        event["occurred_at"] = _rfc3339(occurred_ms)
        if conversation.feature.tier == "batch":
            event["requested_at"] = _rfc3339(occurred_ms - 60_000 - int(3_000_000 * self._rng.random()))
        key = event["task_id"].encode()
        if luck > 1 - MALFORMED:
            made.append(Publication(key, malformed(event, self._rng, self._encode), "malformed"))
            return
        publication = Publication(key, self._encode(event), "late" if late else "event")
        made.append(publication)
        if LATE / 2 <= luck < LATE / 2 + DUPLICATES:
            due_ms = at_ms + duplicate_delay_ms(self._rng)
            self._scheduled += 1
            heapq.heappush(self._duplicates, (due_ms, self._scheduled, publication._replace(kind="duplicate")))
        if event.get("status") in RETRIED and attempt < MAX_ATTEMPTS and self._rng.random() < 0.9:
            backoff_ms = int(400 * 2**attempt * (0.5 + self._rng.random()))
            self._scheduled += 1
            heapq.heappush(self._retries, (at_ms + backoff_ms, self._scheduled, conversation, attempt + 1))


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


def _epoch_ms(at: datetime) -> int:
    return (at - _EPOCH) // _MS


def _utc(at_ms: int) -> datetime:
    return _EPOCH + at_ms * _MS


def _spread_over(opened_ms: int, closed_ms: int, count: int) -> list[int]:
    span = closed_ms - opened_ms
    return [opened_ms + span * i // count for i in range(count)]


_written_seconds: dict[int, str] = {}


def _rfc3339(at_ms: int) -> str:
    second, ms = divmod(at_ms, 1_000)
    written = _written_seconds.get(second)
    if written is None:
        if len(_written_seconds) > 10_000:
            _written_seconds.clear()
        written = _written_seconds[second] = _utc(second * 1_000).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{written}.{ms:03d}Z"
