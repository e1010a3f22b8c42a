"""The signed webhook: transitions as JSON, with a signature that proves who sent them, and when.

    POST <url>
    Content-Type: application/json
    Idempotency-Key: 6f0c…              the same at each attempt of one notification
    X-Spendstream-Timestamp: 1772625600 Unix seconds of this attempt
    X-Spendstream-Signature: sha256=…   where ``secret_env`` is set

    {"version": 1, "alerts": [{"alert_id": …, "transition_id": …, …}, …]}    schemas/json/llm.alert.v1.json

A receiver verifies before it parses: the signature is the HMAC-SHA256, in hex, of the timestamp's text, a full stop and
the raw body, compared in constant time; the timestamp is at most five minutes off, which prevents replays. ``verify``
below does this. With OpenSSL: ``printf '%s.%s' "$TIMESTAMP" "$BODY" | openssl dgst -sha256 -hmac "$KEY"``.

Delivery is at least once. ``transition_id`` identifies a transition: after a crash it may arrive again, possibly in
another notification and so under another Idempotency-Key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from spendstream.notifiers.base import Endpoint, HttpClient, Messenger, idempotency_key
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier

VERSION: Final = 1
TIMESTAMP: Final = "X-Spendstream-Timestamp"
SIGNATURE: Final = "X-Spendstream-Signature"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
TOLERANCE_S: Final = 300


class Webhook(Messenger):
    """Posts transitions to one URL."""

    def __init__(self, notifier: Notifier, endpoint: Endpoint) -> None:
        super().__init__(notifier)
        self._key = endpoint.key
        self._http = HttpClient(endpoint)

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Post these transitions. Raises: Unreachable, Refused."""
        content = body(alerts)
        timestamp = str(int(now.timestamp()))
        headers = {IDEMPOTENCY_KEY: str(idempotency_key(alerts)), TIMESTAMP: timestamp}
        if self._key is not None:
            headers[SIGNATURE] = signature(self._key, timestamp, content)
        await self._http.post(content, headers)

    async def close(self) -> None:
        await self._http.close()


def body(alerts: Sequence[Alert]) -> bytes:
    """Return the request's body. Amounts are decimal strings, times RFC 3339."""
    inner = ",".join(alert.model_dump_json() for alert in alerts)
    return f'{{"version":{VERSION},"alerts":[{inner}]}}'.encode()


def signature(key: bytes, timestamp: str, content: bytes) -> str:
    """Return the signature header of a body that is sent at a timestamp (Unix seconds, as text)."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()


def verify(key: bytes, timestamp: str, signed: str, content: bytes, now: datetime) -> bool:
    """Whether a request is genuine and fresh: a receiver's check of the two headers and the raw body."""
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(now.timestamp() - int(timestamp)) > TOLERANCE_S:
        return False
    return hmac.compare_digest(signature(key, timestamp, content).encode(), signed.encode())
