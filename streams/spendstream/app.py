"""Build the Faust app: agents registered on a fresh App, so that each test and each worker has its own."""

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faust
from faust.types import TP
from yarl import URL

from spendstream.agents.meter import MeterAgent
from spendstream.agents.meter_state import Flusher, Recovery
from spendstream.agents.rate_books import RateBooks
from spendstream.core.meter import MeterRules
from spendstream.kafka.batched import BatchSchema, batched_transport
from spendstream.kafka.producer import AckedProducer
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.settings import Settings

_BUFFERED_BATCHES = 10_000  # the transport holds back by itself, by records
_FETCH_RECORDS = 20_000


class _App(faust.App):
    def _create_directories(self) -> None:
        """Make none: state is in Kafka, and the working folder may be read-only."""


def build_app(settings: Settings, metrics: Metrics, books: RateBooks) -> faust.App:
    """Return the metering app. It starts nothing by itself: ``spendstream.worker`` runs it, and ``books`` beside it."""
    usage, kafka = settings.topic(topics.USAGE), settings.kafka_client()
    app = _App(
        settings.group("meter"),
        **faust_connection(kafka),
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
    producer = AckedProducer(kafka)
    recovery = Recovery(kafka, settings.group("meter"), settings.topic, meter_rules(settings), books, producer)
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


def meter_rules(settings: Settings) -> MeterRules:
    """Return the rules that decide on the money, as the settings have them."""
    return MeterRules(
        dimensions=settings.meter_dimensions,
        allowed_lateness_s=settings.meter_allowed_lateness_s,
        allowed_skew_s=settings.meter_allowed_skew_s,
        dedupe_horizon_s=settings.meter_dedupe_horizon_s,
        cardinality_cap=settings.meter_cardinality_cap,
    )


def faust_connection(kafka: Mapping[str, Any]) -> dict[str, Any]:
    """Return the connection arguments of aiokafka's clients as Faust's: brokers, credentials and metadata age."""
    protocol, context = kafka["security_protocol"], kafka.get("ssl_context")
    credentials: faust.SASLCredentials | faust.SSLCredentials | None = None
    if protocol.startswith("SASL"):
        credentials = faust.SASLCredentials(
            mechanism=kafka["sasl_mechanism"],
            username=kafka["sasl_plain_username"],
            password=kafka["sasl_plain_password"],
            ssl_context=context,
        )
    elif protocol == "SSL":
        credentials = faust.SSLCredentials(context=context)
    return {
        "broker": [URL(f"kafka://{server}") for server in kafka["bootstrap_servers"]],
        "broker_credentials": credentials,
        "consumer_metadata_max_age_ms": kafka["metadata_max_age_ms"],
    }
