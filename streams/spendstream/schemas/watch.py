"""Watches: what is measured, what raises an alert, and who is notified. One YAML file, ``version: 1``.

A watch splits the spend in its ``scope`` by ``group_by``; the ``rule`` judges each group separately.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from spendstream.schemas.measures import WATCHED
from spendstream.schemas.rollup import DIMENSIONS

if TYPE_CHECKING:
    Measure = str
else:
    Measure = Literal[tuple(WATCHED)]
"""What a rule measures. ``cost`` (USD), ``calls`` and ``tokens`` are per minute; the others are ratios of sums:
``reasoning_share`` of the output tokens, ``cache_hit_rate`` of the input tokens, the other shares of the calls."""

Severity = Literal["info", "warning", "critical"]
if TYPE_CHECKING:
    Dimension = str
else:
    Dimension = Literal[DIMENSIONS]

_DURATION = re.compile(r"(\d{1,9})(s|m|h|d|w|)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"


def duration_s(value: Any) -> int:
    """Return a duration such as ``90s``, ``5m``, ``1h``, ``3d`` or ``2w`` in seconds. A bare number is seconds."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("duration", "not a duration: write a number and s, m, h, d or w, e.g. 90s or 5m")
    return int(found[1]) * _SECONDS[found[2]]


Duration = Annotated[int, BeforeValidator(duration_s)]
"""Seconds; in YAML as ``90s``, ``5m``, ``1h``, ``3d``, ``2w``."""


OneOrMore = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1),
]
Version = Annotated[
    Literal[1], BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdecimal() else value)
]


def _refuse(code: str, message: str, *at: str) -> PydanticCustomError:
    """Return an error at the field ``at`` of the model that is being validated."""
    return PydanticCustomError(code, message, {"at": at})


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AnomalyRule(_Model):
    """The measure differs from what is usual for the group, at this hour of the week once that is known."""

    kind: Literal["anomaly"]
    measure: Measure = "cost"
    direction: Literal["up", "down", "both"] = "both"
    sensitivity: Literal["low", "normal", "high"] = "normal"
    min_history: Duration = Field(1800, description="A group with less history raises no alert.")
    min_spend_usd: Decimal = Field(
        Decimal("0.05"), ge=0, description="Per minute: a smaller difference in cost is not an anomaly."
    )
    min_change: float = Field(0.5, ge=0, description="Relative: 0.5 is 50% more or less than expected.")
    min_calls: int = Field(
        20, ge=0, description="Per minute, for measures that are ratios: fewer calls raise no alert."
    )
    no_data_after: Duration | None = Field(
        600, description="Alert on a busy group that has no calls for this long; null: never."
    )
    adopt_after: Duration = Field(86_400, description="A change that lasts this long becomes the new normal.")


class BurnRate(_Model):
    """Spend in both windows at ``factor`` times the rate that would spend the budget evenly over its period."""

    long: Duration
    short: Duration
    factor: float = Field(gt=0)

    @model_validator(mode="after")
    def _short_is_shorter(self) -> Self:
        if not 60 <= self.short < self.long or self.short % 60 or self.long % 60:
            raise _refuse("burn_rate", "both windows must be whole minutes, and short less than long", "short")
        return self


DEFAULT_BURN_RATES: Final = (
    BurnRate(long=3600, short=300, factor=14.4),
    BurnRate(long=21_600, short=1800, factor=6),
    BurnRate(long=259_200, short=21_600, factor=1),
)


class BudgetAmount(_Model):
    """The budget of one group, if it differs from the rule's."""

    group: dict[Dimension, str] = Field(min_length=1)
    amount_usd: Decimal = Field(gt=0, max_digits=24, decimal_places=12)


class BudgetRule(_Model):
    """Spend against an amount per period, for each group. Periods begin at midnight in the time zone."""

    kind: Literal["budget"]
    amount_usd: Decimal = Field(gt=0, max_digits=24, decimal_places=12)
    amounts: tuple[BudgetAmount, ...] = ()
    period: Literal["day", "week", "month"] = "month"
    time_zone: str = "UTC"
    thresholds: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (0.5, 0.8, 1.0)
    forecast: bool = Field(
        True, description="Alert when spend is forecast to exceed the amount by the end of the period."
    )
    burn_rates: tuple[BurnRate, ...] = Field(
        DEFAULT_BURN_RATES, description="Rates whose long window is not shorter than the period are ignored."
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise PydanticCustomError("time_zone", "unknown time zone: write a name such as Europe/Berlin") from error
        return value


class ThresholdRule(_Model):
    """The measure over the last ``window`` is above or below a fixed value."""

    kind: Literal["threshold"]
    measure: Measure
    above: float | None = None
    below: float | None = None
    window: Duration = Field(300, ge=60, le=86_400, description="Whole minutes.")
    lasting: Duration = Field(0, description="The alert is pending until the condition has held for this long.")
    min_calls: int = Field(1, ge=0, description="In the window: fewer calls raise no alert.")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise PydanticCustomError("bound", "give either above or below")
        if self.window % 60:
            raise _refuse("window", "must be whole minutes", "window")
        return self


Rule = Annotated[AnomalyRule | BudgetRule | ThresholdRule, Field(discriminator="kind")]


class Watch(_Model):
    """One thing to alert on."""

    name: str = Field(pattern=f"^{_NAME}$", description="Unique; part of every alert's identity.")
    description: str = ""
    scope: dict[Dimension, OneOrMore] = Field(
        default_factory=dict, description="Which spend: for each dimension, a value or a list of values."
    )
    group_by: tuple[Dimension, ...] = Field(
        (), description="Each combination is a group of its own; empty: all spend is one group."
    )
    rule: Rule
    severity: Severity = "warning"
    notify: tuple[str, ...] | None = Field(None, description="Names of notifiers; null: all of them.")
    runbook: str | None = None
    renotify: Duration = Field(14_400, description="A firing alert is sent again after this long; 0: never.")


class Notifier(_Model):
    """A receiver of notifications. Secrets are in environment variables, which ``*_env`` fields name."""

    name: str = Field(pattern=f"^{_NAME}$")
    kind: Literal["webhook", "slack", "alertmanager", "apprise"]
    url: str | None = Field(None, description="A URL that is not a secret.")
    url_env: str | None = Field(None, description="Name of the environment variable that holds the URL.")
    secret_env: str | None = Field(None, description="webhook: the variable with the HMAC key.")
    headers_env: dict[str, str] = Field(default_factory=dict, description="Header name to environment variable.")
    min_severity: Severity = "info"
    resolved: bool = Field(True, description="Also notify when an alert is resolved.")
    timeout: Duration = Field(10, ge=1, le=120)
    group_interval: Duration = Field(
        10, description="After a notification of a watch, further alerts are batched for this long; 0: never."
    )
    give_up_after: Duration = Field(
        3600, description="A notification that cannot be delivered for this long is dropped."
    )

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise PydanticCustomError("notifier_url", "give either url or url_env")
        return self


class Maintenance(_Model):
    """A planned time in which alerts are recorded, but nobody is notified."""

    name: str = Field(pattern=f"^{_NAME}$")
    starts_at: datetime
    ends_at: datetime
    watches: tuple[str, ...] = Field((), description="Empty: all watches.")
    scope: dict[Dimension, OneOrMore] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.starts_at.tzinfo is None or self.ends_at.tzinfo is None:
            raise PydanticCustomError("maintenance_zone", "give both times with their zone, e.g. 2026-03-01T22:00:00Z")
        if self.starts_at >= self.ends_at:
            raise _refuse("maintenance_order", "must be later than starts_at", "ends_at")
        return self


class Watches(_Model):
    """The watches file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, title="Watches")

    version: Version = 1
    notifiers: tuple[Notifier, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    watches: tuple[Watch, ...] = Field(min_length=1)


def in_scope(scope: Mapping[Any, Sequence[str]], dimensions: Mapping[str, str]) -> bool:
    """Whether every dimension of a scope has one of the values it allows."""
    return all(dimensions.get(name) in allowed for name, allowed in scope.items())
