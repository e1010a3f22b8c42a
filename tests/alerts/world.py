"""The crash tests' world with watches, a webhook, and traffic whose spend the test decides."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from spendstream.agents.detect_snapshots import SnapshotStore
from spendstream.core.detect.detector import Detector
from spendstream.kafka.consumer import partitions_of
from spendstream.kafka.producer import AckedProducer
from spendstream.schemas import topics
from spendstream.schemas.alert import Alert
from spendstream.watches import read_watches
from tests.alerts.receiver import Receiver
from tests.crash.world import World

SECRET = "a-secret-of-the-tests"

WATCHES = """
notifiers:
  - {{name: hook, kind: webhook, url_env: HOOK_URL, secret_env: HOOK_SECRET, group_interval: 0s}}
watches:
{watches}
"""

SPEND_ABOVE = """
  - name: spend
    group_by: [team]
    rule: {kind: threshold, measure: cost, above: 50, window: 1m}
"""


class AlertWorld(World):
    """``watches``: the YAML of the list of watches."""

    def __init__(self, folder: Path, receiver: Receiver, watches: str = SPEND_ABOVE, **overrides: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.watches_path = folder / "watches.yaml"
        self.write_watches(watches)
        settings = {
            "WATCHES": str(self.watches_path),
            "HOOK_URL": receiver.url,
            "HOOK_SECRET": SECRET,
            "DETECT_SNAPSHOT_INTERVAL_S": "3",
            **overrides,
        }
        super().__init__(folder, **settings)

    def write_watches(self, watches: str) -> None:
        self.watches_path.write_text(WATCHES.format(watches=watches))

    def wait_until_watching(self, timeout_s: float = 150.0) -> None:
        """Wait until a detector leads and the notifier's group has begun."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            logs = "".join(path.read_text() for path in self.folder.glob("worker-*.log"))
            if "detect.leads" in logs and "notify.started" in logs:
                return
            time.sleep(0.1)
        raise AssertionError(self.logs())

    def send(self, events: Sequence[dict[str, Any]]) -> None:
        """Publish usage events; all are acknowledged on return."""
        asyncio.run(self._send(events))

    async def _send(self, events: Iterable[dict[str, Any]]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap, acks="all", linger_ms=2)
        await producer.start()
        try:
            topic = self.settings.topic(topics.USAGE)
            futures = [
                await producer.send(topic, json.dumps(event).encode(), key=event["event_id"].encode())
                for event in events
            ]
            await asyncio.gather(*futures)
        finally:
            await producer.stop()

    def last_detector(self) -> tuple[Detector, int]:
        """Return a detector as the last snapshot left it, and its detection clock."""
        return asyncio.run(self._last_detector())

    async def _last_detector(self) -> tuple[Detector, int]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            store = SnapshotStore(AckedProducer(self.settings.kafka_client()), self.settings.topic(topics.DETECT_STATE))
            found = await store.read(consumer)
        finally:
            await consumer.stop()
        assert found is not None
        manifest, sections = found
        detector = Detector(self.settings.meter_dimensions, self.settings.meter_allowed_lateness_s)
        detector.restore(sections, manifest.clock_us)
        detector.configure(read_watches(self.watches_path))
        return detector, manifest.clock_us

    def alerts(self) -> list[Alert]:
        """Return every transition on the alert topic, in the order in which they were decided."""
        return asyncio.run(self._alerts())

    async def _alerts(self) -> list[Alert]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            topic = self.settings.topic(topics.ALERT)
            numbers = (await partitions_of(self.settings.kafka_client(), [topic]))[topic]
            tps = [TopicPartition(topic, number) for number in numbers]
            consumer.assign(tps)
            ends = await consumer.end_offsets(tps)
            found: list[Alert] = []
            for tp in tps:
                consumer.seek(tp, 0)
                while await consumer.position(tp) < ends[tp]:
                    records = (await consumer.getmany(tp, timeout_ms=500)).get(tp, [])
                    found += [Alert.model_validate_json(record.value) for record in records]
            return sorted(found, key=lambda alert: (alert.at, alert.seq))
        finally:
            await consumer.stop()


def call(team: str, usd: float, **fields: Any) -> dict[str, Any]:
    """Return a usage event of now with this cost: output tokens at $15 a million."""
    return {
        "event_id": str(uuid.uuid4()),
        "occurred_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "service": "api",
        "team": team,
        "provider": "acme",
        "model_served": "large",
        "input_tokens": 0,
        "output_tokens": round(usd * 1_000_000 / 15),
        **fields,
    }
