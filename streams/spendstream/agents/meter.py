"""The metering agent: fetch batches in, durable totals out. A thin loop around ``spendstream.core.meter``."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

import structlog
from aiokafka.errors import IllegalStateError, MessageSizeTooLargeError
from faust import Stream
from faust.types import TP, AppT, EventT, StreamT

from spendstream.agents.meter_state import Flusher, Recovery
from spendstream.core.batch import RecordBatch
from spendstream.core.meter import PartitionMeter, StageFailed, UnknownRateBook
from spendstream.core.quarantine import find_faults, quarantined
from spendstream.kafka.batched import FetchedBatch
from spendstream.kafka.consumer import seen_end
from spendstream.metrics import Metrics
from spendstream.schemas.progress import BookInForce, Counters, Quarantined

log = structlog.get_logger(__name__)

MAX_PENDING_CALLS: Final = 200_000
"""Calls absorbed and not yet durable, per partition: beyond it the agent waits for the flush."""

MAX_BATCH_RECORDS: Final = 30_000
"""Fetches are absorbed together, up to about this many records."""

_SEEK_AGAIN_S: Final = 2.0

_OF_RECORDS: Final = (StageFailed, MessageSizeTooLargeError)
"""Errors that records may be the cause of. Others are the worker's: a restart replays from the marker.

The second is of a rollup or a marker, which is smaller when fewer records are flushed.
"""


@dataclass(frozen=True)
class _Care:
    """How a partition is read again after an error: each piece is tried first, and made durable at once.

    ``until``: the last offset that may hold the cause. A piece that fails though its trial passed is halved: up to
    ``near``, pieces have at most ``records``. ``condemned``: the record that failed alone.
    """

    until: int
    near: int = -1
    records: int = MAX_BATCH_RECORDS
    condemned: Quarantined | None = None


@dataclass(frozen=True)
class _Piece:
    """What is being metered with care. ``is_quarantined``: one record, already a dead letter."""

    first_offset: int
    last_offset: int
    records: int
    is_quarantined: bool


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
    care: _Care | None = None
    piece: _Piece | None = None
    is_broken: bool = False
    """Its meter failed half-way: it must be neither absorbed into nor flushed."""


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
        self._cares: dict[int, _Care] = {}

    async def run(self, stream: StreamT[Any]) -> AsyncIterator[None]:
        """Absorb batches as they come. An event is acked by the flush that makes it durable."""
        async for event in cast(Stream[Any], stream).noack().events():
            try:
                await self._receive(event)
            except Exception as error:
                await self._fail(error)
            yield

    async def _failed(self, lease: _Lease, error: Exception) -> None:
        """Forget a meter that failed half-way, and read its partition again from the marker, with care.

        So a record that this software fails on becomes a dead letter, and those around it are metered.
        """
        lease.is_broken = True
        partition, offset = lease.meter.marker.partition, lease.meter.marker.through_offset + 1
        if self._leases.get(partition) is not lease:
            return  # revoked, or forgotten by another task
        piece, alone = lease.piece, lease.piece is not None and lease.piece.records == 1
        is_undecided = isinstance(error, StageFailed) and not (piece is not None and piece.is_quarantined)
        if not isinstance(error, _OF_RECORDS) or (alone and not is_undecided):
            await self._fail(error)
            return
        care = _Care(max(lease.expected_offset - 1, lease.care.until if lease.care else -1))
        if piece is not None:
            condemned = quarantined(piece.first_offset, error) if alone and isinstance(error, StageFailed) else None
            care = _Care(care.until, piece.last_offset, max(1, piece.records // 2), condemned)
        del self._leases[partition]
        lease.inbox.clear()
        self._cares[partition] = care
        stage = error.stage if isinstance(error, StageFailed) else "produce"
        self._metrics.stage_failed(stage)
        log.error("meter.stage_failed", stage=stage, partition=partition, from_offset=offset, exc_info=error)
        with contextlib.suppress(IllegalStateError):  # the partition was revoked at this moment
            await self._app.consumer.seek(TP(self._topic, partition), offset)

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
            while lease.inbox and not lease.is_broken:
                if lease.care is not None:
                    await self._absorb_with_care(lease, lease.care)
                    continue
                while lease.meter.pending_calls > MAX_PENDING_CALLS:
                    await self._flush(lease)
                async with lease.absorbing:
                    await self._absorb(lease)
        except Exception as error:
            await self._failed(lease, error)

    async def _absorb(self, lease: _Lease) -> None:
        events, count = [lease.inbox.popleft()], 0
        while lease.inbox and (count := count + len(_fetched(events[-1]))) < MAX_BATCH_RECORDS:
            events.append(lease.inbox.popleft())
        fetches = [_fetched(event) for event in events]
        loop = asyncio.get_running_loop()
        batch = await loop.run_in_executor(self._executor, _joined, fetches)
        await self._absorb_batch(lease, batch)
        lease.unacked.extend(events)

    async def _absorb_batch(self, lease: _Lease, batch: RecordBatch) -> None:
        started = time.perf_counter()
        try:
            await self._with_books(lease.meter.absorb, batch, datetime.now(UTC))
        except StageFailed:
            lease.is_broken = True  # before the lock is released: a flush may wait for it
            raise
        self._metrics.batch_absorbed(len(batch.values), time.perf_counter() - started)

    async def _with_books(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a thread; if it needs a rate book that isn't at hand, fetch that and run it again."""
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
            except UnknownRateBook as unknown:
                await self._recovery.books.learn(unknown.switch)

    async def _absorb_with_care(self, lease: _Lease, care: _Care) -> None:
        """Meter one fetch in pieces. Nothing is pending before a piece, nor after it."""
        event = lease.inbox.popleft()
        rest = _joined([_fetched(event)]).after(lease.meter.through_offset)
        while rest is not None and not lease.is_broken:
            size = care.records if rest.first_offset <= care.near else MAX_BATCH_RECORDS
            batch, rest = rest.split(size)
            await self._meter_piece(lease, batch, care.condemned)
        async with lease.absorbing:
            lease.unacked.append(event)
        await self._flush(lease)
        if lease.meter.through_offset >= care.until:
            lease.care = lease.piece = None

    async def _meter_piece(self, lease: _Lease, batch: RecordBatch, condemned: Quarantined | None) -> None:
        faults = await self._with_books(find_faults, lease.meter, batch, datetime.now(UTC), self._flusher.encode)
        if condemned is not None and condemned.offset == batch.first_offset:
            faults = faults or [condemned]
        size = len(batch.values)
        lease.piece = _Piece(batch.first_offset, batch.last_offset, size, is_quarantined=size == 1 and bool(faults))
        async with lease.absorbing:
            if faults:
                await self._flusher.quarantine(lease.meter, faults)
            await self._absorb_batch(lease, batch)
        for fault in faults:
            self._metrics.quarantined(fault.stage)
            log.error("meter.record_quarantined", partition=batch.partition, **fault.model_dump())
        await self._flush(lease)

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
                meter,
                generation,
                expected_offset=meter.through_offset + 1,
                reported=meter.counters,
                care=self._cares.pop(partition, None),
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
            self._cares.pop(tp.partition, None)
        for recovery in self._recoveries.values():
            recovery.cancel()
        self._recoveries.clear()

    async def flush_all(self) -> None:
        """Flush every partition that has something to flush."""
        await asyncio.gather(*map(self._flush_or_forget, list(self._leases.values())))

    async def _flush_or_forget(self, lease: _Lease) -> None:
        try:
            await self._flush(lease)
        except Exception as error:
            await self._failed(lease, error)

    async def _flush(self, lease: _Lease) -> None:
        async with lease.flushing:
            try:
                await self._flush_pending(lease)
            except Exception:
                lease.is_broken = True  # what was taken can't be taken again
                raise

    async def _flush_pending(self, lease: _Lease) -> None:
        async with lease.absorbing:
            if lease.is_broken:
                return
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
