"""Records that no service should send, each with the reason its dead letter must give; and good ones among them."""

import json
import random
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.usage import MAX_TOKENS

MAX_EVENT_BYTES: Final = 1_000_000
MAX_RECORD_BYTES: Final = 1_048_588 - 100
"""What a topic with Kafka's default settings takes, less the frame of a batch and its record."""

_ORIGIN_1970_MS: Final = 1_000


@dataclass(frozen=True)
class Sent:
    """A record. ``reason`` None: it is good and must be counted. ``timestamp_ms`` None: the time of sending."""

    value: bytes | None
    reason: Reason | None = None
    key: bytes | None = b"key"
    timestamp_ms: int | None = None


class Hostile:
    """A seeded source of hostile records. ``calls`` and ``tokens``: what the good ones come to."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.calls = 0
        self.tokens = 0

    def records(self, fuzzed: int, good: int) -> list[Sent]:
        """Return every kind of fault, so many fuzzed records and so many plain good ones, in a random order."""
        records = [*self._not_json(fuzzed), *self._wrong_fields(), *self._extreme_times(), *self._sizes()]
        records += [self._good(key=self._random.choice([None, b"key", b"", b"\xff\x00"])) for _ in range(good)]
        records += self._odd_but_good()
        self._random.shuffle(records)
        return records

    def _event(self, **fields: Any) -> dict[str, Any]:
        event = {
            "event_id": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "occurred_at": datetime.now(UTC).isoformat(),
            "service": "hostile",
            "provider": "acme",
            "model_served": "small",
            "input_tokens": self._random.randrange(10_000),
            **fields,
        }
        return {name: value for name, value in event.items() if value is not ...}

    def _good(self, key: bytes | None = b"key", **fields: Any) -> Sent:
        event = self._event(**fields)
        self.calls += 1
        self.tokens += event["input_tokens"]
        return Sent(json.dumps(event).encode(), key=key)

    def _bad(self, reason: Reason, **fields: Any) -> Sent:
        return Sent(json.dumps(self._event(**fields)).encode(), reason, key=self._random.choice([b"key", None]))

    def _not_json(self, fuzzed: int) -> list[Sent]:
        records = [
            Sent(None, Reason.EMPTY),
            Sent(b"", Reason.EMPTY, key=None),
            Sent(b"null", Reason.NOT_AN_OBJECT),
            Sent(b"[]", Reason.NOT_AN_OBJECT),
            Sent(b"17", Reason.NOT_AN_OBJECT, key=None),
            Sent(b'"text"', Reason.NOT_AN_OBJECT),
            Sent(b'{"service":' + b"[" * 100_000, Reason.NOT_JSON),
            Sent(b'{"service":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, Reason.NOT_JSON),
            Sent(b"\xef\xbb\xbf{}", Reason.NOT_JSON),
            Sent(json.dumps(self._event()).encode("utf-16"), Reason.NOT_JSON),
        ]
        return records + [self._fuzzed() for _ in range(fuzzed)]

    def _fuzzed(self) -> Sent:
        """A record that can't be JSON, whatever the dice say: noise after a NUL, half an event, bytes of no text."""
        r = self._random
        whole = json.dumps(self._event(tags={"name": "ä"}), ensure_ascii=False).encode()
        at = r.randrange(1, len(whole) - 1)
        value = r.choice(
            [
                b"\x00" + r.randbytes(r.randrange(300)),
                whole[:at],
                whole[:at] + b"\xff" + whole[at:],
                whole[:at] + b"\x00" + whole[at:],
                whole + b"\n" + whole,
            ]
        )
        return Sent(value, Reason.NOT_JSON, key=r.choice([None, b"", r.randbytes(20)]))

    def _wrong_fields(self) -> list[Sent]:
        range_, type_, value, missing = (
            Reason.OUT_OF_RANGE,
            Reason.WRONG_TYPE,
            Reason.INVALID_VALUE,
            Reason.MISSING_FIELD,
        )
        return [
            self._bad(range_, input_tokens=-1),
            self._bad(range_, input_tokens=MAX_TOKENS + 1),
            self._bad(range_, output_tokens=2**63),
            self._bad(range_, output_tokens=10**400),
            self._bad(range_, gpu_seconds=1e300),
            self._bad(range_, service="s" * 257),
            self._bad(range_, service=""),
            self._bad(range_, tags={str(number): "v" for number in range(33)}),
            self._bad(type_, input_tokens="12"),
            self._bad(type_, input_tokens=1.5),
            self._bad(type_, input_tokens=True),
            self._bad(type_, input_tokens=[1]),
            self._bad(type_, service={"name": "x"}),
            self._bad(type_, tags=["a"]),
            self._bad(type_, event_id="not-a-uuid"),
            self._bad(type_, event_id=7),
            self._bad(type_, occurred_at=1_700_000_000),
            self._bad(type_, occurred_at="yesterday"),
            self._bad(value, event_id=str(uuid.UUID(int=0))),
            self._bad(value, service="a\x00b"),
            self._bad(value, status="splendid"),
            self._bad(missing, event_id=...),
            self._bad(missing, occurred_at=...),
            self._bad(missing, model_served=...),
            self._bad(missing, input_tokens=...),
            self._bad(missing, input_tokens=None),
            self._bad(Reason.INCONSISTENT_USAGE, prompt_system_tokens=20_000),
        ]

    def _extreme_times(self) -> list[Sent]:
        return [
            self._bad(Reason.OUT_OF_RANGE, occurred_at="1970-01-01T00:00:00Z"),
            self._bad(Reason.OUT_OF_RANGE, occurred_at="2100-01-01T00:00:00Z"),
            self._bad(Reason.OUT_OF_RANGE, occurred_at="9999-12-31T23:59:59Z"),
            self._bad(Reason.OCCURRED_IN_FUTURE, occurred_at="2099-12-31T23:59:59Z"),
            # a producer's Kafka client whose clock stands at 1970: the topic takes the broker's time instead
            replace(self._good(), timestamp_ms=_ORIGIN_1970_MS),
            Sent(b"{broken", Reason.NOT_JSON, timestamp_ms=_ORIGIN_1970_MS),
            Sent(b"{broken", Reason.NOT_JSON, timestamp_ms=0),
        ]

    def _sizes(self) -> list[Sent]:
        """As large as an event may be, a byte more, and as large as the topic takes."""
        at_most = self._good(padding="")
        room = MAX_EVENT_BYTES - len(at_most.value or b"")
        largest = (at_most.value or b"").replace(b'"padding": ""', b'"padding": "' + b"x" * room + b'"')
        return [
            Sent(largest),
            Sent(self._padded(MAX_EVENT_BYTES + 1), Reason.TOO_LARGE),
            Sent(self._padded(MAX_RECORD_BYTES - 100), Reason.TOO_LARGE),
            Sent(self._random.randbytes(MAX_RECORD_BYTES - 100), Reason.TOO_LARGE, key=None),
            Sent(b"\x00" + self._random.randbytes(MAX_EVENT_BYTES - 1), Reason.NOT_JSON),
            Sent(b"{broken", Reason.NOT_JSON, key=self._random.randbytes(MAX_EVENT_BYTES)),
            # the field's name stands in the dead letter three times: as the field, in the message and in the original
            self._bad(Reason.OUT_OF_RANGE, tags={"\x01" * 160_000: "v"}),
        ]

    def _padded(self, size: int) -> bytes:
        value = json.dumps(self._event(padding="")).encode()
        return value[:-2] + b"x" * (size - len(value)) + value[-2:]

    def _odd_but_good(self) -> list[Sent]:
        deep: Any = 1
        for _ in range(100):
            deep = [deep]
        return [
            self._good(unknown=deep, another=-1e300),
            self._good(service="ü😀" * 100, tags={"k" * 256: "v" * 256}),
            self._good(occurred_at="2020-01-01T00:00:00Z"),
            self._good(input_tokens=MAX_TOKENS, team=None),
            self._good(key=self._random.randbytes(900_000)),
            self._good(key=None, service="a", task_id="t" * 256),
        ]
