"""From publishing the first anomalous event until the webhook's request: ``python -m tests.bench.alert_latency``.

A steady load passes through one worker with every role. Each second one event, alone, takes a team over the bound of a
threshold rule; every few seconds a burst makes a feature anomalous, as a runaway loop does. The clock runs from just
before the first of these events is handed to the producer until the receiver has read the request. Then ClickHouse is
stopped, and the same is measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from spendstream.drain import drain
from spendstream.schemas import topics
from tests.alerts.receiver import Receiver
from tests.alerts.world import AlertWorld, call
from tests.bench.load import events

_TICK_S = 0.1
_BURST_FEATURES = 12
_STEADY_EVERY_TICKS = 5
_BURST_CALLS = 1_500
_HISTORY_S = 1_020
WARM_UP_S = 40

BOUND = """
  - name: bound
    group_by: [team]
    scope: {service: marks}
    rule: {kind: threshold, measure: cost, above: 50, window: 1m}
"""
USUAL = """
  - name: usual
    group_by: [feature]
    scope: {service: bursts}
    rule: {kind: anomaly, direction: up, min_history: 2m, min_spend_usd: 0.01}
"""


@dataclass
class Sent:
    """When the first event of an incident was handed over, by the group that it concerns."""

    bound: dict[str, float] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)


def measure_alert_latency(per_second: int, seconds: float, warm_up_s: float = WARM_UP_S) -> list[str]:
    """Return a sentence for each of: both rules with ClickHouse, both without."""
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        dimensions = "service,team,feature,environment,provider,model"
        world = AlertWorld(
            Path(folder),
            receiver,
            BOUND,
            METER_DIMENSIONS=dimensions,
            LOG_LEVEL="info",
            DETECT_SNAPSHOT_INTERVAL_S="60",
        )
        with world:
            world.start_worker()
            world.wait_until_watching()
            _publish_history(world)
            world.write_watches(BOUND + USUAL)
            with_clickhouse, without = Sent(), Sent()
            asyncio.run(_load(world, per_second, warm_up_s, seconds, with_clickhouse, without))
            time.sleep(5)
        return [
            *_report(receiver, with_clickhouse, per_second, "with ClickHouse"),
            *_report(receiver, without, per_second, "with ClickHouse stopped"),
        ]


def _publish_history(world: AlertWorld) -> None:
    """Give every feature of the bursts a quarter of an hour of usual calls, which the anomaly rule asks for."""
    now = datetime.now(UTC)
    step_s = _STEADY_EVERY_TICKS * _TICK_S
    for first in range(0, int(_HISTORY_S / step_s), 100):
        ages = [_HISTORY_S - (first + step) * step_s for step in range(100)]
        world.send(
            [
                _usual(f"feature-{number}") | {"occurred_at": (now - timedelta(seconds=age)).isoformat()}
                for age in ages
                if age > 0
                for number in range(_BURST_FEATURES)
            ]
        )
    asyncio.run(drain(world.settings, 60.0))


async def _load(
    world: AlertWorld, per_second: int, warm_up_s: float, seconds: float, first: Sent, second: Sent
) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=world.kafka.bootstrap, acks="all", linger_ms=5, max_batch_size=131_072
    )
    await producer.start()
    load = _Load(producer, world.settings.topic(topics.USAGE), per_second)
    try:
        await load.run(warm_up_s, None, features=[])
        half = _BURST_FEATURES // 2
        await load.run(seconds, first, features=[f"feature-{n}" for n in range(half)])
        await asyncio.to_thread(world.clickhouse.stop)
        await load.run(seconds, second, features=[f"feature-{n}" for n in range(half, _BURST_FEATURES)])
    finally:
        await producer.stop()


class _Load:
    """A steady load, and incidents in it."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, per_second: int) -> None:
        self._producer = producer
        self._topic = topic
        self._per_tick = round(per_second * _TICK_S)
        self._ticks = 0

    async def run(self, seconds: float, sent: Sent | None, features: Sequence[str]) -> None:
        ticks = int(seconds / _TICK_S)
        burst_every = max(1, ticks // (len(features) + 1))
        for tick in range(1, ticks + 1):
            started = time.monotonic()
            is_due = self._ticks % _STEADY_EVERY_TICKS == 0
            steady = [_usual(f"feature-{number}") for number in range(_BURST_FEATURES if is_due else 0)]
            if sent is not None and tick % 10 == 0:
                team = f"team-{self._ticks}"
                sent.bound[team] = time.monotonic()
                await self._hand_over([call(team, 60.0, service="marks")])
            if sent is not None and tick % burst_every == 0 and tick // burst_every <= len(features):
                feature = features[tick // burst_every - 1]
                sent.usual[feature] = time.monotonic()
                await self._hand_over([_usual(feature) for _ in range(_BURST_CALLS)])
            await self._hand_over(steady)
            for key, value in events(self._per_tick, seed=self._ticks, spread_s=1.0):
                await self._producer.send(self._topic, value, key=key)
            self._ticks += 1
            await asyncio.sleep(max(0.0, _TICK_S - (time.monotonic() - started)))

    async def _hand_over(self, made: Sequence[dict[str, Any]]) -> None:
        for event in made:
            await self._producer.send(self._topic, json.dumps(event).encode(), key=event["event_id"].encode())


def _usual(feature: str) -> dict[str, Any]:
    return call("bursts", 0.002, service="bursts", feature=feature)


def _report(receiver: Receiver, sent: Sent, per_second: int, when: str) -> list[str]:
    return [
        _sentence(receiver, "bound", "team", sent.bound, f"a threshold, {when}", per_second),
        _sentence(receiver, "usual", "feature", sent.usual, f"an anomaly (a burst), {when}", per_second),
    ]


def _sentence(
    receiver: Receiver, watch: str, dimension: str, sent: dict[str, float], what: str, per_second: int
) -> str:
    told: dict[str, float] = {}
    for one in receiver.told:
        if one.alert["watch"] == watch and one.alert["transition"] == "firing":
            told.setdefault(one.alert["group"][dimension], one.at)
    lags = sorted(told[group] - at for group, at in sent.items() if group in told)
    early = [lag for lag in lags if lag < 0]
    if not lags or early:
        return f"{what}: {len(lags)} of {len(sent)} delivered, {len(early)} of them before their incident"
    at = lambda share: lags[min(len(lags) - 1, int(share * len(lags)))]  # noqa: E731
    figures = f"p50 {at(0.5):.2f} s, p90 {at(0.9):.2f} s, p99 {at(0.99):.2f} s, worst {lags[-1]:.2f} s"
    return f"{what}, at {per_second:,} events/s: {figures}; {len(lags)} of {len(sent)} delivered"


def main() -> None:
    """Print the sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=5_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=100, help="of each half")
    parser.add_argument("--warm-up", type=float, default=WARM_UP_S)
    options = parser.parse_args()
    for sentence in measure_alert_latency(options.rate, options.seconds, options.warm_up):
        sys.stdout.write(sentence + "\n")


if __name__ == "__main__":
    main()
