"""Conversations: the context is sent anew with every turn, so a prompt grows with what was said before."""

import random
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from spendstream.demo.scenario import CUSTOMER_WEIGHTS, CUSTOMERS, ENVIRONMENTS, Feature, Model

OPEN_AT_ONCE: Final = 64
"""Conversations of one feature that go on side by side."""

CONTEXT_LIMIT: Final = 160_000
"""History beyond this many tokens is summarised to a tenth."""


@dataclass(slots=True)
class Conversation:
    """A task in progress. ``history`` and ``prefix`` in tokens: what was said, and what the cache holds of it."""

    feature: Feature
    model: Model
    fields: dict[str, Any]
    turn: int = 0
    history: int = 0
    prefix: int = 0

    def remember(self, tokens: int) -> None:
        """Add what was said; a context that is full is summarised, and its cache is lost."""
        self.turn += 1
        self.history += tokens
        if self.history > CONTEXT_LIMIT:
            self.history //= 10
            self.prefix = 0


@dataclass
class Conversations:
    """The open conversations of a feature."""

    feature: Feature
    rng: random.Random
    open: list[Conversation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._models, model_weights = zip(*self.feature.models, strict=True)
        self._model_weights = list(accumulate(model_weights))
        # A feature of one turn has nothing to go on with; a job is a task of many calls.
        self._goes_on = 1 - 1 / (120 if self.feature.style == "job" else self.feature.turns)

    def next(self) -> Conversation:
        """Go on with an open conversation, or begin one."""
        if self.open and self.rng.random() < self._goes_on:
            return self.open[int(self.rng.random() * len(self.open))]
        begun = self.begin()
        if len(self.open) < OPEN_AT_ONCE:
            self.open.append(begun)
        else:
            self.open[int(self.rng.random() * OPEN_AT_ONCE)] = begun
        return begun

    def begin(self) -> Conversation:
        """Begin a conversation for some customer. It isn't kept open."""
        (model,) = self.rng.choices(self._models, cum_weights=self._model_weights)
        return Conversation(self.feature, model, self._fields(model))

    def _fields(self, model: Model) -> dict[str, Any]:
        """Return what is the same for all calls of a conversation."""
        rng, feature = self.rng, self.feature
        (customer,) = rng.choices(CUSTOMERS, cum_weights=_CUSTOMERS_CUM)
        (environment,) = rng.choices(_ENVIRONMENT_NAMES, cum_weights=_ENVIRONMENTS_CUM)
        task = f"{feature.name}-{rng.getrandbits(48):012x}"
        stated = {
            "task_id": task,
            "conversation_id": task if feature.style in ("chat", "agent") else None,
            "operation": None if feature.operation == "chat" else feature.operation,
            "provider": model.provider,
            "model_requested": model.requested,
            "model_served": model.served,
            "region": model.region,
            "service_tier": None if feature.tier == "standard" else feature.tier,
            "service": feature.service,
            "team": feature.team,
            "feature": feature.name,
            "customer": customer,
            "user": f"{customer}-u{int(rng.random() * 20)}" if feature.style in ("chat", "agent") else None,
            "environment": environment,
            "deployment": model.deployment,
        }
        return {name: value for name, value in stated.items() if value is not None}


_CUSTOMERS_CUM: Final = list(accumulate(CUSTOMER_WEIGHTS))
_ENVIRONMENT_NAMES: Final = [name for name, _ in ENVIRONMENTS]
_ENVIRONMENTS_CUM: Final = list(accumulate(weight for _, weight in ENVIRONMENTS))
