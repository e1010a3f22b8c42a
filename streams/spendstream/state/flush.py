"""Flush: make a meter's output durable, in the order that makes a crash at any point harmless."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import MeterOutput, PartitionMeter, Rejected
from spendstream.core.progress import write_progress
from spendstream.core.rollup_record import rollup_record
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import DeadLetter

PRICED_MAX_ROWS = 20_000
PRICED_MAX_BYTES = 900_000
"""Below Kafka's default of 1 MB a record, so that a topic created by hand accepts it."""


@dataclass(frozen=True)
class _Encoded:
    priced: list[Record]
    rollups: list[Record]
    dead_letters: list[Record]
    rerouted: list[Record]


@dataclass(frozen=True)
class Flusher:
    """Writes the output of meters. ``topic`` gives a topic's full name; ``executor`` runs the encoding."""

    producer: AckedProducer
    topic: Callable[[str], str]
    executor: Executor
    dimensions: tuple[str, ...]

    async def flush(
        self, meter: PartitionMeter, output: MeterOutput, at_rest: asyncio.Lock, commit: Callable[[], Awaitable[None]]
    ) -> None:
        """Make the output of one partition's meter durable. Whoever changes the meter holds ``at_rest``.

        1. The priced calls, dead letters and rerouted records are acknowledged: the ledger can't trail the rollups.
        2. The rollups are acknowledged. A crash from here on replays records, and each aggregate skips what it holds.
        3. The marker is acknowledged: what is at or below it is counted, and its event ids are known.
        4. The source offset is committed: Kafka need not deliver it again.
        """
        partition, log = output.progress.marker.partition, output.progress.marker.source_log
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self.executor, self._encode, partition, log, output)
        await asyncio.gather(
            self.producer.write(self.topic(topics.PRICED), encoded.priced),
            self.producer.write(self.topic(topics.DEAD_LETTER), encoded.dead_letters),
            self.producer.write(self.topic(topics.USAGE), encoded.rerouted),
        )
        offset = await self.producer.write_packed(self.topic(topics.ROLLUP), partition, encoded.rollups)
        async with at_rest:
            progress = meter.rollups_written(output, offset)
        marker = Record(
            key=str(partition).encode(),
            value=write_progress(progress),
            timestamp_ms=progress.marker.log_clock_ms or None,
        )
        stands_at = await self.producer.write_packed(self.topic(topics.PROGRESS), partition, [marker])
        async with at_rest:
            meter.mark_durable(progress, stands_at or 0)
        await commit()

    def _encode(self, partition: int, log: str, output: MeterOutput) -> _Encoded:
        priced: list[Record] = []
        if output.calls is not None:
            table = ledger_table(output.calls, partition=partition, source_log=log)
            priced = [
                Record(key=None, value=payload, partition=partition)
                for payload in ledger_records(table, PRICED_MAX_ROWS, PRICED_MAX_BYTES)
            ]
        return _Encoded(
            priced=priced,
            rollups=[
                Record(*rollup_record(log, partition, self.dimensions, key, totals), partition=partition)
                for key, totals in output.rollups
            ],
            dead_letters=[self._dead_letter(partition, log, rejected) for rejected in output.rejected],
            rerouted=[Record(key=r.key, value=r.value, timestamp_ms=r.timestamp_ms) for r in output.rerouted],
        )

    def _dead_letter(self, partition: int, log: str, rejected: Rejected) -> Record:
        rejection = rejected.rejection
        letter = DeadLetter(
            topic=self.topic(topics.USAGE),
            source_log=log,
            partition=partition,
            offset=rejected.offset,
            reason=rejection.reason,
            field=rejection.field,
            message=rejection.message,
            event_id=rejection.event_id,
            service=rejection.service,
            recorded_at=datetime.fromtimestamp(max(rejected.timestamp_ms, 0) / 1000, UTC),
            key=None if rejected.key is None else base64.b64encode(rejected.key),
            original=base64.b64encode(rejected.value or b""),
        )
        return Record(key=f"{partition}/{rejected.offset}".encode(), value=letter.model_dump_json().encode())
