"""From a published event to the webhook's request, through every part, on a real Kafka."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from tests.alerts.receiver import Receiver
from tests.alerts.world import SECRET, AlertWorld, call

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.timeout(300)]


def test_a_spend_above_its_bound_reaches_the_webhook_and_its_end_too(tmp_path: Path) -> None:
    with Receiver() as receiver, AlertWorld(tmp_path, receiver) as world:
        world.start_worker()
        world.wait_until_watching()
        world.send([call("search", 0.01) for _ in range(50)])
        world.send([call("growth", 60.0)])
        (firing,) = receiver.wait_for(lambda r: r.of("firing"), 60)
        assert firing["group"] == {"team": "growth"}
        assert firing["observed"] >= 60
        assert firing["notify"]
        (told,) = [told for told in receiver.told if told.alert is firing]
        assert told.headers["Idempotency-Key"]
        signed = told.headers["X-Spendstream-Signature"].removeprefix("sha256=")
        assert len(signed) == len(hmac.new(SECRET.encode(), b"", hashlib.sha256).hexdigest())
        (resolved,) = receiver.wait_for(lambda r: r.of("resolved"), 150)
        assert resolved["alert_id"] == firing["alert_id"]
