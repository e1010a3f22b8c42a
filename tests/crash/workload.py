"""Usage records with everything that goes wrong in them, and the truth that they must come to.

The truth is plain arithmetic over the records as they are made; nothing of the product computes it.
"""

import json
import random
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

RATE_CARDS = """
cards:
  - provider: acme
    model: large
    kind: custom
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 3, cache_read: 0.30, output: 15}}]
  - provider: acme
    model: small
    kind: custom
    rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 0.25, cache_read: 0.025, output: 2}}]
"""
_PUSD = {"large": (3_000_000, 300_000, 15_000_000), "small": (250_000, 25_000, 2_000_000)}
_MALFORMED = [
    b"{broken",
    b"",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"event_id":"not-a-uuid"}',
    b'{"service":' + b"[" * 2000,
    json.dumps({"event_id": str(uuid.UUID(int=7)), "service": "x", "input_tokens": -5}).encode(),
]

Row = tuple[str, str, str]
"""minute (ISO, UTC), service, model."""


@dataclass
class Truth:
    """What must come out. Money in pico-dollars."""

    cost_by_id: dict[str, int | None] = field(default_factory=dict)
    calls: dict[Row, int] = field(default_factory=lambda: defaultdict(int))
    cost: dict[Row, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[Row, int] = field(default_factory=lambda: defaultdict(int))
    duplicates: int = 0
    dead_letters: int = 0


@dataclass(frozen=True)
class Record:
    key: bytes | None
    value: bytes


class Workload:
    """A seeded stream of records, and their truth so far."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.truth = Truth()
        self._sent: list[Record] = []
        self.published = 0
        self.behind_s = 0.0
        """How long ago the calls were made that are published now, but for those that claim the future."""

    def take(self, count: int) -> list[Record]:
        """Make the next records."""
        records = [self._next() for _ in range(count)]
        self.published += count
        return records

    def _next(self) -> Record:
        draw = self._random.random()
        if draw < 0.02:
            self.truth.dead_letters += 1
            return Record(b"bad", self._random.choice(_MALFORMED))
        if draw < 0.025:
            self.truth.dead_letters += 1
            return self._record(self._event(ahead_s=3000))
        if draw < 0.075 and self._sent:
            self.truth.duplicates += 1
            return self._random.choice(self._sent)
        late_s = 0.0
        if draw < 0.15:
            late_s = self._random.uniform(60, 400)
        elif draw < 0.17:
            late_s = self._random.uniform(700, 4000)
        event = self._event(ahead_s=-late_s)
        self._count(event)
        record = self._record(event)
        self._sent.append(record)
        return record

    def _event(self, ahead_s: float) -> dict[str, object]:
        r = self._random
        at = datetime.now(UTC) + timedelta(seconds=ahead_s) - timedelta(seconds=r.uniform(0, 30))
        if ahead_s <= 0:
            at -= timedelta(seconds=self.behind_s)
        event: dict[str, object] = {
            "event_id": str(uuid.UUID(int=r.getrandbits(128), version=4)),
            "occurred_at": at.isoformat(),
            "service": f"service-{r.randrange(6)}",
            "team": r.choice(["search", "support"]),
            "provider": "acme",
            "model_served": r.choice(["large", "small", "small", "unheard-of"]),
            "input_tokens": r.randrange(5000),
            "output_tokens": r.randrange(1000),
            "reasoning_tokens": r.choice([0, 0, r.randrange(4000)]),
        }
        if r.random() < 0.3:
            event["cache_read_tokens"] = r.randrange(8000)
        if r.random() < 0.5:
            event["task_id"] = f"task-{r.randrange(200)}"
        if r.random() < 0.05:
            event["tags"] = {"experiment": "ä-1"}
        return event

    def _record(self, event: dict[str, object]) -> Record:
        key = None if self._random.random() < 0.1 else str(event.get("task_id") or event["event_id"]).encode()
        return Record(key, json.dumps(event).encode())

    def _count(self, event: dict[str, object]) -> None:
        truth = self.truth
        model = str(event["model_served"])
        row = (str(event["occurred_at"])[:16].replace("T", " "), str(event["service"]), model)
        counts = [int(str(event.get(f"{name}_tokens", 0))) for name in ("input", "cache_read", "output", "reasoning")]
        rates = _PUSD.get(model)
        cost = None
        if rates is not None:
            cost = counts[0] * rates[0] + counts[1] * rates[1] + (counts[2] + counts[3]) * rates[2]
            truth.cost[row] += cost
        truth.cost_by_id[str(event["event_id"])] = cost
        truth.calls[row] += 1
        truth.tokens[row] += sum(counts)
