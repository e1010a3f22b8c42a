"""Conversations and their calls: prompts that grow turn by turn, what the cache saves, what is answered, what fails."""

import random
from collections.abc import Set
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from spendstream.demo.scenario import (
    BLOWUP_FACTOR,
    CUSTOMER_WEIGHTS,
    CUSTOMERS,
    ENVIRONMENTS,
    OUTAGE_FAILURES,
    Feature,
    Kind,
    Model,
)

OPEN_AT_ONCE: Final = 64
"""Conversations of one feature that are open at the same time."""

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
        # A feature of one turn has nothing to continue; a job is a task of many calls.
        self._goes_on = 1 - 1 / (120 if self.feature.style == "job" else self.feature.turns)

    def next(self) -> Conversation:
        """Continue an open conversation, or begin one."""
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
        rng, feature = self.rng, self.feature
        (model,) = rng.choices(self._models, cum_weights=self._model_weights)
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
        return Conversation(feature, model, {name: value for name, value in stated.items() if value is not None})


_CUSTOMERS_CUM: Final = list(accumulate(CUSTOMER_WEIGHTS))
_ENVIRONMENT_NAMES: Final = [name for name, _ in ENVIRONMENTS]
_ENVIRONMENTS_CUM: Final = list(accumulate(weight for _, weight in ENVIRONMENTS))


FAILURES: Final = 0.015
_FAILED: Final = ("rate_limited", "error", "timeout", "cancelled", "filtered")
_FAILED_CUM: Final = (40, 65, 85, 95, 100)
_OUTAGE_CUM: Final = (10, 60, 100, 100, 100)
RETRIED: Final = frozenset({"rate_limited", "error", "timeout"})

CACHE_MINIMUM: Final = 1_024
CACHE_STEP: Final = 128
_SPREADS: Final = 4_096


@dataclass(frozen=True, slots=True)
class Prompt:
    """Parts of a prompt, in tokens. ``stable`` is what a later call sends again: what a cache can hold."""

    system: int
    tools: int
    history: int
    retrieval: int
    user: int
    logging: int

    @property
    def total(self) -> int:
        return self.system + self.tools + self.history + self.retrieval + self.user + self.logging

    @property
    def stable(self) -> int:
        return self.system + self.tools + self.history


class Caller:
    """Makes calls from the random numbers it is given."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self._rng = rng
        self._spread = [rng.lognormvariate(0, 0.55) for _ in range(_SPREADS)]

    def call(self, conversation: Conversation, attempt: int, kinds: Set[Kind]) -> dict[str, Any]:
        """Return the fields of the next call, without its id and time; the conversation moves on if it succeeds."""
        event = conversation.fields.copy()
        if attempt > 1:
            event["attempt"] = attempt
        model = conversation.model
        if kinds and "dearer_model" in kinds:
            model = conversation.feature.dearer
            # That model answers, whatever was requested.
            event["provider"] = model.provider
            event["model_served"] = model.served
            for name, value in (("region", model.region), ("deployment", model.deployment)):
                event.pop(name, None)
                if value is not None:
                    event[name] = value
        if self._random() < (OUTAGE_FAILURES if kinds and "provider_outage" in kinds else FAILURES):
            self._fail(event, conversation, model, outage="provider_outage" in kinds)
        else:
            self._succeed(event, conversation, model, kinds)
        return event

    def _vary(self, median: int) -> int:
        """Return a count around a median: two thirds of them between 0.6 and 1.7 times as much."""
        return int(median * self._spread[int(self._random() * _SPREADS)])

    def _prompt(self, conversation: Conversation, kinds: Set[Kind]) -> Prompt:
        feature = conversation.feature
        prompt = Prompt(
            feature.system,
            feature.tools,
            conversation.history,
            self._vary(feature.retrieval) if feature.retrieval else 0,
            self._vary(feature.user) + 1,
            0,
        )
        if kinds and "context_blowup" in kinds:
            return Prompt(
                prompt.system,
                prompt.tools,
                prompt.history,
                prompt.retrieval,
                prompt.user,
                prompt.total * BLOWUP_FACTOR,
            )
        return prompt

    def _succeed(self, event: dict[str, Any], conversation: Conversation, model: Model, kinds: Set[Kind]) -> None:
        feature = conversation.feature
        prompt = self._prompt(conversation, kinds)
        cached = written = 0
        if not (kinds and "cache_off" in kinds):
            cached, written = self._cache(conversation, model, prompt)
        audio = int(prompt.user * feature.audio_share)
        event["input_tokens"] = prompt.total - cached - written - audio
        if cached:
            event["cache_read_tokens"] = cached
        if written:
            event[f"cache_write_{feature.cache_lifetime}_tokens"] = written
        if audio:
            event["input_audio_tokens"] = audio
        if feature.image:
            event["input_image_tokens"] = self._vary(feature.image)
        if feature.states_parts:
            for part in ("system", "tools", "history", "retrieval", "logging"):
                if tokens := getattr(prompt, part):
                    event[f"prompt_{part}_tokens"] = tokens
        self._answer(event, conversation, model, prompt)

    def _cache(self, conversation: Conversation, model: Model, prompt: Prompt) -> tuple[int, int]:
        """Return (tokens read from cache, tokens written to it).

        The first turn may find the system prompt and the tools that another conversation has written.
        """
        if model.cache == "none":
            return 0, 0
        held = conversation.prefix
        if not held and self._random() < 0.75:
            held = prompt.system + prompt.tools
        elif self._random() < 0.06:
            held = 0  # expired between two turns
        conversation.prefix = prompt.stable
        if model.cache == "automatic":
            held -= held % CACHE_STEP
            return (held if held >= CACHE_MINIMUM else 0), 0
        held = held if held >= CACHE_MINIMUM else 0
        return held, (prompt.stable - held if prompt.stable >= CACHE_MINIMUM else 0)

    def _answer(self, event: dict[str, Any], conversation: Conversation, model: Model, prompt: Prompt) -> None:
        feature = conversation.feature
        output = self._vary(feature.output)
        reasoning = self._vary(feature.reasoning) if model.reasons and feature.reasoning else 0
        audio = int(output * feature.audio_share)
        if output or not feature.output:
            event["output_tokens"] = output - audio
        if audio:
            event["output_audio_tokens"] = audio
        if reasoning:
            event["reasoning_tokens"] = reasoning
        # Bedrock sells no web search: a search billed there is a call that no card can price.
        if feature.search_share and model.provider != "aws" and self._random() < feature.search_share:
            event["web_searches"] = 1 + int(self._random() * 4)
        latency_ms = 120 + prompt.total * 0.02 + (output + reasoning) * model.ms_per_token
        event["latency_ms"] = int(latency_ms * (0.7 + 0.6 * self._random()))
        if model.deployment is not None:
            event["gpu_seconds"] = _busy_s(prompt.total, output)
        if feature.style in ("chat", "agent"):
            # An agent's tools answer into the context; a chat looks up its retrieval again each turn.
            found = prompt.retrieval if feature.style == "agent" else 0
            conversation.remember(prompt.user + output + found)

    def _fail(self, event: dict[str, Any], conversation: Conversation, model: Model, outage: bool) -> None:
        """A refused call costs nothing but a moment of our own GPUs; a call cut short has read its prompt."""
        (status,) = self._rng.choices(_FAILED, cum_weights=_OUTAGE_CUM if outage else _FAILED_CUM)
        event["status"] = status
        event["input_tokens"] = 0
        event["latency_ms"] = int(20 + 180 * self._random())
        if status in ("timeout", "cancelled", "filtered"):
            event["input_tokens"] = self._prompt(conversation, frozenset()).total
            event["output_tokens"] = int(self._vary(conversation.feature.output) * 0.3)
            event["usage_quality"] = "partial"
            event["latency_ms"] = 30_000 if status == "timeout" else int(8_000 * self._random())
        if model.deployment is not None:
            event["gpu_seconds"] = _busy_s(event["input_tokens"], event.get("output_tokens", 0))


def _busy_s(read: int, written: int) -> float:
    """Return how many seconds a deployment is busy with the tokens; refusing a call takes 2 ms."""
    return max(0.002, round(0.0004 * read + 0.022 * written, 3))
