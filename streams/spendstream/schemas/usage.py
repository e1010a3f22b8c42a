"""The usage event: one model call, as the service that made it reports it.

Field names follow OpenTelemetry GenAI and FOCUS where they have a term. No prompt or completion text, ever.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from spendstream.schemas.buckets import INPUT_BUCKETS, PROMPT_PARTS, TOKEN_BUCKETS, tokens_field
from spendstream.schemas.units import MAX_QUANTITY, WEB_SEARCHES, read_units, rounded

ServiceTier = Literal["standard", "batch", "flex", "priority", "fast"]
Capacity = Literal["on_demand", "provisioned"]
Status = Literal["ok", "error", "timeout", "cancelled", "rate_limited", "filtered"]
UsageQuality = Literal["reported", "partial", "estimated"]

MAX_TOKENS: Final = 100_000_000_000
"""Of one bucket of one event: no call has so many, but the usage of a whole batch or of an imported day may."""

MAX_GPU_SECONDS: Final = 10_000_000
EARLIEST: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""Nothing was billed by the token before; an earlier time means a broken clock (1970), not history."""
LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}", re.ASCII)


NIL: Final = UUID(int=0)
"""What an unset id looks like: if it were accepted, all such events would be duplicates of the first."""


def _is_rfc3339(value: Any) -> Any:
    """Accept only text with a zone: pydantic would read a bare number as seconds or milliseconds, by its size."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        return value
    raise PydanticCustomError("timestamp", "Input should be an RFC 3339 time with a zone, e.g. 2026-01-31T12:00:00.5Z")


def _is_uuid(value: Any) -> Any:
    if isinstance(value, UUID) or (isinstance(value, str) and _UUID.fullmatch(value)):
        if value == NIL or (isinstance(value, str) and not value.strip("0-")):
            raise PydanticCustomError("nil_uuid", "Input should not be the nil UUID: mint an id for each call")
        return value
    raise PydanticCustomError("uuid", "Input should be a UUID, e.g. 0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77")


def _is_storable(value: str) -> str:
    """Refuse lone surrogates, which UTF-8 can't encode, and NUL, which ends strings early downstream."""
    if "\x00" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
        raise PydanticCustomError("unstorable_text", "Input should not contain NUL or unpaired surrogates")
    return value


SECRET: Final = r"^(Bearer |sk-|sk_|rk_|xai-|gsk_|hf_|pplx-|fw_|nvapi-|dapi|AIza|ya29\.|ghp_|eyJ)[!-~]{16,}"
"""What API keys and access tokens look like."""
_SECRET = re.compile(SECRET, re.ASCII)


def _masked(value: str) -> str:
    """Return a key that was given by mistake as its last four characters: ``…f3Qa``."""
    return f"…{value[-4:]}" if _SECRET.match(value) else value


def _absent_means(default: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


Text = Annotated[str, Field(max_length=256), AfterValidator(_is_storable)]
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_is_storable)]
Time = Annotated[AwareDatetime, BeforeValidator(_is_rfc3339), Field(ge=EARLIEST, lt=LATEST, strict=False)]
Label = Annotated[Text, AfterValidator(_masked)]
Count = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
Id = Annotated[UUID, BeforeValidator(_is_uuid)]
Quantity = Annotated[Decimal, Field(ge=0, le=MAX_QUANTITY), AfterValidator(rounded)]
Charge = Annotated[Decimal, Field(ge=-1_000_000, le=1_000_000), AfterValidator(rounded)]


class UsageEvent(BaseModel):
    """One model call. Token buckets are disjoint: they sum to the call's total.

    Required: ``event_id``, ``occurred_at``, ``service``, ``provider``, a model, and the counts that were used.
    Unknown fields are ignored; what is yours belongs in ``tags``. ``null`` means absent.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, title="Usage event, llm.usage.v1")

    # identity
    event_id: Id = Field(
        strict=False,
        description="Minted by the producer once per call; retries of the publish repeat it. Not the provider's id.",
    )
    occurred_at: Time = Field(description="When the call ended. RFC 3339 with a zone.")
    requested_at: Time | None = Field(None, description="When it was requested: picks the dated price.")
    provider_response_id: Text | None = None
    attempt: Annotated[int, _absent_means(1)] = Field(
        1, ge=1, le=1000, description="1 for the first try of a task's step, 2 for its first retry."
    )
    trace_id: Text | None = None
    span_id: Text | None = None
    conversation_id: Text | None = None
    task_id: Text | None = Field(None, description="The unit of work that has an outcome: for cost per outcome.")
    agent: Text | None = Field(None, description="The agent that made the call.")
    turn: int | None = Field(None, ge=0, le=1_000_000, description="Which turn of the conversation it belongs to.")
    parent_event_id: Id | None = Field(
        None, strict=False, description="The call that led to this one: the agent's that started a subagent, say."
    )

    # call
    operation: Annotated[Name, _absent_means("chat")] = "chat"
    provider: Name
    model_requested: Name | None = None
    model_served: Name | None = Field(None, description="What answered; priced before model_requested.")
    region: Text | None = Field(None, description="Where the provider served it: us-east-1, europe-west4.")
    inference_geo: Text | None = Field(None, description="Where the provider was bound to keep it: us, eu, global.")
    service_tier: Annotated[ServiceTier, _absent_means("standard")] = "standard"
    capacity: Annotated[Capacity, _absent_means("on_demand")] = Field(
        "on_demand", description="provisioned is prepaid by the hour: its tokens are never billed at list."
    )
    context_step: Count | None = Field(
        None,
        description="Input tokens above which the provider says it billed: 200000 for its 200k-1M window. "
        "By default the event's own input decides.",
    )
    status: Annotated[Status, _absent_means("ok")] = "ok"
    latency_ms: int | None = Field(None, ge=0, le=86_400_000)
    usage_quality: Annotated[UsageQuality, _absent_means("reported")] = "reported"
    usage_notes: list[Text] | None = Field(
        None, max_length=16, description="Why the usage is partial: numbers not read, counts that contradict."
    )

    # tokens: disjoint buckets
    input_tokens: Count | None = Field(None, description="Uncached text input.")
    cache_read_tokens: Count | None = None
    cache_write_5m_tokens: Count | None = None
    cache_write_1h_tokens: Count | None = None
    cache_write_tokens: Count | None = Field(None, description="Written to cache with an unstated lifetime.")
    input_audio_tokens: Count | None = None
    cache_read_audio_tokens: Count | None = None
    input_image_tokens: Count | None = None
    cache_read_image_tokens: Count | None = None
    input_video_tokens: Count | None = None
    output_tokens: Count | None = Field(None, description="Visible text output, without reasoning.")
    reasoning_tokens: Count | None = Field(None, description="Hidden reasoning, billed as output.")
    output_audio_tokens: Count | None = None
    output_image_tokens: Count | None = None
    output_video_tokens: Count | None = None

    # billable units beside tokens
    web_searches: Count | None = None
    units: dict[Name, Quantity] | None = Field(
        None,
        max_length=32,
        description="Quantities by unit, exact decimals: pages, characters, audio_seconds, images, file_searches. "
        "A unit without a price makes the call partly priced.",
    )

    # prompt parts: what the input consists of; included in the input
    prompt_system_tokens: Count | None = None
    prompt_history_tokens: Count | None = None
    prompt_retrieval_tokens: Count | None = None
    prompt_tools_tokens: Count | None = None
    prompt_logging_tokens: Count | None = None

    # attribution
    service: Name
    team: Text | None = None
    feature: Text | None = None
    customer: Text | None = None
    user: Text | None = None
    environment: Text | None = None
    tags: dict[Name, Text] | None = Field(None, max_length=32)

    # the bill's own keys
    account: Text | None = Field(None, description="The account or organisation that the provider bills.")
    project: Text | None = Field(None, description="The provider's project or workspace.")
    credential: Label | None = Field(
        None, description="Id or label of the API key. Never the key itself: what looks like one is cut to its end."
    )

    # self-hosted
    deployment: Text | None = Field(None, description="The configuration that served it: picks a GPU rate card.")
    gpu_seconds: float | None = Field(
        None,
        ge=0,
        le=MAX_GPU_SECONDS,
        allow_inf_nan=False,
        description="Seconds that the deployment was busy with the call, regardless of its number of GPUs: "
        "the rate card's `gpus` multiplies it.",
    )

    # the provider's own figures, kept beside ours
    provider_cost: Charge | None = Field(
        None, description="What the provider says it charged, rounded to 12 decimals; a credit is negative."
    )
    currency: str | None = Field(None, pattern=r"^[A-Z]{3}$")

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.model_served is None and self.model_requested is None:
            raise PydanticCustomError(
                "missing", "Field required: give model_served or model_requested", {"field": "model_requested"}
            )
        return self

    @model_validator(mode="after")
    def _names_units(self) -> Self:
        """Bring units to their usual names; searches of the web have a field of their own."""
        if self.units is None:
            return self
        units = read_units(self.units)
        searches = units.pop(WEB_SEARCHES, None)
        if searches is not None and (searches != int(searches) or self.web_searches not in (None, searches)):
            raise PydanticCustomError(
                "inconsistent_usage",
                "units.web_searches is {searches}, which is no whole number, or not web_searches",
                {"searches": str(searches), "field": "units"},
            )
        # frozen: a validator is the one place where a field may still change
        object.__setattr__(self, "units", units)
        if searches is not None:
            object.__setattr__(self, "web_searches", int(searches))
        return self

    @model_validator(mode="after")
    def _has_counts(self) -> Self:
        counted = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "units", "gpu_seconds")
        if all(getattr(self, field) is None for field in counted):
            raise PydanticCustomError(
                "missing",
                "Field required: give the token counts that were used (0 if none were)",
                {"field": "input_tokens"},
            )
        return self

    @model_validator(mode="after")
    def _parts_are_inside_the_input(self) -> Self:
        parts = sum(getattr(self, f"prompt_{part}_tokens") or 0 for part in PROMPT_PARTS)
        whole = sum(getattr(self, tokens_field(bucket)) or 0 for bucket in INPUT_BUCKETS)
        if parts > whole:
            raise PydanticCustomError(
                "inconsistent_usage",
                "Prompt parts sum to {parts} tokens, more than the input's {whole}",
                {"parts": parts, "whole": whole, "field": "prompt_parts"},
            )
        return self

    @property
    def model(self) -> str:
        """The model that is priced: the one that served the call, else the one requested."""
        return self.model_served or self.model_requested or ""

    @property
    def partition_key(self) -> bytes:
        """Kafka key: ``task_id``, else ``conversation_id``, else ``event_id``: retries meet in one partition."""
        return (self.task_id or self.conversation_id or str(self.event_id)).encode()
