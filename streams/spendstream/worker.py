"""The worker: meter, sinks, detector, notifiers and the metrics endpoint, in one process. Roles choose among them."""

import asyncio
import gc
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from spendstream.agents.rate_books import RateBooks
from spendstream.alerting import Alerting
from spendstream.app import build_app
from spendstream.clickhouse.client import clickhouse_settings
from spendstream.kafka.topics import SINK_GROUPS
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.sinks.alerts import AlertEncoder
from spendstream.sinks.calls import CallEncoder
from spendstream.sinks.encoders import DeadLetterEncoder, RateCardEncoder, RollupEncoder, RowEncoder
from spendstream.sinks.kafka_sink import KafkaSink, KafkaSinkSettings
from spendstream.sinks.writer import ClickHouseWriter

log = structlog.get_logger(__name__)


@dataclass
class Health:
    """What the worker knows of itself. Alive: the event loop answers. Ready: the meter runs and nothing is stopping."""

    meter_started: bool = False
    stopping: bool = False


class HealthServer:
    """Serves one registry and one health. Port 0 takes a free one."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._health = health
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen. Returns the address, ``http://host:port``. Raises OSError where the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._health.meter_started and not self._health.stopping
        return web.json_response({"ready": ready}, status=200 if ready else 503)


def build_sinks(settings: Settings, metrics: Metrics) -> list[KafkaSink]:
    """Return the sinks, each with a consumer group of its own: one for every table."""
    encoders: dict[str, RowEncoder] = {
        topics.PRICED: CallEncoder(settings.sink_max_rows),
        topics.ROLLUP: RollupEncoder(),
        topics.DEAD_LETTER: DeadLetterEncoder(),
        topics.RATE_CARD: RateCardEncoder(),
        topics.ALERT: AlertEncoder(),
    }
    return [
        KafkaSink(
            encoder,
            ClickHouseWriter(clickhouse_settings(settings), metrics=metrics),
            KafkaSinkSettings(
                topic=settings.topic(topic),
                group=settings.group(SINK_GROUPS[topic]),
                kafka=settings.kafka_client(),
                linger_s=settings.sink_linger_s,
                max_records=settings.sink_max_rows,
                session_timeout_s=settings.kafka_session_timeout_s,
            ),
            metrics=metrics,
        )
        for topic, encoder in encoders.items()
    ]


async def run_worker(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Run until SIGTERM, SIGINT or a failure.

    ``ready``: called once with the address of the metrics endpoint.
    Raises: what stopped a part of the worker; a restart resumes where everything was last durable.
    """
    metrics, health = Metrics(), Health()
    server = HealthServer(settings.metrics_host, settings.metrics_port, metrics.registry, health)
    address = await server.start()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    parts: list[asyncio.Task[Any]] = []
    sinks: list[KafkaSink] = []
    app = None
    alerting: Alerting | None = None
    try:
        if "meter" in settings.worker_roles:
            books = RateBooks(settings, metrics)
            app = build_app(settings, metrics, books)
            parts.append(asyncio.create_task(books.run(), name="rates"))
            parts.append(asyncio.create_task(_run_app(app, books, health), name="meter"))
        if "sink" in settings.worker_roles:
            sinks = build_sinks(settings, metrics)
            parts.extend(asyncio.create_task(sink.keep_running(), name="sink") for sink in sinks)
        alerting = Alerting(settings, metrics)
        parts.extend(alerting.tasks())
        collect_rarely()
        health.meter_started = app is None  # a worker without the meter role has no meter to wait for
        log.info("worker.started", roles=settings.worker_roles, metrics=address)
        if ready is not None:
            ready(address)
        await _first_end(stopping, parts)
    finally:
        health.stopping = True
        stops = [sink.stop() for sink in sinks] + ([] if alerting is None else [alerting.stop()])
        await asyncio.gather(*stops, return_exceptions=True)
        if app is not None:
            await app.stop()
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await server.stop()
        log.info("worker.stopped")


def collect_rarely() -> None:
    """Tune the cycle collector of the whole process, once it is composed.

    Records come by the hundred thousand: each is an object that the collector tracks, holds no cycle, and is gone a
    moment later. Python's default of a search every 700 objects took a third of the worker's CPU. What was composed
    until now (modules, price tables) stays for good, and is never searched.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _run_app(app: Any, books: RateBooks, health: Health) -> None:
    await app.start()
    await books.ready.wait()
    health.meter_started = True
    await app.wait_until_stopped()
    if app.crash_reason is not None:
        raise app.crash_reason


async def _first_end(stopping: asyncio.Event, parts: Sequence["asyncio.Task[Any]"]) -> None:
    """Wait for a signal or for the first part to end; raise what ended it."""
    stop = asyncio.create_task(stopping.wait(), name="signal")
    try:
        done, _ = await asyncio.wait({stop, *parts}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    if not stopping.is_set():
        raise RuntimeError(f"{', '.join(task.get_name() for task in done)} ended unexpectedly")
