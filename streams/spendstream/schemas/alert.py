"""Alerts on the wire: each transition of an alert is a record of its own, and holds all there is to say."""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from spendstream.schemas.rollup import Money
from spendstream.schemas.watch import Measure, Severity

NAMESPACE = UUID("5e9d5e0c-7b0e-5c53-9d4f-6f1d6ad1f0a7")
"""Of the version 5 UUIDs of alerts and their transitions."""

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
"""What moved the spend. The parts of all factors sum to the whole change, exactly."""


class Part(BaseModel):
    """One factor's part in the change of spend."""

    model_config = ConfigDict(frozen=True)

    factor: Factor
    change_usd_per_minute: Money
    words: str = Field(description="What happened, as 'longer prompts: 8,400 input tokens a call instead of 2,100'.")


class Contributor(BaseModel):
    """One value of a dimension that the alert is not grouped by, and its part in the change of spend."""

    model_config = ConfigDict(frozen=True)

    dimension: str
    value: str
    change_usd_per_minute: Money
    observed_usd_per_minute: Money
    share: float = Field(description="Of the whole change; may be negative, or above 1.")


class Attribution(BaseModel):
    """Why the spend changed: observed against expected, both in USD a minute."""

    model_config = ConfigDict(frozen=True)

    observed_usd_per_minute: Money
    expected_usd_per_minute: Money
    parts: tuple[Part, ...] = Field(description="Greatest first; they sum to observed - expected.")
    contributors: tuple[Contributor, ...] = ()
    facts: tuple[str, ...] = Field((), description="Beside the money: failures, retries, unpriced calls.")

    @property
    def reason(self) -> str:
        """The main reason in words; empty where there is none."""
        return self.parts[0].words if self.parts else ""


class BudgetStatus(BaseModel):
    """Where a budget stands."""

    model_config = ConfigDict(frozen=True)

    period_start: datetime
    period_end: datetime
    amount_usd: Money
    spent_usd: Money = Field(description="Exact: the sum of the ledger's priced calls within the period.")
    forecast_usd: Money | None = Field(None, description="At the period's end, if it goes on like this.")
    burn_rate: float | None = Field(None, description="In the long window; 1 is the even pace.")
    burn_rate_short: float | None = None


class Projection(BaseModel):
    """What the excess comes to, if it goes on."""

    model_config = ConfigDict(frozen=True)

    excess_by_end_of_hour_usd: Money
    excess_by_end_of_month_usd: Money


class Alert(BaseModel):
    """One transition of one alert, ``llm.alert.v1``. Key: ``alert_id``; ``seq`` orders its transitions from 1.

    ``transition_id`` is the same whenever the transition is written again: a receiver needs no other to count it once.
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

    started_at: datetime = Field(description="Open of the first minute of the evidence; of a budget: of its period.")
    at: datetime = Field(description="The detection clock when this was decided.")
    ends_at: datetime | None = Field(None, description="When it was over: set where resolved.")

    observed: float
    expected: float | None = None
    limit: float | None = Field(None, description="The bound that was crossed.")
    score: float | None = Field(None, description="How unusual: in robust standard deviations of the group.")

    title: str
    attribution: Attribution | None = None
    projection: Projection | None = None
    budget: BudgetStatus | None = None

    notify: bool = Field(description="Whether anybody is to be told of this transition.")
    notified_at: datetime | None = Field(None, description="The detection clock of the last transition that told.")
    notifiers: tuple[str, ...] = Field((), description="Who is to be told.")
    silenced_by: str | None = Field(None, description="The silence or the maintenance that keeps it quiet.")
    runbook: str | None = None


class Silence(BaseModel):
    """Keeps alerts quiet for a while, ``llm.silence.v1``. Key: ``silence_id``. Ended early: written with a new end."""

    model_config = ConfigDict(frozen=True, title="Silence, llm.silence.v1")

    silence_id: str
    starts_at: datetime
    ends_at: datetime
    watch: str | None = Field(None, description="None: every watch.")
    group: dict[str, str] = Field(default_factory=dict, description="Dimensions that must match; none: every group.")
    comment: str = ""
    created_by: str = ""


def alert_id(watch: str, facet: str, group: dict[str, str], started_at: datetime) -> UUID:
    """Return the identity of an alert: who finds the same evidence gives it the same."""
    members = "\x1f".join(f"{name}\x1e{value}" for name, value in sorted(group.items()))
    return uuid5(NAMESPACE, "\x1d".join((watch, facet, started_at.isoformat(), members)))


def transition_id(alert: UUID, seq: int, transition: Transition) -> UUID:
    """Return the identity of a transition."""
    return uuid5(alert, f"{seq}:{transition}")


def usd(amount: float) -> Decimal:
    """Return a statistical amount (no bill) as USD, rounded to a millionth."""
    return Decimal(f"{amount:.6f}")
