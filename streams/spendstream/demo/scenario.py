"""Who calls which models, and what goes wrong with the bill.

Services, their features, customers: sizes are token medians, of a plausible company. Then the incidents, and when they
happen in the demo.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import cycle
from typing import Final, Literal

Cache = Literal["none", "automatic", "explicit"]
Style = Literal["chat", "agent", "single", "job"]


@dataclass(frozen=True)
class Model:
    """A model as it is requested and as it answers. ``cache``: explicit ones bill what is written to it."""

    provider: str
    requested: str
    served: str
    cache: Cache = "none"
    reasons: bool = False
    region: str | None = None
    ms_per_token: float = 12.0
    deployment: str | None = None


GPT_5: Final = Model("openai", "gpt-5", "gpt-5-2025-08-07", "automatic", reasons=True, ms_per_token=14)
GPT_5_MINI: Final = Model("openai", "gpt-5-mini", "gpt-5-mini-2025-08-07", "automatic", reasons=True, ms_per_token=7)
GPT_5_PRO: Final = Model("openai", "gpt-5-pro", "gpt-5-pro", reasons=True, ms_per_token=40)
GPT_41: Final = Model("openai", "gpt-4.1", "gpt-4.1-2025-04-14", "automatic")
GPT_41_MINI: Final = Model("openai", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "automatic", ms_per_token=8)
O4_MINI: Final = Model("openai", "o4-mini", "o4-mini-2025-04-16", "automatic", reasons=True, ms_per_token=9)
GPT_AUDIO: Final = Model("openai", "gpt-audio", "gpt-audio", ms_per_token=18)
EMBEDDING: Final = Model("openai", "text-embedding-3-large", "text-embedding-3-large", ms_per_token=0)
OPUS: Final = Model("anthropic", "claude-opus-4-5", "claude-opus-4-5-20251101", "explicit", ms_per_token=20)
OPUS_41: Final = Model("anthropic", "claude-opus-4-1", "claude-opus-4-1-20250805", "explicit", ms_per_token=28)
SONNET: Final = Model("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "explicit", ms_per_token=15)
HAIKU: Final = Model("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001", "explicit", ms_per_token=6)
GEMINI_PRO: Final = Model("google", "gemini-2.5-pro", "gemini-2.5-pro", "automatic", reasons=True)
GEMINI_FLASH: Final = Model("google", "gemini-2.5-flash", "gemini-2.5-flash", "automatic", reasons=True, ms_per_token=5)
GEMINI_LITE: Final = Model("google", "gemini-2.5-flash-lite", "gemini-2.5-flash-lite", "automatic", ms_per_token=4)
BEDROCK_SONNET: Final = Model(
    "aws",
    "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "explicit",
    region="eu-central-1",
)
BEDROCK_OPUS: Final = Model(
    "aws",
    "eu.anthropic.claude-opus-4-5-20251101-v1:0",
    "eu.anthropic.claude-opus-4-5-20251101-v1:0",
    "explicit",
    region="eu-central-1",
)
NOVA_PRO: Final = Model("aws", "amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0", region="eu-central-1", ms_per_token=8)
MISTRAL_SMALL: Final = Model("mistral", "mistral-small-latest", "mistral-small-latest", ms_per_token=6)
MISTRAL_MEDIUM: Final = Model("mistral", "mistral-medium-latest", "mistral-medium-latest", ms_per_token=9)
OWN_LLAMA: Final = Model(
    "self-hosted",
    "llama-3.3-70b-instruct",
    "llama-3.3-70b-instruct",
    region="eu-west-1",
    ms_per_token=22,
    deployment="llama-3.3-70b-fp8-vllm-4xh100",
)
AURORA: Final = Model("nebula-labs", "aurora-1-preview", "aurora-1-preview", ms_per_token=10)
"""A preview that no price book knows: its calls are unpriced until somebody writes a card."""

PUBLICLY_PRICED: Final = (
    *(GPT_5, GPT_5_MINI, GPT_5_PRO, GPT_41, GPT_41_MINI, O4_MINI, GPT_AUDIO, EMBEDDING),
    *(OPUS, OPUS_41, SONNET, HAIKU, GEMINI_PRO, GEMINI_FLASH, GEMINI_LITE),
    *(BEDROCK_SONNET, BEDROCK_OPUS, NOVA_PRO, MISTRAL_SMALL, MISTRAL_MEDIUM),
)


@dataclass(frozen=True)
class Feature:
    """One use of models by a service. Token counts are medians; ``weight`` is its share of all calls.

    ``dearer`` is what answers during a ``dearer_model`` incident, of the same provider where it has one.
    """

    name: str
    service: str
    team: str
    style: Style
    weight: float
    models: tuple[tuple[Model, float], ...]
    dearer: Model
    output: int
    system: int = 400
    tools: int = 0
    retrieval: int = 0
    user: int = 80
    reasoning: int = 0
    audio_share: float = 0.0
    image: int = 0
    turns: int = 1
    search_share: float = 0.0
    tier: str = "standard"
    cache_lifetime: Literal["5m", "1h"] = "5m"
    operation: str = "chat"
    states_parts: bool = True


# fmt: off
FEATURES: Final = (
    Feature("support_chat", "support-assistant", "customer-care", "chat", 22, ((SONNET, .7), (HAIKU, .3)), OPUS_41,
            output=260, system=1_900, tools=1_100, retrieval=1_400, user=60, turns=7),
    Feature("ticket_summary", "support-assistant", "customer-care", "single", 7, ((HAIKU, 1),), OPUS_41,
            output=180, system=500, user=1_600),
    Feature("code_agent", "code-assistant", "developer-platform", "agent", 16, ((GPT_5, .6), (SONNET, .4)), GPT_5_PRO,
            output=320, system=3_200, tools=5_400, retrieval=1_800, user=120, reasoning=700, turns=24),
    Feature("code_completion", "code-assistant", "developer-platform", "single", 14, ((GPT_41_MINI, 1),), GPT_41,
            output=40, system=300, user=1_500, states_parts=False),
    Feature("search_answer", "search", "search", "single", 12, ((GEMINI_FLASH, .8), (GEMINI_LITE, .2)), GEMINI_PRO,
            output=190, system=1_300, retrieval=3_800, user=20, reasoning=120),
    Feature("embed_index", "search", "search", "job", 6, ((EMBEDDING, 1),), GPT_41,
            output=0, system=0, user=620, operation="embeddings", states_parts=False),
    Feature("invoice_extraction", "document-pipeline", "finance", "job", 6, ((GPT_5_MINI, .8), (NOVA_PRO, .2)), GPT_5,
            output=420, system=1_500, user=150, reasoning=260, image=1_450, tier="batch"),
    Feature("contract_review", "document-pipeline", "legal", "single", 2, ((GEMINI_PRO, .6), (BEDROCK_SONNET, .4)),
            BEDROCK_OPUS, output=1_500, system=2_600, retrieval=31_000, user=90, reasoning=2_400, cache_lifetime="1h"),
    Feature("voice_calls", "voice-desk", "customer-care", "chat", 3, ((GPT_AUDIO, 1),), GPT_5_PRO,
            output=210, system=700, user=240, audio_share=.8, turns=9),
    Feature("campaign_copy", "marketing-studio", "growth", "chat", 4, ((MISTRAL_MEDIUM, .2), (MISTRAL_SMALL, .8)),
            MISTRAL_MEDIUM, output=520, system=900, user=140, turns=4),
    Feature("fraud_reasoning", "fraud-review", "risk", "single", 2.5, ((O4_MINI, 1),), GPT_5_PRO,
            output=240, system=2_100, retrieval=2_700, user=60, reasoning=1_800, tier="priority"),
    Feature("fraud_screen", "fraud-review", "risk", "single", 4, ((OWN_LLAMA, 1),), MISTRAL_MEDIUM,
            output=12, system=650, user=480),
    Feature("deep_research", "research-desk", "research", "agent", 1, ((OPUS, .7), (BEDROCK_SONNET, .3)), OPUS_41,
            output=650, system=2_800, tools=3_100, retrieval=6_500, user=200, turns=30, search_share=.45,
            cache_lifetime="1h"),
    Feature("preview_evaluation", "research-desk", "research", "job", .5, ((AURORA, 1),), OPUS,
            output=300, system=600, user=400, tier="flex"),
)
# fmt: on

ENVIRONMENTS: Final = (("production", 0.9), ("staging", 0.07), ("development", 0.03))

CUSTOMERS: Final = tuple(f"customer-{rank:03d}" for rank in range(1, 301))
"""By size, the largest first."""

CUSTOMER_WEIGHTS: Final = tuple(1 / rank**1.07 for rank in range(1, len(CUSTOMERS) + 1))
"""Zipf: the largest ten make about half of the calls."""


Kind = Literal["runaway_loop", "context_blowup", "dearer_model", "cache_off", "provider_outage"]

RUNAWAY_FACTOR: Final = 8
"""Calls of the feature, relative to its usual ones; the extra ones come from one task that never ends."""

BLOWUP_FACTOR: Final = 5
"""Tokens of pasted log lines, relative to the usual prompt."""

OUTAGE_FAILURES: Final = 0.85
"""Share of the feature's calls that fail; most are tried again."""


@dataclass(frozen=True)
class Incident:
    """Something that alters one feature's traffic in ``[starts_at, starts_at + lasts_s)``.

    runaway_loop: an agent calls on and on, its context growing. context_blowup: debug logs land in the prompt.
    dearer_model: a dearer model answers than was requested. cache_off: nothing is read from or written to cache.
    provider_outage: calls fail and are retried.

    Raises: ValueError, for an unknown feature, a time without a zone, or a length that is not positive.
    """

    kind: Kind
    feature: str
    starts_at: datetime
    lasts_s: float

    def __post_init__(self) -> None:
        if self.feature not in {feature.name for feature in FEATURES}:
            raise ValueError(f"No feature {self.feature!r} in the demo; expected one of FEATURES in scenario.py")
        if self.starts_at.tzinfo is None:
            raise ValueError("starts_at needs a time zone")
        if self.lasts_s <= 0:
            raise ValueError(f"lasts_s must be positive, not {self.lasts_s}")

    @property
    def ends_at(self) -> datetime:
        """The first moment after the incident."""
        return self.starts_at + timedelta(seconds=self.lasts_s)

    def is_active(self, at: datetime) -> bool:
        """Whether the incident is on at a moment."""
        return self.starts_at <= at < self.ends_at


def active_kinds(incidents: Iterable[Incident], at: datetime) -> dict[str, frozenset[Kind]]:
    """Return which kinds of incident are on at a moment, by feature."""
    on: dict[str, frozenset[Kind]] = {}
    for incident in incidents:
        if incident.is_active(at):
            on[incident.feature] = on.get(incident.feature, frozenset()) | {incident.kind}
    return on


HISTORY_S: Final = 17 * 60
"""Seconds of the past that are loaded before live traffic: a baseline needs 15 minutes with calls."""

STAGES: Final[dict[Kind, str]] = {
    "provider_outage": "campaign_copy",  # Mistral is called by this feature alone
    "runaway_loop": "deep_research",  # few and dear calls: a loop is most of the feature, and little of the traffic
    "context_blowup": "ticket_summary",  # single turns: nothing else lengthens its prompts
    "dearer_model": "code_completion",
    "cache_off": "code_agent",  # most of its input is read from the cache
}
"""The feature that each kind of incident affects. A threshold finds the first: it needs no history."""


@dataclass(frozen=True)
class Timeline:
    """Incidents without end, in the order of ``STAGES``. Times in seconds; ``first_after_s`` counts from the start.

    An outage lasts half as long as the others: its alert fires within seconds, and should resolve soon.
    """

    first_after_s: float = 20.0
    lasts_s: float = 120.0
    calm_s: float = 30.0
    only: Kind | None = None

    def from_(self, start: datetime) -> Iterator[Incident]:
        """Yield the incidents in order of time; with ``only``, that one once."""
        begins = start + timedelta(seconds=self.first_after_s)
        for kind in cycle(STAGES) if self.only is None else (self.only,):
            lasts_s = self.lasts_s / 2 if kind == "provider_outage" else self.lasts_s
            incident = Incident(kind, STAGES[kind], begins, lasts_s)
            yield incident
            begins = incident.ends_at + timedelta(seconds=self.calm_s)


class Player:
    """Starts the incidents of a timeline as time passes. Without a timeline there are none."""

    def __init__(self, timeline: Timeline | None, start: datetime) -> None:
        self._coming = iter(()) if timeline is None else timeline.from_(start)
        self._next = next(self._coming, None)
        self.begun: list[Incident] = []
        """Those that have begun, in order."""

    def begin(self, now: datetime) -> list[Incident]:
        """Return the incidents that begin by ``now`` and were not returned before."""
        fresh: list[Incident] = []
        while self._next is not None and self._next.starts_at <= now:
            fresh.append(self._next)
            self._next = next(self._coming, None)
        self.begun += fresh
        return fresh
