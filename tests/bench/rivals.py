"""The same job elsewhere: read usage events, price them, and sum cost per minute and series. One process each.

``python -m tests.bench.rivals NAME BOOTSTRAP TOPIC COUNT`` prints a line of progress at each tenth, as
``done seconds cpu_seconds``. Prices come from a dict: cheaper than the product's own pricing.
"""

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from typing import Any, Final

RATES: Final = {
    "gpt-4o-2024-08-06": (2_500_000, 1_250_000, 10_000_000),
    "gpt-4o-mini": (150_000, 75_000, 600_000),
    "claude-sonnet-4-5": (3_000_000, 300_000, 15_000_000),
    "gemini-2.5-flash": (300_000, 75_000, 2_500_000),
}
SERIES: Final = ("service", "team", "feature", "environment", "provider", "model_served", "region")


def cost_pusd(event: dict[str, Any]) -> int:
    """Price one event, in pico-dollars."""
    uncached, cached, output = RATES[event["model_served"]]
    return int(
        event["input_tokens"] * uncached
        + event["cache_read_tokens"] * cached
        + (event["output_tokens"] + event["reasoning_tokens"]) * output
    )


def series(event: dict[str, Any]) -> str:
    """Return the minute and the dimensions of an event, as one key."""
    return "|".join((event["occurred_at"][:16], *(event[name] for name in SERIES)))


class Progress:
    """Prints a line at each tenth of the way."""

    def __init__(self, count: int) -> None:
        self._count, self._done, self._next = count, 0, count // 10

    def add(self, events: int) -> bool:
        """Count events; returns whether all are done."""
        self._done += events
        if self._done >= self._next:
            self._next += self._count // 10
            out = sys.__stdout__ or sys.stdout  # Faust's worker puts its logger in place of the other
            out.write(f"{self._done} {time.monotonic():.3f} {sum(os.times()[:2]):.2f}\n")
            out.flush()
        return self._done >= self._count


def plain_faust(bootstrap: str, topic: str, count: int) -> None:
    """An agent with ``async for event in stream`` and a windowed table, as Faust's own guide has it."""
    import faust

    app = faust.App(
        "plain-faust",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        value_serializer="json",
        consumer_auto_offset_reset="earliest",
        datadir=tempfile.mkdtemp(),
    )
    table = app.Table("spend", default=int, partitions=4).tumbling(60.0, expires=600.0)
    progress = Progress(count)

    @app.agent(app.topic(topic, value_serializer="json"))
    async def meter(stream: Any) -> None:
        async for event in stream:
            table[series(event)] += cost_pusd(event)
            if progress.add(1):
                os._exit(0)

    faust.Worker(app, loglevel="ERROR").execute_from_commandline()


def bytewax(bootstrap: str, topic: str, count: int) -> None:
    """A dataflow that decodes in batches and folds per key."""
    import bytewax.operators as op
    from bytewax.connectors.kafka import KafkaSource
    from bytewax.dataflow import Dataflow
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import run_main

    progress = Progress(count)
    sums: dict[str, int] = defaultdict(int)

    def fold(batch: list[Any]) -> list[int]:
        for message in batch:
            event = json.loads(message.value)
            sums[series(event)] += cost_pusd(event)
        return [len(batch)]

    class Count(StatelessSinkPartition[int]):
        def write_batch(self, items: list[int]) -> None:
            if progress.add(sum(items)):
                os._exit(0)

    class Counter(DynamicSink[int]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Count:
            return Count()

    flow = Dataflow("spend")
    read = op.input("in", flow, KafkaSource([bootstrap], [topic], batch_size=10_000))
    op.output("out", op.flat_map_batch("fold", read, fold), Counter())
    run_main(flow)


def pathway(bootstrap: str, topic: str, count: int) -> None:
    """A table grouped by minute and series; the engine is compiled."""
    import pathway as pw

    class Event(pw.Schema):
        occurred_at: str
        service: str
        team: str
        feature: str
        environment: str
        provider: str
        model_served: str
        region: str
        input_tokens: int
        cache_read_tokens: int
        output_tokens: int
        reasoning_tokens: int

    events = pw.io.kafka.read(
        {"bootstrap.servers": bootstrap, "group.id": "pathway", "auto.offset.reset": "earliest"},
        topic=topic,
        schema=Event,
        format="json",
        autocommit_duration_ms=500,
    )
    uncached = cached = output = 0
    for model, (a, b, c) in RATES.items():
        is_model = events.model_served == model
        uncached = pw.if_else(is_model, a, uncached)
        cached = pw.if_else(is_model, b, cached)
        output = pw.if_else(is_model, c, output)
    priced = events.select(
        pw.this.service,
        pw.this.team,
        pw.this.feature,
        pw.this.environment,
        pw.this.provider,
        pw.this.model_served,
        pw.this.region,
        minute=events.occurred_at.str.slice(0, 16),
        cost=events.input_tokens * uncached
        + events.cache_read_tokens * cached
        + (events.output_tokens + events.reasoning_tokens) * output,
    )
    rollups = priced.groupby(
        priced.minute,
        priced.service,
        priced.team,
        priced.feature,
        priced.environment,
        priced.provider,
        priced.model_served,
        priced.region,
    ).reduce(calls=pw.reducers.count(), cost=pw.reducers.sum(priced.cost))
    total = rollups.reduce(calls=pw.reducers.sum(rollups.calls))
    progress = Progress(count)
    seen = 0

    def on_change(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:
        nonlocal seen
        if is_addition:
            done = progress.add(row["calls"] - seen)
            seen = row["calls"]
            if done:
                os._exit(0)

    pw.io.subscribe(total, on_change)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


RIVALS: Final = {"plain Faust agent": plain_faust, "Bytewax": bytewax, "Pathway": pathway}

if __name__ == "__main__":
    RIVALS[sys.argv[1]](sys.argv[2], sys.argv[3], int(sys.argv[4]))
