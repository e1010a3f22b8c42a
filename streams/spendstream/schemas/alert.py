"""Alerts on the wire: each transition of an alert is a record of its own, complete in itself."""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from spendstream.schemas.rollup import Money
from spendstream.schemas.watch import Measure, Severity

NAMESPACE = UUID("5e9d5e0c-7b0e-5c53-9d4f-6f1d6ad1f0a7")
"""Namespace of the version 5 UUIDs of alerts and their transitions."""

State = Literal["pending", "firing", "resolved"]
Transition = Literal["pending", "firing", "updated", "resolved"]

Factor = Literal[
    "volume",
    "model_mix",
    "tier",
    "tokens_per_call",
    "bucket_mix",
    "cache",
    "price",
]
"""A cause of a change in spend. The parts of all factors sum to the whole change, exactly."""


class Part(BaseModel):
    """One factor's part in the change in spend."""

    model_config = ConfigDict(frozen=True)

    factor: Factor
    change_usd_per_minute: Money
    words: str = Field(description="What happened, e.g. 'longer prompts: 8,400 input tokens a call instead of 2,100'.")


class Contributor(BaseModel):
    """One value of a dimension that the alert is not grouped by, and its part in the change in spend."""

    model_config = ConfigDict(frozen=True)

    dimension: str
    value: str
    change_usd_per_minute: Money
    observed_usd_per_minute: Money
    share: float = Field(description="Share of the whole change; may be negative, or above 1.")


class Attribution(BaseModel):
    """Why spend changed: observed against expected, both in USD per minute."""

    model_config = ConfigDict(frozen=True)

    observed_usd_per_minute: Money
    expected_usd_per_minute: Money
    parts: tuple[Part, ...] = Field(description="Largest first; they sum to observed - expected.")
    contributors: tuple[Contributor, ...] = ()
    facts: tuple[str, ...] = Field((), description="What else changed: failures, retries, unpriced calls.")

    @property
    def reason(self) -> str:
        """The main reason as text; empty if there is none."""
        return self.parts[0].words if self.parts else ""


class BudgetStatus(BaseModel):
    """The state of a budget."""

    model_config = ConfigDict(frozen=True)

    period_start: datetime
    period_end: datetime
    amount_usd: Money
    spent_usd: Money = Field(description="Exact: the sum of the ledger's priced calls in the period.")
    forecast_usd: Money | None = Field(None, description="Spend at the end of the period, if it continues like this.")
    burn_rate: float | None = Field(None, description="In the long window; 1 spends the budget evenly over its period.")
    burn_rate_short: float | None = None


class Projection(BaseModel):
    """What the excess will cost, if it continues."""

    model_config = ConfigDict(frozen=True)

    excess_by_end_of_hour_usd: Money
    excess_by_end_of_month_usd: Money


class Alert(BaseModel):
    """One transition of one alert, ``llm.alert.v1``. Key: ``alert_id``; ``seq`` orders its transitions from 1.

    ``transition_id`` is the same whenever the transition is written again: a receiver uses it to count it once.
    """

    model_config = ConfigDict(frozen=True, title="Alert, llm.alert.v1")

    alert_id: UUID
    transition_id: UUID
    seq: int = Field(ge=1)
    transition: Transition
    state: State
    watch: str
    rule: Literal["anomaly", "budget", "threshold"]
    facet: str = Field(description="Which of the rule's alerts: up, down, no_data, 80%, forecast, burn_1h_5m, above.")
    severity: Severity
    group: dict[str, str] = Field(description="The watch's group_by, with this group's values.")
    measure: Measure = "cost"
    unit: str = Field("USD/min", description="Of observed, expected and limit.")

    started_at: datetime = Field(description="Open of the first minute of the evidence; for a budget, of its period.")
    at: datetime = Field(description="The detection clock when this was decided.")
    ends_at: datetime | None = Field(None, description="When it ended; set if resolved.")

    observed: float
    expected: float | None = None
    limit: float | None = Field(None, description="The bound that was crossed.")
    score: float | None = Field(None, description="How unusual it is, in robust standard deviations of the group.")

    title: str
    attribution: Attribution | None = None
    projection: Projection | None = None
    budget: BudgetStatus | None = None

    notify: bool = Field(description="Whether this transition sends a notification.")
    notified_at: datetime | None = Field(None, description="The detection clock at the last transition that sent one.")
    notifiers: tuple[str, ...] = Field((), description="Names of the notifiers it is addressed to.")
    silenced_by: str | None = Field(None, description="The silence or maintenance window that suppresses it.")
    runbook: str | None = None


class Silence(BaseModel):
    """Suppresses notifications for a while, ``llm.silence.v1``. Key: ``silence_id``. Written again to end it."""

    model_config = ConfigDict(frozen=True, title="Silence, llm.silence.v1")

    silence_id: str
    starts_at: datetime
    ends_at: datetime
    watch: str | None = Field(None, description="None: every watch.")
    group: dict[str, str] = Field(
        default_factory=dict, description="Dimensions that must all match; empty: every group."
    )
    comment: str = ""
    created_by: str = ""


def alert_id(watch: str, facet: str, group: dict[str, str], started_at: datetime) -> UUID:
    """Return the identity of an alert. The same evidence always gives the same identity."""
    members = "\x1f".join(f"{name}\x1e{value}" for name, value in sorted(group.items()))
    return uuid5(NAMESPACE, "\x1d".join((watch, facet, started_at.isoformat(), members)))


def transition_id(alert: UUID, seq: int, transition: Transition) -> UUID:
    """Return the identity of a transition."""
    return uuid5(alert, f"{seq}:{transition}")


def usd(amount: float) -> Decimal:
    """Return an estimate as USD, rounded to a millionth. Not for amounts that are billed."""
    return Decimal(f"{amount:.6f}")
