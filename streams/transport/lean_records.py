"""Fetched records as the Kafka client's parser made them, without a second object around each.

aiokafka wraps every parsed record into a ``ConsumerRecord`` of eleven fields, which costs more than parsing it.
A batched topic needs four of them (offset, timestamp, key, value), and the parser's own record has those.
There is no door for this in aiokafka, so its record factory is replaced, for the named topics alone; every
other topic of the process gets ``ConsumerRecord`` as before.
"""

from typing import Any

from aiokafka.consumer import fetcher

_lean_topics: set[str] = set()


class _PartitionRecords(fetcher.PartitionRecords):
    def _consumer_record(self, tp: Any, record: Any) -> Any:
        return record if tp.topic in _lean_topics else super()._consumer_record(tp, record)


def deliver_lean(topic: str) -> None:
    """From now on deliver a topic's records as parsed: ``offset``, ``timestamp`` (ms), ``key``, ``value``."""
    _lean_topics.add(topic)
    fetcher.PartitionRecords = _PartitionRecords
