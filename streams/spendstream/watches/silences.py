"""The topic of silences: always read whole, written one record at a time."""

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from spendstream.errors import SpendstreamError
from spendstream.kafka.consumer import read_to_end
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.schemas import topics
from spendstream.schemas.alert import Silence
from spendstream.settings import Settings

_TIMEOUT_S: Final = 30.0
_POLL_MS: Final = 100


class SilenceTopicMissing(SpendstreamError):
    """The topic of silences does not exist."""


class SilenceTopicStalled(SpendstreamError):
    """Kafka answers, but does not accept or send silences."""


def encode(silence: Silence) -> Record:
    """Return a silence as a record: its id is the key, so that a newer one replaces it."""
    return Record(silence.silence_id.encode(), silence.model_dump_json().encode(), partition=0)


def decode(value: bytes | None) -> Silence | None:
    """Return a record's silence; None for a deleted or an invalid one."""
    if value is None:
        return None
    try:
        return Silence.model_validate_json(value)
    except ValidationError:
        return None


async def write_silence(settings: Settings, silence: Silence) -> None:
    """Write a silence. Returns once Kafka has acknowledged it.

    Raises: SilenceTopicMissing; SilenceTopicStalled; aiokafka's KafkaConnectionError, if no broker answers.
    """
    topic = settings.topic(topics.SILENCE)
    consumer = AIOKafkaConsumer(**settings.kafka_client())
    try:
        await consumer.start()
        await _require(consumer, topic)
    finally:
        await consumer.stop()
    producer = AckedProducer(settings.kafka_client())
    try:
        await producer.start()
        async with asyncio.timeout(_TIMEOUT_S):
            await producer.write(topic, [encode(silence)])
    except TimeoutError as error:
        message = (
            f"Kafka did not acknowledge silence {silence.silence_id} within {_TIMEOUT_S:g} s: check `silence list`"
        )
        raise SilenceTopicStalled(message) from error
    finally:
        await producer.stop()


async def read_silences(settings: Settings) -> list[Silence]:
    """Return every silence as it was last written, including ended ones, by start.

    Raises: SilenceTopicMissing; SilenceTopicStalled; aiokafka's errors.
    """
    consumer = AIOKafkaConsumer(**settings.kafka_client(), enable_auto_commit=False, fetch_max_wait_ms=_POLL_MS)
    try:
        await consumer.start()
        await _require(consumer, settings.topic(topics.SILENCE))
        async with asyncio.timeout(_TIMEOUT_S):
            found = await _read(consumer, TopicPartition(settings.topic(topics.SILENCE), 0))
    except TimeoutError as error:
        raise SilenceTopicStalled(f"Kafka did not send its silences within {_TIMEOUT_S:g} s: try again") from error
    finally:
        await consumer.stop()
    return sorted(found.values(), key=lambda silence: (silence.starts_at, silence.silence_id))


async def _read(consumer: Any, partition: TopicPartition) -> dict[str, Silence]:
    found: dict[str, Silence] = {}
    async for _, records in read_to_end(consumer, {partition: None}):
        for record in records:
            silence = decode(record.value)
            if silence is not None:
                found[silence.silence_id] = silence
            elif record.value is None and record.key is not None:
                found.pop(record.key.decode("utf-8", "replace"), None)
    return found


async def _require(consumer: Any, topic: str) -> None:
    # All topics: some brokers create a topic when its metadata is requested by name.
    if topic not in await consumer.topics():
        raise SilenceTopicMissing(f"topic {topic} does not exist: run `spendstream topics`")
