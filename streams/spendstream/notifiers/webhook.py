"""The signed webhook: transitions as JSON, with a signature that proves who sent them and when.

    POST <url>
    Content-Type: application/json
    Idempotency-Key: 6f0c…              the same for each attempt of one notification
    X-Spendstream-Timestamp: 1772625600 Unix seconds of this attempt
    X-Spendstream-Signature: sha256=…   where ``secret_env`` is set

    {"version": 1, "alerts": [{"alert_id": …, "transition_id": …, …}, …]}    schemas/json/llm.alert.v1.json

A receiver verifies before it parses: HMAC-SHA256 with the shared key over the timestamp's text, a full stop and the raw
body, in hex, compared in constant time; and the timestamp no more than five minutes off, against replays. ``verify``
below does so. With OpenSSL: ``printf '%s.%s' "$TIMESTAMP" "$BODY" | openssl dgst -sha256 -hmac "$KEY"``.

Delivery is at least once. ``transition_id`` identifies a transition: after a crash it may come again, perhaps beside
others and so under another Idempotency-Key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from spendstream.notifiers.base import idempotency_key
from spendstream.notifiers.endpoint import Endpoint
from spendstream.notifiers.http import Http
from spendstream.schemas.alert import Alert

VERSION: Final = 1
TIMESTAMP: Final = "X-Spendstream-Timestamp"
SIGNATURE: Final = "X-Spendstream-Signature"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
TOLERANCE_S: Final = 300


class Webhook:
    """Posts transitions to one URL."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._key = endpoint.key
        self._http = Http(endpoint)

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
    """Return the signature header of a body sent at a timestamp (Unix seconds, as text)."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()


def verify(key: bytes, timestamp: str, signed: str, content: bytes, now: datetime) -> bool:
    """Whether a request is genuine and fresh: what a receiver does with the two headers and the raw body."""
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(now.timestamp() - int(timestamp)) > TOLERANCE_S:
        return False
    return hmac.compare_digest(signature(key, timestamp, content).encode(), signed.encode())
