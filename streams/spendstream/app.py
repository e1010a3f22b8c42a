"""Build the Faust app: agents registered on a fresh App, so that each test and each worker has its own."""

import gc
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faust
from faust.types import TP
from yarl import URL

from spendstream.agents.meter import MeterAgent
from spendstream.core.pricing import PriceBook
from spendstream.kafka.producer import AckedProducer
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.settings import KAFKA_METADATA_MAX_AGE_MS, Settings
from spendstream.state.flush import Flusher
from spendstream.state.recovery import Recovery
from spendstream.transport.batched import BatchSchema, batched_transport

_BUFFERED_BATCHES = 10_000  # the transport holds back by itself, by records
_FETCH_RECORDS = 20_000
_COLLECT_AFTER = 50_000


def collect_rarely() -> None:
    """Keep the cycle collector off the records: each is an object it tracks, gone a moment later, thousands a fetch.

    By default it looks after every 700th, which costs more than parsing them.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


class _App(faust.App):
    def _create_directories(self) -> None:
        """Make none: state is in Kafka, and the working folder may be read-only."""


def build_app(settings: Settings, metrics: Metrics, book: PriceBook) -> faust.App:
    """Return the metering app. It starts nothing by itself: ``spendstream.worker`` runs it."""
    collect_rarely()
    usage = settings.topic(topics.USAGE)
    app = _App(
        settings.group("meter"),
        broker=[URL(f"kafka://{server}") for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        autodiscover=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        store="memory://",
        datadir=str(Path(tempfile.gettempdir()) / f"{settings.group('meter')}-faust"),  # Faust insists; stays empty
        web_enabled=False,
        stream_buffer_maxsize=_BUFFERED_BATCHES,
        stream_wait_empty=False,
        consumer_max_fetch_size=1_048_576,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=KAFKA_METADATA_MAX_AGE_MS,
        broker_max_poll_records=_FETCH_RECORDS,
        broker_commit_interval=1.0,
        broker_session_timeout=settings.kafka_session_timeout_s,
        broker_heartbeat_interval=settings.kafka_session_timeout_s / 4,
        broker_max_poll_interval=600.0,
        stream_processing_timeout=600.0,
        producer_request_timeout=30.0,
    )
    app.transport = batched_transport(usage)(app.conf.broker, app, app.loop)
    # while one partition's batch is read, another's is proven and folded, and what was absorbed before is encoded
    absorbing = ThreadPoolExecutor(max_workers=2, thread_name_prefix="absorb")
    encoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
    producer = AckedProducer(settings.kafka_client())
    recovery = Recovery(settings.kafka_client(), settings.group("meter"), settings.topic, settings.meter_rules, book)
    flusher = Flusher(producer, settings.topic, encoding, settings.meter_dimensions)
    meter = MeterAgent(app, usage, recovery, flusher, absorbing, metrics)
    app.agent(app.topic(usage, schema=BatchSchema()), name="meter")(meter.run)

    @app.timer(settings.meter_flush_interval_s, name="flush")
    async def flush() -> None:
        await meter.flush_all()

    @app.on_partitions_revoked.connect(weak=False)
    async def let_go(_app: Any, revoked: set[TP], **_: Any) -> None:
        meter.revoked(revoked)

    @app.on_partitions_assigned.connect(weak=False)
    async def take_up(_app: Any, assigned: set[TP], **_: Any) -> None:
        meter.assigned(assigned)

    @app.on_before_shutdown.connect(weak=False)
    async def flush_and_stop(_app: Any, **_: Any) -> None:
        await meter.flush_all()

    return app


def _credentials(settings: Settings) -> Any:
    if settings.kafka_security_protocol == "PLAINTEXT":
        return None
    context = settings.kafka_client().get("ssl_context")
    if settings.kafka_security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=settings.kafka_sasl_mechanism,
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            ssl_context=context,
        )
    return faust.SSLCredentials(context=context)
