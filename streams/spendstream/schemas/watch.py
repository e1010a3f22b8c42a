"""Watches: what is looked at, when it is worth an alert, and who is told. One YAML file, ``version: 1``.

A watch splits the spend within its ``scope`` by ``group_by``; each group is judged by the ``rule`` on its own.
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
"""What a rule looks at. ``cost`` (USD), ``calls`` and ``tokens`` are per minute; the others are ratios of sums:
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
        raise PydanticCustomError("duration", "not a duration: write a number and s, m, h, d or w, as 90s or 5m")
    return int(found[1]) * _SECONDS[found[2]]


Duration = Annotated[int, BeforeValidator(duration_s)]
"""Seconds; in YAML as ``90s``, ``5m``, ``1h``, ``3d``, ``2w``."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


OneOrMore = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]


def _version(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _refuse(code: str, message: str, *at: str) -> PydanticCustomError:
    """Return an error about the field ``at`` of the model that is being validated."""
    return PydanticCustomError(code, message, {"at": at})


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AnomalyRule(_Model):
    """The measure departs from what is usual for the group, at this hour of the week once that is known."""

    kind: Literal["anomaly"]
    measure: Measure = "cost"
    direction: Literal["up", "down", "both"] = "both"
    sensitivity: Literal["low", "normal", "high"] = "normal"
    min_history: Duration = Field(1800, description="No verdict before the group has so much history.")
    min_spend_usd: Decimal = Field(
        Decimal("0.05"), ge=0, description="Per minute: where the difference in cost is less, it is no anomaly."
    )
    min_change: float = Field(0.5, ge=0, description="Relative: 0.5 is half more, or half less, than expected.")
    min_calls: int = Field(20, ge=0, description="Per minute, for measures that are ratios.")
    no_data_after: Duration | None = Field(600, description="A busy group without any call for so long; null: never.")
    adopt_after: Duration = Field(86_400, description="What has lasted so long is the new normal.")


class BurnRate(_Model):
    """Spend in both windows at ``factor`` times the even pace of the budget."""

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
    """The budget of one group, where it is not the rule's."""

    group: dict[Dimension, str] = Field(min_length=1)
    amount_usd: Decimal = Field(gt=0, max_digits=24, decimal_places=12)


class BudgetRule(_Model):
    """Spend against an amount per period, for each group. Periods turn at midnight of the time zone."""

    kind: Literal["budget"]
    amount_usd: Decimal = Field(gt=0, max_digits=24, decimal_places=12)
    amounts: tuple[BudgetAmount, ...] = ()
    period: Literal["day", "week", "month"] = "month"
    time_zone: str = "UTC"
    thresholds: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (0.5, 0.8, 1.0)
    forecast: bool = Field(True, description="Alert when the period's end is forecast above the amount.")
    burn_rates: tuple[BurnRate, ...] = Field(
        DEFAULT_BURN_RATES, description="Those whose long window is not shorter than the period are left out."
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
    """The measure over the last ``window`` lies above or below a fixed value."""

    kind: Literal["threshold"]
    measure: Measure
    above: float | None = None
    below: float | None = None
    window: Duration = Field(300, ge=60, le=86_400, description="Whole minutes.")
    lasting: Duration = Field(0, description="Pending until it has held for so long.")
    min_calls: int = Field(1, ge=0, description="In the window: with fewer calls there is no verdict.")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise PydanticCustomError("bound", "give one of above and below")
        if self.window % 60:
            raise _refuse("window", "must be whole minutes", "window")
        return self


Rule = Annotated[AnomalyRule | BudgetRule | ThresholdRule, Field(discriminator="kind")]


class Watch(_Model):
    """One thing to be told about."""

    name: str = Field(pattern=f"^{_NAME}$", description="Unique; part of every alert's identity.")
    description: str = ""
    scope: dict[Dimension, OneOrMore] = Field(
        default_factory=dict, description="Which spend: a value, or a list of values, for each dimension that matters."
    )
    group_by: tuple[Dimension, ...] = Field((), description="Each combination is judged on its own; none: the whole.")
    rule: Rule
    severity: Severity = "warning"
    notify: tuple[str, ...] | None = Field(None, description="Names of notifiers; null: all of them.")
    runbook: str | None = None
    renotify: Duration = Field(14_400, description="A firing alert is told again after so long; 0: never.")


class Notifier(_Model):
    """Who is told. Secrets stand in the environment: ``url_env`` and ``secret_env`` name the variables."""

    name: str = Field(pattern=f"^{_NAME}$")
    kind: Literal["webhook", "slack", "alertmanager", "apprise"]
    url: str | None = Field(None, description="For URLs that are no secret.")
    url_env: str | None = Field(None, description="Name of the environment variable that holds the URL.")
    secret_env: str | None = Field(None, description="webhook: the variable with the HMAC key.")
    headers_env: dict[str, str] = Field(default_factory=dict, description="Header name to environment variable.")
    min_severity: Severity = "info"
    resolved: bool = Field(True, description="Tell when it is over, too.")
    timeout: Duration = Field(10, ge=1, le=120)
    group_interval: Duration = Field(
        10, description="After a notification of a watch, what follows of it is gathered for so long; 0: never."
    )
    give_up_after: Duration = Field(3600, description="A notification that could not be sent for so long is dropped.")

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise PydanticCustomError("notifier_url", "give one of url and url_env")
        return self


class Maintenance(_Model):
    """A planned time in which alerts are recorded but nobody is told."""

    name: str = Field(pattern=f"^{_NAME}$")
    starts_at: datetime
    ends_at: datetime
    watches: tuple[str, ...] = Field((), description="None: all.")
    scope: dict[Dimension, OneOrMore] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.starts_at.tzinfo is None or self.ends_at.tzinfo is None:
            raise PydanticCustomError("maintenance_zone", "give both times with their zone, as 2026-03-01T22:00:00Z")
        if self.starts_at >= self.ends_at:
            raise _refuse("maintenance_order", "must be later than starts_at", "ends_at")
        return self


class Watches(_Model):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, title="Watches")

    version: Annotated[Literal[1], BeforeValidator(_version)] = 1
    notifiers: tuple[Notifier, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    watches: tuple[Watch, ...] = Field(min_length=1)


def in_scope(scope: Mapping[Any, Sequence[str]], dimensions: Mapping[str, str]) -> bool:
    """Whether every dimension that a scope names has one of the values it allows."""
    return all(dimensions.get(name) in allowed for name, allowed in scope.items())
