"""From a published event to the webhook's request, through every part, on a real Kafka."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from tests.alerts.receiver import Receiver
from tests.alerts.world import SECRET, SPEND_ABOVE, AlertWorld, call

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.timeout(600)]


def test_spend_above_its_bound_alerts_and_an_edit_of_the_watches_takes_effect_at_runtime(tmp_path: Path) -> None:
    with Receiver() as receiver, AlertWorld(tmp_path, receiver) as world:
        world.start_worker()
        world.wait_until_watching()
        world.send([call("search", 0.01) for _ in range(50)])
        world.send([call("growth", 60.0)])
        (firing,) = receiver.wait_for(lambda r: r.of("firing"))
        assert firing["group"] == {"team": "growth"}
        assert firing["observed"] >= 60
        assert firing["notify"]
        (told,) = [told for told in receiver.told if told.alert is firing]
        assert told.headers["Idempotency-Key"]
        stamp, signed = told.headers["X-Spendstream-Timestamp"], told.headers["X-Spendstream-Signature"]
        digest = hmac.new(SECRET.encode(), stamp.encode() + b"." + told.body, hashlib.sha256).hexdigest()
        assert signed == f"sha256={digest}"
        world.write_watches(SPEND_ABOVE.replace("name: spend", "name: other"))
        (resolved,) = receiver.wait_for(lambda r: r.of("resolved"))
        assert resolved["alert_id"] == firing["alert_id"]
        assert "no longer watched" in resolved["title"]
        (again,) = receiver.wait_for(lambda r: [a for a in r.of("firing") if a["watch"] == "other"])
        assert again["observed"] == firing["observed"]
