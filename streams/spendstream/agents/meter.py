"""The metering agent: fetch batches in, durable totals out. A thin loop around ``spendstream.core.meter``."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

import structlog
from aiokafka.errors import IllegalStateError
from faust import Stream
from faust.types import TP, AppT, EventT, StreamT

from spendstream.agents.meter_state import Flusher, Recovery
from spendstream.core.batch import RecordBatch
from spendstream.core.meter import PartitionMeter, UnknownRateBook
from spendstream.kafka.batched import FetchedBatch
from spendstream.kafka.consumer import seen_end
from spendstream.metrics import Metrics
from spendstream.schemas.progress import BookInForce, Counters

log = structlog.get_logger(__name__)

MAX_PENDING_CALLS: Final = 200_000
"""Calls absorbed and not yet durable, per partition: beyond it the agent waits for the flush."""

MAX_BATCH_RECORDS: Final = 30_000
"""Fetches are absorbed together, up to about this many records."""

_SEEK_AGAIN_S: Final = 2.0


@dataclass
class _Lease:
    """A partition while this worker owns it: its meter, the batches to absorb, the events that wait for their flush."""

    meter: PartitionMeter
    generation: int
    expected_offset: int
    inbox: deque[EventT[Any]] = field(default_factory=deque)
    absorber: "asyncio.Task[None] | None" = None
    unacked: list[EventT[Any]] = field(default_factory=list)
    absorbing: asyncio.Lock = field(default_factory=asyncio.Lock)
    flushing: asyncio.Lock = field(default_factory=asyncio.Lock)
    reported: Counters = field(default_factory=Counters)
    reported_book: BookInForce = field(default_factory=BookInForce)
    gap: "_Gap | None" = None


def _fetched(event: EventT[Any]) -> FetchedBatch:
    """Return what the transport put into an event in place of a record's bytes."""
    return cast(FetchedBatch, event.message.value)


def _joined(fetches: Sequence[FetchedBatch]) -> RecordBatch:
    return RecordBatch.joined([batch for fetch in fetches for batch in fetch.take()])


@dataclass
class _Gap:
    """A hole before a batch: records that were fetched and dropped by a rebalance, or that no longer exist."""

    first_offset: int
    sought_at: float


class MeterAgent:
    """Holds the meters of the assigned partitions. Threads absorb and encode; the event loop does the I/O."""

    def __init__(
        self,
        app: AppT,
        topic: str,
        recovery: Recovery,
        flusher: Flusher,
        executor: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._topic = topic
        self._recovery = recovery
        self._flusher = flusher
        self._executor = executor
        self._metrics = metrics
        self._leases: dict[int, _Lease] = {}
        self._recoveries: dict[tuple[int, int], asyncio.Task[PartitionMeter]] = {}

    async def run(self, stream: StreamT[Any]) -> AsyncIterator[None]:
        """Absorb batches as they come. An event is acked by the flush that makes it durable."""
        async for event in cast(Stream[Any], stream).noack().events():
            try:
                await self._receive(event)
            except Exception as error:
                await self._fail(error)
            yield

    async def _fail(self, error: Exception) -> None:
        """Crash the worker: a meter that failed half-way must not be flushed. A restart replays from the marker."""
        self._leases.clear()
        log.error("meter.crashed", error=repr(error), exc_info=error)
        await self._app.crash(error)

    async def _receive(self, event: EventT[Any]) -> None:
        """Put a batch into its partition's inbox, if it joins what came before."""
        if event.message.generation_id != self._app.consumer_generation_id:
            return  # fetched under an assignment that is over; its partition is read again from the marker
        lease = await self._lease(event.message.partition, event.message.generation_id)
        records = _fetched(event)
        if not await self._follows(lease, records.first_offset, event.message.tp):
            records.take()
            return
        lease.expected_offset = records.last_offset + 1
        lease.inbox.append(event)
        if lease.absorber is None or lease.absorber.done():
            lease.absorber = asyncio.create_task(self._absorb_inbox(lease))

    async def _absorb_inbox(self, lease: _Lease) -> None:
        """Absorb what has arrived, in as few batches as possible: each batch has a fixed cost, whatever it holds."""
        try:
            while lease.inbox:
                while lease.meter.pending_calls > MAX_PENDING_CALLS:
                    await self._flush(lease)
                async with lease.absorbing:
                    await self._absorb(lease)
        except Exception as error:
            await self._fail(error)

    async def _absorb(self, lease: _Lease) -> None:
        events, count = [lease.inbox.popleft()], 0
        while lease.inbox and (count := count + len(_fetched(events[-1]))) < MAX_BATCH_RECORDS:
            events.append(lease.inbox.popleft())
        fetches = [_fetched(event) for event in events]
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        batch = await loop.run_in_executor(self._executor, _joined, fetches)
        while True:
            try:
                await loop.run_in_executor(self._executor, lease.meter.absorb, batch, datetime.now(UTC))
                break
            except UnknownRateBook as unknown:
                await self._recovery.books.learn(unknown.switch)
        lease.unacked.extend(events)
        self._metrics.batch_absorbed(len(batch.values), time.perf_counter() - started)

    def assigned(self, partitions: set[TP]) -> None:
        """Start to recover the partitions that were assigned, all at once."""
        generation = self._app.consumer_generation_id
        self._recoveries = {
            (tp.partition, generation): asyncio.create_task(self._recovery.recover(tp.partition))
            for tp in partitions
            if tp.topic == self._topic
        }

    async def _lease(self, partition: int, generation: int) -> _Lease:
        lease = self._leases.get(partition)
        if lease is None or lease.generation != generation:
            # another worker may have metered in between: what is published counts, not what this one remembers
            begun = self._recoveries.pop((partition, generation), None)
            meter = await (begun or self._recovery.recover(partition))
            if not meter.marker.book.id:
                # the log was empty then: now that it has a record, its name and its rate book can be stated
                meter = await self._recovery.recover(partition)
            lease = self._leases[partition] = _Lease(
                meter, generation, expected_offset=meter.through_offset + 1, reported=meter.counters
            )
            self._report_book(lease)
        return lease

    async def _follows(self, lease: _Lease, first_offset: int, tp: TP) -> bool:
        """Whether a batch joins what came before. If not, fetch again from there: a rebalance may drop batches.

        When the same hole comes back after that, the records are gone for good (compacted, expired, or a
        transaction's marker), and the batch follows.
        """
        expected, gap = lease.expected_offset, lease.gap
        if first_offset <= expected or (gap is not None and first_offset == gap.first_offset):
            lease.gap = None
            return True
        if gap is None or time.monotonic() - gap.sought_at > _SEEK_AGAIN_S:
            log.info("meter.refetch", partition=tp.partition, offset=expected, instead_of=first_offset)
            lease.gap = _Gap(first_offset, time.monotonic())
            with contextlib.suppress(IllegalStateError):  # the partition was revoked at this moment
                await self._app.consumer.seek(tp, expected)
        return False

    def revoked(self, partitions: set[TP]) -> None:
        """Let go of revoked partitions; their next owner replays from the last marker."""
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
                events, lease.unacked = lease.unacked, []
                if not lease.meter.has_pending:
                    # Read again after a crash between marker and commit: durable before, but no flush would commit it.
                    self._ack(lease, events)
                    return
                output = lease.meter.take()
            started = time.perf_counter()

            async def commit() -> None:
                self._ack(lease, events)

            await self._flusher.flush(lease.meter, output, lease.absorbing, commit)
            async with lease.absorbing:
                self._report(lease, len(output.rollups), time.perf_counter() - started)

    def _ack(self, lease: _Lease, events: Sequence[EventT[Any]]) -> None:
        if self._leases.get(lease.meter.marker.partition) is lease:
            for event in events:
                event.ack()

    def _report(self, lease: _Lease, rollups: int, seconds: float) -> None:
        meter = lease.meter
        counters = meter.marker.counters
        self._metrics.flushed(meter.marker.partition, lease.reported, counters, rollups, seconds)
        end = seen_end(self._app.consumer, TP(self._topic, meter.marker.partition))
        if end is not None:
            self._metrics.lag(self._topic, meter.marker.partition, max(0, end - meter.marker.through_offset - 1))
        self._metrics.state(
            meter.marker.partition,
            watermark_us=meter.watermark_us,
            aggregates=len(meter.aggregates),
            ids=meter.seen.count,
            other_calls=meter.aggregates.other_calls(),
        )
        lease.reported = counters
        self._report_book(lease)

    def _report_book(self, lease: _Lease) -> None:
        marker, former = lease.meter.marker, lease.reported_book
        if marker.book.id == former.id:
            return
        lease.reported_book = marker.book
        self._metrics.rate_book(marker.partition, since_offset=marker.book.since, switched=bool(former.id))
        if former.id:
            log.info(
                "meter.rate_book_switched",
                partition=marker.partition,
                since_offset=marker.book.since,
                book=marker.book.id,
                former=former.id,
            )
