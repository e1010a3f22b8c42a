"""Records that Kafka deleted before they were inserted: retention is shorter than the outage was."""

from __future__ import annotations

from aiokafka import TopicPartition


class Gaps:
    """Follows the offsets of each partition and notices where some were skipped."""

    def __init__(self) -> None:
        self._next: dict[TopicPartition, int] = {}

    def expect(self, partition: TopicPartition, offset: int) -> None:
        """Say which offset is next, as the group committed it."""
        self._next[partition] = offset

    def forget(self) -> None:
        """Expect nothing: the partitions were given to others."""
        self._next.clear()

    def skipped(self, partition: TopicPartition, first: int, last: int) -> int:
        """Note a run of records and return how many are missing before it.

        An offset below the expected one is a repetition, or a topic that was made anew: nothing is missing.
        """
        expected = self._next.get(partition, first)
        self._next[partition] = last + 1
        return max(0, first - expected)
