"""What the sinks share: records in, inserts out, and what is counted on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from spendstream.schemas.dead_letter import Reason

FailureKind = Literal["unavailable", "rejected"]


class Record(Protocol):
    """A Kafka record, as aiokafka's `ConsumerRecord` is one. `timestamp`: milliseconds since 1970."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True)
class Insert:
    """One INSERT: `body` is an Arrow IPC stream of `rows` rows with these columns."""

    table: str
    columns: tuple[str, ...]
    rows: int
    body: bytes


@dataclass(frozen=True)
class Undecodable:
    """A record that is no row: kept in the table of dead letters, so that it neither blocks the sink nor vanishes."""

    record: Record
    reason: Reason
    message: str


@dataclass(frozen=True)
class Landed:
    """What became of a batch of records: every record is in one of the two, or is a tombstone."""

    inserts: tuple[Insert, ...]
    undecodable: tuple[Undecodable, ...] = ()


class Landing(Protocol):
    """Maps the records of one topic to the rows of one table. Pure: no clock, no network."""

    @property
    def table(self) -> str: ...

    @property
    def is_compacted(self) -> bool:
        """Whether the topic is compacted, so that missing offsets are no loss."""
        ...

    def land(self, records: Sequence[Record]) -> Landed:
        """Return the inserts that hold these records, in order. Never raises on what a record contains."""
        ...


class SinkMetrics(Protocol):
    """What a sink reports. `table` and `topic` name it, `seconds` are wall time."""

    def inserted(self, table: str, rows: int, seconds: float) -> None:
        """An insert was acknowledged."""

    def insert_failed(self, table: str, kind: FailureKind) -> None:
        """An insert was not acknowledged."""

    def undecodable(self, topic: str, reason: str) -> None:
        """A record could not be read; it went to the table of dead letters."""

    def records_lost(self, topic: str, partition: int, records: int) -> None:
        """Kafka deleted records before they were inserted: the outage was longer than the topic's retention."""

    def lag(self, topic: str, partition: int, records: int) -> None:
        """So many records are published and not yet inserted."""


class NoMetrics:
    """Counts nothing."""

    def inserted(self, table: str, rows: int, seconds: float) -> None: ...
    def insert_failed(self, table: str, kind: FailureKind) -> None: ...
    def undecodable(self, topic: str, reason: str) -> None: ...
    def records_lost(self, topic: str, partition: int, records: int) -> None: ...
    def lag(self, topic: str, partition: int, records: int) -> None: ...
