"""The cost rollup: one minute, one set of dimensions, one source partition; absolute totals."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, create_model

from spendstream.schemas.measures import MEASURES

DIMENSIONS: Final = (
    "service",
    "team",
    "feature",
    "customer",
    "user",
    "environment",
    "provider",
    "model",
    "service_tier",
    "region",
    "inference_geo",
    "capacity",
    "account",
    "project",
    "credential",
    "agent",
)
"""What a rollup can be grouped by. A deployment chooses among them (``METER_DIMENSIONS``)."""

DEFAULT_DIMENSIONS: Final = tuple(
    d for d in DIMENSIONS[: DIMENSIONS.index("region") + 1] if d not in ("customer", "user")
)

OTHER: Final = "__other__"
"""The value of every dimension of the row that holds what a minute's cardinality cap kept out."""

ON_TIME: Final = -1
"""``correction_block`` of an aggregate that was fed within the allowed lateness; or less, where a minute's calls are
kept apart so that no sum passes 64 bits. See ``spendstream.core.aggregates``."""

Money = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str)]
"""USD, exact to 1e-12, as a decimal string in JSON."""


class _Key(BaseModel):
    model_config = ConfigDict(frozen=True, title="Cost rollup, llm.rollup.1m.v1")

    source_log: str
    source_partition: int
    minute: datetime = Field(description="The window's open time; it spans [minute, minute + 60 s).")
    correction_block: int = Field(
        ON_TIME,
        description="-1 or less on time: dear calls, and far-off offsets, have rows of their own; "
        "else the block of 4,096 offsets whose too-late events this row corrects.",
    )
    dimensions: dict[str, str] = Field(description="By name; an empty string where the event gave none.")


def _fields() -> dict[str, Any]:
    """Return the fields of ``MEASURES``: type and default."""
    fields: dict[str, Any] = {}
    for measure in MEASURES:
        if measure.group:
            is_money = measure.unit == "USD"
            description = f"By {'cost' if is_money else 'token'} bucket; absent is 0."
            kind: Any = dict[str, Money] if is_money else dict[str, int]
            fields[measure.group] = (kind, Field(default_factory=dict, description=description))
        else:
            kind = {"USD": Money, "time": datetime}.get(measure.unit, int)
            default = ... if measure.is_required else 0
            fields[measure.field] = (kind, Field(default, description=measure.doc or None))
    return fields


CostRollup = create_model(
    "CostRollup",
    __base__=_Key,
    __doc__="An aggregate's absolute totals; a later record of the same key replaces it (greatest ``through_offset`` "
    "wins).\n\nKey: (``source_log``, ``source_partition``, ``minute``, ``correction_block``, dimensions).\n"
    "Readers sum over source logs, partitions and correction blocks.",
    **_fields(),
)
