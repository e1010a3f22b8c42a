"""Acknowledged writes to Kafka that survive a broker: a write is retried until every record is acknowledged.

A retry may write a record twice. Everything the meter writes is absolute or carries its identity, so twice counts once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from spendstream.waiting import Backoff

log = structlog.get_logger(__name__)

MAX_REQUEST_BYTES: Final = 8_000_000
_BACKOFF: Final = Backoff(first_s=0.2, max_s=5.0)


@dataclass(frozen=True)
class Record:
    """One record to write; ``partition`` None lets the key decide."""

    key: bytes | None
    value: bytes
    partition: int | None = None
    timestamp_ms: int | None = None


class AckedProducer:
    """Writes records and returns once all are acknowledged by all in-sync replicas."""

    def __init__(self, client: dict[str, Any]) -> None:
        self._client = client
        self._producer: Any = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        await self._connected()

    async def stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def write(self, topic: str, records: Sequence[Record]) -> None:
        """Write records to the partitions they name, or else to those of their keys."""
        if records:
            await self._until_acknowledged(topic, lambda producer: self._send(producer, topic, records))

    async def write_packed(self, topic: str, partition: int, records: Sequence[Record]) -> int | None:
        """Write many small records to one partition, packed into few requests.

        Returns: the offset of the first of them; None where there is nothing to write.
        """
        if not records:
            return None
        offset: int = await self._until_acknowledged(
            topic, lambda producer: self._send_packed(producer, topic, partition, records)
        )
        return offset

    async def _connected(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._client,
                    acks="all",
                    linger_ms=0,
                    max_request_size=MAX_REQUEST_BYTES,
                    max_batch_size=1_000_000,
                    # priced calls are compressed already, ids can't be, and the rest is little
                    compression_type=None,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def _until_acknowledged(self, topic: str, send: Any) -> Any:
        attempt = 0
        while True:
            attempt += 1
            producer: AIOKafkaProducer | None = None
            try:
                producer = await self._connected()
                return await send(producer)
            except MessageSizeTooLargeError:
                raise
            except RecordListTooLargeError as error:
                raise MessageSizeTooLargeError(str(error)) from error
            except KafkaError as error:
                pause_s = round(_BACKOFF.pause_s(attempt), 3)
                log.warning("kafka.write_retried", topic=topic, error=repr(error), pause_s=pause_s)
                if producer is not None and self._producer is producer:
                    self._producer = None
                    try:
                        await asyncio.wait_for(producer.stop(), timeout=1.0)
                    except (KafkaError, TimeoutError, OSError):
                        pass
                await asyncio.sleep(pause_s)

    async def _send(self, producer: AIOKafkaProducer, topic: str, records: Sequence[Record]) -> None:
        futures = [
            await producer.send(topic, value=r.value, key=r.key, partition=r.partition, timestamp_ms=r.timestamp_ms)
            for r in records
        ]
        await _all_acknowledged(futures)

    async def _send_packed(
        self, producer: AIOKafkaProducer, topic: str, partition: int, records: Sequence[Record]
    ) -> int:
        futures = []
        batch = producer.create_batch()
        for record in records:
            if batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms) is None:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                if batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms) is None:
                    raise MessageSizeTooLargeError(f"a record of {len(record.value)} bytes does not fit {topic}")
        futures.append(await producer.send_batch(batch, topic, partition=partition))
        first, *_ = await _all_acknowledged(futures)
        return int(first.offset)


async def _all_acknowledged(futures: Sequence["asyncio.Future[Any]"]) -> list[Any]:
    """Wait for all, so that no failure goes unnoticed; then raise the first, if any."""
    results = await asyncio.gather(*futures, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
