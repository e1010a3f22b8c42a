"""A dead letter: a record that could not be metered, why, and its original bytes."""

from datetime import datetime
from enum import StrEnum

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field


class Reason(StrEnum):
    """Why a record was not metered. Stable: alerts and replays select by it."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    INVALID_VALUE = "invalid_value"
    INCONSISTENT_USAGE = "inconsistent_usage"
    OCCURRED_IN_FUTURE = "occurred_in_future"
    INTERNAL_ERROR = "internal_error"
    """An error of this software, not of the record: publish it again with a release that has the fix."""


class DeadLetter(BaseModel):
    """One record, identified by its position: (``source_log``, ``partition``, ``offset``)."""

    model_config = ConfigDict(frozen=True, title="Dead letter, llm.usage.dlq.v1")

    topic: str
    source_log: str = Field(description="Which life of the topic: offsets start over when a topic is recreated.")
    partition: int
    offset: int
    reason: Reason
    field: str | None = Field(None, description="The wrong field, if it is one field.")
    message: str = Field(description="What is wrong and how to fix it.")
    event_id: str | None = Field(None, description="If it could be read.")
    service: str | None = Field(None, description="If it could be read: whom to contact.")
    recorded_at: datetime = Field(description="The record's Kafka timestamp.")
    key: Base64Bytes | None = None
    original: Base64Bytes = Field(
        description="The value of the record: complete unless original_bytes says that it is longer."
    )
    original_bytes: int | None = Field(
        None,
        description="Length of the value, where `original` is only its beginning: such a letter can't be replayed.",
    )
    original_sha256: str | None = Field(None, description="Of the complete value in hex, where it was cut.")
    stage: str | None = Field(None, description="Where it failed, for internal_error: decode, price, encode, produce…")
