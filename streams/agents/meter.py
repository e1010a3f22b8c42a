"""The metering agent: fetch batches in, durable totals out. A thin loop around ``streams.core.meter``."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import structlog
from aiokafka.errors import IllegalStateError
from faust.types import TP, AppT, EventT, StreamT

from schemas.progress import Counters
from streams.core.batch import NO_TIMESTAMP, RecordBatch
from streams.core.meter import PartitionMeter
from streams.metrics import Metrics
from streams.state.flush import Flusher
from streams.state.recovery import Recovery
from streams.transport.batched import FetchedBatch

log = structlog.get_logger(__name__)

MAX_PENDING_CALLS: Final = 200_000
"""Calls taken in and not yet durable, per partition: beyond it the agent waits for the flush."""

_SEEK_AGAIN_S: Final = 2.0


def record_batch(partition: int, records: list[Any]) -> RecordBatch:
    """Return fetched Kafka records as a batch."""
    n = len(records)
    return RecordBatch(
        partition=partition,
        offsets=np.fromiter((r.offset for r in records), dtype=np.int64, count=n),
        timestamps_ms=np.fromiter(
            (NO_TIMESTAMP if r.timestamp is None else r.timestamp for r in records), dtype=np.int64, count=n
        ),
        keys=[r.key for r in records],
        values=[r.value for r in records],
    )


@dataclass
class _Lease:
    """A partition while it is ours: its meter, and the events that wait for their flush."""

    meter: PartitionMeter
    generation: int
    unacked: list[EventT] = field(default_factory=list)
    absorbing: asyncio.Lock = field(default_factory=asyncio.Lock)
    flushing: asyncio.Lock = field(default_factory=asyncio.Lock)
    reported: Counters = field(default_factory=Counters)
    gap: "_Gap | None" = None


@dataclass
class _Gap:
    """A hole in front of a batch: records that were fetched and dropped on the way, or that are no longer there."""

    first_offset: int
    sought_at: float


class MeterAgent:
    """Holds the meters of the assigned partitions. One CPU thread absorbs and encodes; the event loop does the I/O."""

    def __init__(
        self, app: AppT, recovery: Recovery, flusher: Flusher, executor: ThreadPoolExecutor, metrics: Metrics
    ) -> None:
        self._app = app
        self._recovery = recovery
        self._flusher = flusher
        self._executor = executor
        self._metrics = metrics
        self._leases: dict[int, _Lease] = {}
        self._recoveries: dict[tuple[int, int], asyncio.Task[PartitionMeter]] = {}

    async def run(self, stream: StreamT[Any]) -> AsyncIterator[None]:
        """Absorb batches as they come. An event is acked by the flush that makes it durable."""
        async for event in stream.noack().events():
            try:
                await self._absorb(event)
            except Exception as error:
                await self._fail(error)
            yield

    async def _fail(self, error: Exception) -> None:
        """Crash the worker: a meter that failed half-way must not be flushed. A restart replays from the marker."""
        self._leases.clear()
        log.error("meter.crashed", error=repr(error), exc_info=error)
        await self._app.crash(error)

    async def _absorb(self, event: EventT) -> None:
        records: FetchedBatch = event.message.value
        if event.message.generation_id != self._app.consumer_generation_id:
            return  # fetched under an assignment that is over; its partition is read again from what is durable
        batch = record_batch(event.message.partition, records)
        lease = await self._lease(batch.partition, event.message.generation_id)
        if await self._follows(lease, batch, event.message.tp):
            while lease.meter.pending_calls > MAX_PENDING_CALLS:
                await self._flush(lease)
            started = time.perf_counter()
            async with lease.absorbing:
                await asyncio.get_running_loop().run_in_executor(
                    self._executor, lease.meter.absorb, batch, datetime.now(UTC)
                )
                lease.unacked.append(event)
            self._metrics.batch_absorbed(len(records), time.perf_counter() - started)
        records.is_absorbed = True
        records.clear()

    def assigned(self, partitions: set[TP], topic: str) -> None:
        """Begin to recover the partitions that became ours, all at once."""
        generation = self._app.consumer_generation_id
        self._recoveries = {
            (tp.partition, generation): asyncio.create_task(self._recovery.recover(tp.partition))
            for tp in partitions
            if tp.topic == topic
        }

    async def _lease(self, partition: int, generation: int) -> _Lease:
        lease = self._leases.get(partition)
        if lease is None or lease.generation != generation:
            # another worker may have metered on in between: what is published counts, not what we remember
            begun = self._recoveries.pop((partition, generation), None)
            meter = await (begun or self._recovery.recover(partition))
            lease = self._leases[partition] = _Lease(meter, generation, reported=meter.counters)
        return lease

    async def _follows(self, lease: _Lease, batch: RecordBatch, tp: TP) -> bool:
        """Whether a batch joins what was absorbed. If not, fetch again from there: a rebalance may drop batches.

        When the same hole comes back after that, the records are gone for good (compacted, expired, or a
        transaction's own), and the batch follows.
        """
        expected, gap = lease.meter.through_offset + 1, lease.gap
        if batch.first_offset <= expected or (gap is not None and batch.first_offset == gap.first_offset):
            lease.gap = None
            return True
        if gap is None or time.monotonic() - gap.sought_at > _SEEK_AGAIN_S:
            log.info("meter.reads_again", partition=tp.partition, offset=expected, instead_of=batch.first_offset)
            lease.gap = _Gap(batch.first_offset, time.monotonic())
            with contextlib.suppress(IllegalStateError):  # the partition was taken from us in this moment
                await self._app.consumer.seek(tp, expected)
        return False

    def revoked(self, partitions: set[TP]) -> None:
        """Let go of partitions that are no longer ours; their next owner replays from the last marker."""
        for tp in partitions:
            self._leases.pop(tp.partition, None)
        for recovery in self._recoveries.values():
            recovery.cancel()
        self._recoveries.clear()

    async def flush_all(self) -> None:
        """Flush every partition that has something to flush."""
        try:
            await asyncio.gather(*(self._flush(lease) for lease in list(self._leases.values())))
        except Exception as error:
            await self._fail(error)

    async def _flush(self, lease: _Lease) -> None:
        async with lease.flushing:
            async with lease.absorbing:
                if not lease.meter.has_pending:
                    return
                taken = lease.meter.take()
                events, lease.unacked = lease.unacked, []
            started = time.perf_counter()

            async def commit() -> None:
                if self._leases.get(lease.meter.marker.partition) is lease:
                    for event in events:
                        event.ack()

            await self._flusher.flush(lease.meter, taken, commit)
            self._report(lease, len(taken.rollups), time.perf_counter() - started)

    def _report(self, lease: _Lease, rollups: int, seconds: float) -> None:
        meter = lease.meter
        counters = meter.marker.counters
        self._metrics.flushed(meter.marker.partition, lease.reported, counters, rollups, seconds)
        self._metrics.state(
            meter.marker.partition,
            watermark_us=meter.watermark_us,
            aggregates=len(meter.aggregates),
            ids=meter.seen.count,
            other_calls=meter.aggregates.other_calls(),
        )
        lease.reported = counters
