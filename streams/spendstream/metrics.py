"""Prometheus metrics: every name and its meaning, in one place."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spendstream.core.lateness import NO_WATERMARK
from spendstream.schemas.progress import Counters

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OUTCOMES: Final = ("metered", "duplicates", "dead_letters", "rerouted")
_MARKS: Final = ("late", "corrections", "unpriced", "substituted", "estimated", "partly_priced")


class Metrics:
    """The metrics of one worker. Each instance has its own registry, so that a test can have one too."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._records = Counter(
            "spendstream_records_total", "Usage records by outcome, counted once durable.", ["outcome"], registry=r
        )
        self._marked = Counter(
            "spendstream_calls_marked_total",
            "Metered calls that were late, corrections (beyond the allowed lateness), unpriced, partly priced, or "
            "priced at substituted or estimated rates.",
            ["mark"],
            registry=r,
        )
        self._rollups = Counter("spendstream_rollups_total", "Rollup records published.", registry=r)
        self._absorb = Histogram(
            "spendstream_absorb_seconds", "Time to meter one fetch batch.", buckets=_SECONDS, registry=r
        )
        self._batch = Histogram(
            "spendstream_batch_records",
            "Records in one fetch batch.",
            buckets=(1, 10, 100, 1000, 5000, 20000, 100000),
            registry=r,
        )
        self._flush = Histogram(
            "spendstream_flush_seconds", "Time until a flush is acknowledged.", buckets=_SECONDS, registry=r
        )
        self._stage_failures = Counter(
            "spendstream_stage_failures_total",
            "Errors of this software while metering. Each is looked into: see spendstream_quarantined_records_total.",
            ["stage"],
            registry=r,
        )
        self._quarantined = Counter(
            "spendstream_quarantined_records_total",
            "Records that this software fails on. They became dead letters of internal_error.",
            ["stage"],
            registry=r,
        )
        self._unreadable = Counter(
            "spendstream_unreadable_records_total",
            "Records of internal topics that could not be read, and were skipped.",
            ["topic"],
            registry=r,
        )
        self._watermark = Gauge(
            "spendstream_watermark_timestamp_seconds", "Greatest event time so far.", ["partition"], registry=r
        )
        self._aggregates = Gauge("spendstream_open_aggregates", "Aggregates in memory.", ["partition"], registry=r)
        self._ids = Gauge(
            "spendstream_known_event_ids", "Event ids known within the dedupe horizon.", ["partition"], registry=r
        )
        self._other = Gauge(
            "spendstream_other_calls",
            "Calls of open minutes that the cardinality cap assigned to __other__.",
            ["partition"],
            registry=r,
        )
        self._book_since = Gauge(
            "spendstream_rate_book_since_offset",
            "First source offset that the partition's rate book prices.",
            ["partition"],
            registry=r,
        )
        self._book_switches = Counter(
            "spendstream_rate_book_switches_total", "Partitions that switched to another rate book.", registry=r
        )
        self._book_replaced = Counter(
            "spendstream_rate_book_replaced_total",
            "Rate books that this release can't rebuild, replaced by its own at a recovery.",
            registry=r,
        )
        self._cards_valid = Gauge(
            "spendstream_rate_cards_valid",
            "1 while the files of RATE_CARDS are valid, 0 while mistakes keep the former cards in use.",
            registry=r,
        )
        self._cards_in_force = Gauge(
            "spendstream_rate_cards_in_force",
            "1 while the newest rate book is this worker's own, 0 while other cards or another release are in force.",
            registry=r,
        )
        for each in (self._cards_valid, self._cards_in_force):
            each.set(1)  # nothing to report where no meter runs
        self._notified = Counter(
            "spendstream_notifications_sent_total", "Alert transitions delivered.", ["notifier"], registry=r
        )
        self._notify_failed = Counter(
            "spendstream_notifications_failed_total", "Delivery attempts that failed.", ["notifier"], registry=r
        )
        self._notify_dropped = Counter(
            "spendstream_notifications_dropped_total",
            "Alert transitions never delivered: expired (give_up_after), refused by the receiver, or failed here.",
            ["notifier", "outcome"],
            registry=r,
        )
        self._notify_seconds = Histogram(
            "spendstream_notification_delivery_seconds",
            "Time from the record of an alert transition to its delivery.",
            ["notifier"],
            buckets=(*_SECONDS, 60, 300, 3600),
            registry=r,
        )
        self._lag = Gauge(
            "spendstream_lag_records", "Records published but not durable yet.", ["topic", "partition"], registry=r
        )
        self._rows = Counter("spendstream_sink_rows_total", "Rows written to ClickHouse.", ["table"], registry=r)
        self._insert = Histogram(
            "spendstream_sink_insert_seconds", "Duration of one insert.", ["table"], buckets=_SECONDS, registry=r
        )
        self._sink_errors = Counter(
            "spendstream_sink_errors_total",
            "Attempts to insert that failed: ClickHouse was unavailable or rejected them, or the sink failed.",
            ["table", "kind"],
            registry=r,
        )
        self._undecodable = Counter(
            "spendstream_sink_undecodable_total", "Records that a sink could not read.", ["topic"], registry=r
        )
        self._lost = Counter(
            "spendstream_sink_lost_records_total",
            "Records that Kafka deleted before a sink read them. Run `spendstream reconcile --repair`.",
            ["topic", "partition"],
            registry=r,
        )
        self._clickhouse_up = Gauge(
            "spendstream_clickhouse_up",
            "1 while inserts succeed, 0 while ClickHouse is unavailable.",
            ["table"],
            registry=r,
        )
        self._changes = Counter(
            "spendstream_detect_changes_total", "Changed aggregates that the detector has absorbed.", registry=r
        )
        self._detect = Histogram(
            "spendstream_detect_seconds", "Time to absorb and evaluate one fetch.", buckets=_SECONDS, registry=r
        )
        self._behind = Gauge(
            "spendstream_detect_behind_seconds", "How far the detection clock is behind the wall clock.", registry=r
        )
        self._transitions = Counter(
            "spendstream_alert_transitions_total", "Alert transitions published.", ["watch", "transition"], registry=r
        )
        self._snapshot_bytes = Gauge(
            "spendstream_detect_snapshot_bytes", "Size of the detector's last snapshot.", registry=r
        )
        self._agent_failures = Counter(
            "spendstream_agent_failures_total",
            "Failures of the detector or a notifier; each is restarted.",
            ["agent"],
            registry=r,
        )
        self._groups = Gauge("spendstream_detect_groups", "Groups of each watch.", ["watch"], registry=r)

    def batch_absorbed(self, records: int, seconds: float) -> None:
        self._batch.observe(records)
        self._absorb.observe(seconds)

    def stage_failed(self, stage: str) -> None:
        self._stage_failures.labels(stage).inc()

    def quarantined(self, stage: str) -> None:
        self._quarantined.labels(stage).inc()

    def unreadable(self, topic: str, records: int = 1) -> None:
        self._unreadable.labels(topic).inc(records)

    def flushed(self, partition: int, before: Counters, after: Counters, rollups: int, seconds: float) -> None:
        for outcome in _OUTCOMES:
            self._records.labels(outcome).inc(max(0, getattr(after, outcome) - getattr(before, outcome)))
        for mark in _MARKS:
            self._marked.labels(mark).inc(max(0, getattr(after, mark) - getattr(before, mark)))
        self._rollups.inc(rollups)
        self._flush.observe(seconds)

    def state(self, partition: int, *, watermark_us: int, aggregates: int, ids: int, other_calls: int) -> None:
        label = str(partition)
        if watermark_us > NO_WATERMARK:
            self._watermark.labels(label).set(watermark_us / 1e6)
        self._aggregates.labels(label).set(aggregates)
        self._ids.labels(label).set(ids)
        self._other.labels(label).set(other_calls)

    def rate_book(self, partition: int, *, since_offset: int, switched: bool) -> None:
        self._book_since.labels(str(partition)).set(since_offset)
        self._book_switches.inc(switched)

    def rate_book_replaced(self) -> None:
        self._book_replaced.inc()

    def rate_cards_valid(self, valid: bool) -> None:
        self._cards_valid.set(valid)

    def rate_cards_in_force(self, in_force: bool) -> None:
        self._cards_in_force.set(in_force)

    def lag(self, topic: str, partition: int, records: int) -> None:
        self._lag.labels(topic, str(partition)).set(records)

    def detected(self, changes: int, seconds: float, behind_s: float) -> None:
        self._changes.inc(changes)
        self._detect.observe(seconds)
        self._behind.set(behind_s)

    def alert(self, watch: str, transition: str) -> None:
        self._transitions.labels(watch, transition).inc()

    def agent_failed(self, agent: str) -> None:
        self._agent_failures.labels(agent).inc()

    def detect_state(self, snapshot_bytes: int, groups: Mapping[str, int]) -> None:
        self._snapshot_bytes.set(snapshot_bytes)
        for watch, count in groups.items():
            self._groups.labels(watch).set(count)

    # for the notifiers: spendstream.notifiers.delivery.NotifyMetrics
    def notified(self, notifier: str, seconds: float) -> None:
        self._notified.labels(notifier).inc()
        self._notify_seconds.labels(notifier).observe(seconds)

    def notify_failed(self, notifier: str) -> None:
        self._notify_failed.labels(notifier).inc()

    def notification_dropped(self, notifier: str, outcome: str) -> None:
        self._notify_dropped.labels(notifier, outcome).inc()

    # for the sinks: spendstream.sinks.writer.SinkMetrics
    def inserted(self, table: str, rows: int, seconds: float) -> None:
        self._rows.labels(table).inc(rows)
        self._insert.labels(table).observe(seconds)
        self._clickhouse_up.labels(table).set(1)

    def insert_failed(self, table: str, kind: str) -> None:
        self._sink_errors.labels(table, kind).inc()
        if kind == "unavailable":
            self._clickhouse_up.labels(table).set(0)

    def undecodable(self, topic: str, reason: str) -> None:
        self._undecodable.labels(topic).inc()

    def records_lost(self, topic: str, partition: int, records: int) -> None:
        self._lost.labels(topic, str(partition)).inc(records)
