"""Publishing dead letters again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spendstream.deadletters.store import Letter
from spendstream.kafka.producer import AckedProducer, Record


async def replay(client: Mapping[str, Any], topic: str, letters: Sequence[Letter]) -> None:
    """Publish the original bytes of letters again, each with its own key. Returns once Kafka has acknowledged all.

    A letter whose fault is in its bytes comes back as a dead letter of its own. One that was counted meanwhile, by
    another record of its ``event_id`` within the dedupe horizon, counts no second time.

    Raises: aiokafka's KafkaConnectionError, where no broker answers.
    """
    producer = AckedProducer(dict(client))
    try:
        await producer.start()
        await producer.write(topic, [Record(letter.key, letter.original) for letter in letters])
    finally:
        await producer.stop()
