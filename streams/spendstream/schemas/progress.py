"""The meter's own marker: up to which offset one source partition is durable. Internal to the meter."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Counters(BaseModel):
    """What happened to each record of a partition since its log started. The outcomes sum to ``records``."""

    model_config = ConfigDict(frozen=True)

    records: int = 0
    metered: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    rerouted: int = Field(
        default=0, description="Records without a key, forwarded to the partition of the key that their contents give."
    )
    late: int = Field(0, description="Metered after their minute closed, within the allowed lateness.")
    corrections: int = Field(0, description="Metered beyond the allowed lateness.")
    unpriced: int = Field(0, description="Metered without a price.")
    substituted: int = Field(0, description="Metered at other rates than those asked for, which are unknown.")
    estimated: int = Field(0, description="Metered at rates not known to have applied on that day.")
    partly_priced: int = Field(0, description="Metered without the price of a unit or fee.")


class BookInForce(BaseModel):
    """Which rate book prices the records of a partition."""

    model_config = ConfigDict(frozen=True)

    id: str = Field("", description="Hash of its contents. Empty: a marker of a release without rate books.")
    published: int = Field(-1, description="Offset in the topic of rate books. Only a greater one replaces it.")
    since: int = Field(0, description="First source offset that it prices.")


class RateSwitch(BaseModel):
    """A record among the usage events of a partition: from the next offset on, another rate book prices them.

    In the log itself, so that every reader of the log switches at the same offset, however often it is read. Written
    once the book is acknowledged. A switch to an older book than the one in force is a late repetition: it is ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_book: str = Field(min_length=1, description="Id of the book.")
    published: int = Field(ge=0, description="The book's offset in the topic of rate books.")


class Quarantined(BaseModel):
    """A record on which this software fails. It becomes a dead letter, whatever it holds.

    Written to the progress topic before the dead letter, so that every replay decides the same: also one by a release
    that has the fix. Otherwise a crash between dead letter and marker would let the record count twice.
    """

    model_config = ConfigDict(frozen=True)

    offset: int
    stage: str
    error: str


class Progress(BaseModel):
    """Written once everything up to ``through_offset`` is acknowledged. The record's value also carries
    the 16-byte event ids counted since the previous marker, so that duplicates are recognized after a crash.
    """

    model_config = ConfigDict(frozen=True)

    partition: int
    source_log: str
    first_offset: int
    through_offset: int
    watermark_us: int = Field(description="Greatest event time so far, µs since 1970. Never goes back.")
    log_clock_ms: int = Field(description="Greatest Kafka timestamp so far: the clock of the dedupe horizon.")
    through_timestamp_ms: int = Field(
        default=-1, description="Kafka timestamp of the record at through_offset: reveals a topic that was recreated."
    )
    rollups_from: int = Field(description="Offset in the rollup topic from which the open aggregates can be read back.")
    ids_from: int = Field(
        default=0, description="Offset in the progress topic from which the ids within the horizon can be read back."
    )
    counters: Counters = Counters()
    book: BookInForce = Field(default=BookInForce(), description="Prices what comes after through_offset.")
    quarantined: list[Quarantined] = Field(
        default_factory=list, description="Records after through_offset that become dead letters of internal_error."
    )
    id_segments: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list, description="[generation, count] runs over the ids that follow, in offset order."
    )
