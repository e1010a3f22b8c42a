"""The world of a crash test: a real Kafka, a real ClickHouse engine, worker processes, and what they came to."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import clickhouse_connect
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from spendstream.clickhouse.migrate import MigrationSettings, Migrator
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.embedded.process import ManagedProcess
from spendstream.kafka.topics import ensure_topics, topic_specs
from spendstream.schemas import topics
from spendstream.settings import Settings
from tests.crash.workload import RATE_CARDS, Record, Workload
from tests.kafka.server import LocalKafka

_PUSD = 10**12


class World:
    """Everything a worker needs, on loopback and free ports, in one folder."""

    def __init__(self, folder: Path, broker: Any = None, **overrides: str) -> None:
        self.folder = folder
        self.kafka = broker or LocalKafka(folder / "kafka")
        self.clickhouse = EmbeddedClickHouse(folder / "clickhouse")
        self._overrides = overrides
        self.workers: list[ManagedProcess] = []
        self._started = 0
        self._asked: tuple[int, Any] = (0, None)

    def __enter__(self) -> "World":
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "rates.yaml").write_text(RATE_CARDS)
        self.kafka.start()
        self.clickhouse.start()
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "KAFKA_PARTITIONS": "4",
            "KAFKA_SESSION_TIMEOUT_S": "3",
            "CLICKHOUSE_URL": self.clickhouse.url,
            "RATE_CARDS": str(self.folder / "rates.yaml"),
            "METER_DIMENSIONS": "service,team,provider,model",
            "METRICS_PORT": "0",
            "LOG_FORMAT": "console",
            **self._overrides,
        }
        self.settings = Settings(**{name.lower(): value for name, value in self.environment.items()})
        self.make_topics()
        Migrator(self.client(), MigrationSettings()).up()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.stop(timeout_s=5)
        self.clickhouse.stop()
        self.kafka.stop()

    def make_topics(self) -> None:
        asyncio.run(
            ensure_topics({"bootstrap_servers": self.kafka.bootstrap}, topic_specs(self.settings), replication=1)
        )

    def delete_topics(self) -> None:
        """Delete every topic: a broker that has just started does not know any either, for a moment."""
        asyncio.run(self._delete_topics())

    async def _delete_topics(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([spec.name for spec in topic_specs(self.settings)])
        finally:
            await admin.close()

    def client(self) -> Any:
        return clickhouse_connect.get_client(dsn=self.clickhouse.url, autogenerate_session_id=False)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask ClickHouse through one client for each of its lives: a new client reads all settings of the server."""
        life, client = self._asked
        if life != self.clickhouse.pid:
            client = self.client()
            self._asked = (self.clickhouse.pid, client)
        return [tuple(row) for row in client.query(sql).result_rows]

    def start_worker(self) -> ManagedProcess:
        self._started += 1
        worker = ManagedProcess(
            [sys.executable, "-m", "spendstream.cli", "worker"],
            log_path=self.folder / f"worker-{self._started}.log",
            env={**os.environ, **self.environment},
        )
        worker.start()
        self.workers.append(worker)
        return worker

    def keep_running(self, count: int) -> None:
        """Start workers until so many run, as a supervisor would."""
        self.workers = [worker for worker in self.workers if worker.is_running()]
        while len(self.workers) < count:
            self.start_worker()

    def publish(self, workload: Workload, seconds: float, per_second: int) -> None:
        """Publish at a steady rate; every record is acknowledged before this returns, whatever the broker does."""
        asyncio.run(self._publish(workload, seconds, per_second))

    async def _publish(self, workload: Workload, seconds: float, per_second: int) -> None:
        # a repeated call is metered once anyway; a repeated malformed record is a second record, and a second letter
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap,
            acks="all",
            linger_ms=5,
            enable_idempotence=isinstance(self.kafka, LocalKafka),
            request_timeout_ms=120_000,
        )
        await producer.start()
        try:
            steps = int(seconds * 10)
            for _ in range(steps):
                started = time.monotonic()
                await self._acknowledged(producer, workload.take(per_second // 10))
                await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - started)))
        finally:
            await producer.stop()

    async def _acknowledged(self, producer: AIOKafkaProducer, records: Iterable[Record]) -> None:
        """A producer that repeats what was not acknowledged: dead letters repeat too, so those go until they land."""
        left = list(records)
        for _ in range(60):
            futures = []
            for record in left:
                try:
                    futures.append(await producer.send(self.settings.topic(topics.USAGE), record.value, key=record.key))
                except KafkaError as error:
                    futures.append(asyncio.get_running_loop().create_future())
                    futures[-1].set_exception(error)
            results = await asyncio.gather(*futures, return_exceptions=True)
            left = [record for record, result in zip(left, results, strict=True) if isinstance(result, BaseException)]
            if not left:
                return
            await asyncio.sleep(0.5)
        raise TimeoutError(f"{len(left)} records were never acknowledged")

    def drained(self, workload: Workload, timeout_s: float = 240) -> None:
        """Wait until ledger, rollups and dead letters hold the expected numbers, and then stay so."""
        deadline = time.monotonic() + timeout_s
        expected = (len(workload.truth.cost_by_id), len(workload.truth.cost_by_id), workload.truth.dead_letters)
        seen: tuple[Any, ...] = ()
        while time.monotonic() < deadline:
            try:
                seen = self.counts()
            except Exception as error:  # the engine may just have been killed: say it if it never returns
                seen = (repr(error),)
            if seen == expected:
                break
            time.sleep(0.5)
        else:
            raise AssertionError(f"ledger, rollups, dead letters: {seen}, expected {expected}\n{self.logs()}")
        time.sleep(2.0)
        assert self.counts() == expected, "the numbers moved after they had been right"

    def counts(self) -> tuple[int, int, int]:
        (ledger,) = self.query("SELECT count() FROM spendstream.calls_v")[0]
        (rollups,) = self.query("SELECT toInt64(sum(calls)) FROM spendstream.spend_1m")[0]
        (dead,) = self.query("SELECT count() FROM spendstream.dead_letters FINAL")[0]
        return ledger, rollups, dead

    def logs(self) -> str:
        paths = sorted(self.folder.glob("worker-*.log"))[-3:]
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in paths)

    def assert_exact(self, workload: Workload) -> None:
        """Ledger, rollups and truth agree: every event, every minute and series, to the pico-dollar."""
        truth = workload.truth
        ledger = dict(self.query("SELECT toString(event_id), cost_usd FROM spendstream.calls_v"))
        assert ledger.keys() == truth.cost_by_id.keys()
        wrong = {id_: (ledger[id_], cost) for id_, cost in truth.cost_by_id.items() if _pusd(ledger[id_]) != cost}
        assert not wrong, json.dumps({k: str(v) for k, v in list(wrong.items())[:5]})
        rows = self.query(
            "SELECT formatDateTime(minute, '%Y-%m-%d %H:%i', 'UTC'), service, model, toInt64(sum(calls)),"
            " sum(cost_usd), toInt64(sum(total_tokens))"
            " FROM spendstream.spend_1m GROUP BY minute, service, model"
        )
        assert {row[:3]: row[3] for row in rows} == dict(truth.calls)
        assert {row[:3]: row[5] for row in rows} == dict(truth.tokens)
        assert {row[:3]: _pusd(row[4]) for row in rows if row[4] is not None} == dict(truth.cost)
        total = self.query("SELECT sum(cost_usd) FROM spendstream.calls_v")[0][0]
        assert total == self.query("SELECT sum(cost_usd) FROM spendstream.spend_1m")[0][0]
        assert _pusd(total) == sum(truth.cost.values())
        self._assert_explained()

    def _assert_explained(self) -> None:
        """Every priced call is the sum of its charges, and each is its quantity times the rate of a known card."""
        unknown = "rate_card_id != '' AND rate_card_id NOT IN (SELECT rate_card_id FROM spendstream.rate_cards_v)"
        assert self.query(f"SELECT count() FROM spendstream.calls_v WHERE {unknown}") == [(0,)]
        rest = "abs(toDecimal256(quantity, 12) * rate_usd / per - cost_usd)"
        ((charges, wrong, total),) = self.query(
            f"SELECT count(), countIf(rate_usd IS NULL OR {rest} >= toDecimal256('0.000000000001', 12)), sum(cost_usd) "
            "FROM spendstream.charges_v WHERE cost_usd IS NOT NULL"
        )
        assert charges > 0
        assert wrong == 0
        assert self.query("SELECT sum(cost_usd) FROM spendstream.calls_v") == [(total,)]


def _pusd(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * _PUSD)
