"""What the names in an event mean: who sells the model, and under which names it may be listed.

Services write names as their SDK, gateway or cloud does: ``openrouter/x-ai/grok-4``, an ARN, a deployment's own name.
Only parts that say who serves the model are dropped, never parts of the model's own name. Where a name doesn't say
which model is behind it, there is no price, and a reason.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

PROVIDER_ALIASES: Final = MappingProxyType(
    {
        # OpenTelemetry GenAI
        "gcp.gen_ai": "google",
        "mistral_ai": "mistral",
        "moonshot_ai": "moonshotai",
        "x_ai": "x-ai",
        # common SDKs and gateways
        "az.ai.inference": "azure",
        "az.ai.openai": "azure",
        "fireworks-ai": "fireworks",
        "fireworks_ai": "fireworks",
        "google-anthropic": "google",
        "grok": "x-ai",
        "litellm-proxy": "litellm",
        "litellm_proxy": "litellm",
        "novita-ai": "novita",
        "together.ai": "together",
        "togetherai": "together",
        "z-ai": "zai",
        "z_ai": "zai",
        "zhipu": "zhipuai",
    }
)
"""Names of providers that the price book doesn't know, or would mistake for another."""

_HOSTS: Final = (("azure", "azure"), ("bedrock", "aws"), ("vertex", "google"))
"""The host of a model bills it: ``azure.ai.openai`` is not OpenAI, ``anthropic-bedrock`` is not Anthropic."""

_GATEWAY: Final = "litellm"
"""Sells nothing itself: the first part of a model's name is the provider, or its own name."""

_ROUTES: Final = frozenset(
    {
        "azure",
        "azure_ai",
        "bedrock",
        "bedrock_converse",
        "fireworks_ai",
        "gemini",
        "litellm_proxy",
        "openrouter",
        "together_ai",
        "vertex_ai",
        "vertex_ai_beta",
    }
)
"""First parts of a model's name that say who serves it. ``openai/`` and the like are makers: Groq serves
``openai/gpt-oss-120b``."""

_PROTOCOLS: Final = frozenset({"anthropic", "openai"})
"""Their SDKs also call other providers and gateways, so the model's name is a better witness of who served it."""

_MAX_PARTS: Final = 8

_PUBLISHER_PATH: Final = re.compile(r"^(?:projects/.+/)?(?:publishers/[^/]+/)?models/")
_ENDPOINT: Final = re.compile(r"^(?:projects/.+/)?endpoints/")

_FINE_TUNED: Final = re.compile(r"(?:^|/)ft:|:ft-|\.ft-|(?:^|/)tunedmodels/")
"""OpenAI's ``ft:gpt-4o-2024-08-06:acme::abc`` and ``curie:ft-acme``, Azure's ``gpt-4o-2024-08-06.ft-0123``."""

_BEDROCK_GEOGRAPHY: Final = re.compile(r"^(?:us-gov|us|eu|apac|au|ca|in|jp|sa)\.(?=[a-z0-9]+\.)")
"""A cross-region profile of one geography. ``global.`` stays: it has prices of its own."""

_ARN: Final = re.compile(r"arn:aws[a-z-]*:(?P<service>[a-z0-9-]+):[^:/]*:[^:/]*:(?P<resource>.+)$")
_BEDROCK_ROUTE: Final = re.compile(r"^(?:converse|converse_like|invoke|async_invoke|[a-z]{2}(?:-[a-z]+)+-\d)/")
_BEDROCK_COMMITMENT: Final = re.compile(r"^\d+-month-commitment/")
_BEDROCK_KIND: Final = re.compile(r"^([a-z][a-z-]*)/(.+)$")
_NAMED_BY: Final = frozenset({"foundation-model", "inference-profile"})
_NAMELESS: Final = MappingProxyType(
    {
        "application-inference-profile": "an application inference profile doesn't name its model: give it an alias",
        "custom-model": "a custom model is not billed as its base: give it a rate card",
        "custom-model-deployment": "a custom model is not billed as its base: give it a rate card",
        "default-prompt-router": "a prompt router doesn't name the model that served the call",
        "imported-model": "an imported model is billed by the minute: give it a rate card",
        "prompt": "a managed prompt doesn't name its model: give it an alias",
        "prompt-router": "a prompt router doesn't name the model that served the call",
        "provisioned-model": "provisioned throughput is billed by the hour, not by the token: give it a rate card",
    }
)
"""Resources of Bedrock that stand for a model without its public price, and why."""


@dataclass(frozen=True, slots=True)
class Names:
    """Who sells the model of a call, and what it may be called. All in lower case."""

    providers: tuple[str, ...]
    """As the event says, its usual name, the price book's, and last the seller, if the model's name states another."""
    models: tuple[str, ...]
    """As the event says, then without parts that say who serves it. Your own cards and aliases are found by any."""
    listed: tuple[str, ...]
    """Those of ``models`` by which the public price book may be asked; empty if none says which model it is."""
    reason: str
    """Why no public price can apply; "" if one may."""
    is_fine_tuned: bool
    """Not billed as its base: only a price for the fine-tuned model applies."""

    @property
    def seller(self) -> str:
        """Who bills the call."""
        return self.providers[-1]


def provider_alias(name: str) -> str:
    """Return a provider's usual name, by default its own: ``provider_alias("aws.bedrock") == "aws"``.

    Services name providers as their SDK or OpenTelemetry does (``gen_ai.provider.name``).
    """
    name = name.strip().lower()
    hosted = next((provider for word, provider in _HOSTS if word in name), name)
    return PROVIDER_ALIASES.get(name, hosted)


def read_names(provider: str, model: str, id_of: Callable[[str], str | None]) -> Names:
    """Return what a call's names mean. ``id_of``: the price book's id of a provider; None if it doesn't know it."""
    reading = _Reading(provider, model, id_of)
    reading.drop_routes()
    if arn := _ARN.search(reading.name):
        reading.read_arn(arn)
    if reading.seller == "aws":
        reading.read_bedrock()
    elif reading.seller == "google" and _ENDPOINT.match(reading.name):
        reading.refuse("an endpoint doesn't name its model: give it an alias")
    reading.shorten(_PUBLISHER_PATH.sub("", reading.name))
    reading.drop_own_name()
    if reading.seller == "aws":
        reading.shorten(_BEDROCK_GEOGRAPHY.sub("", reading.name))
    return reading.names()


@dataclass(slots=True)
class _Reading:
    """A model's name while it is being read from the left."""

    provider: str
    model: str
    id_of: Callable[[str], str | None]
    name: str = field(init=False)
    providers: list[str] = field(init=False)
    models: list[str] = field(init=False)
    listed: list[str] = field(init=False)
    reason: str = ""

    def __post_init__(self) -> None:
        self.name = self.model.strip().lower()
        given, usual = self.provider.strip().lower(), provider_alias(self.provider)
        self.providers = [given, usual, self.id_of(usual) or usual]
        self.models = [self.name]
        self.listed = [self.name]
        if "%3a" in self.name or "%2f" in self.name:
            self.shorten(unquote(self.name))

    @property
    def seller(self) -> str:
        return self.providers[-1]

    def names(self) -> Names:
        reason = self.reason
        if not reason and self.seller == _GATEWAY:
            reason = "a gateway sells nothing itself, and the model's name doesn't start with a provider: add an alias"
        elif not reason and self.id_of(self.seller) is None:
            reason = f"the public price book doesn't know the provider {self.seller}"
        return Names(
            providers=tuple(dict.fromkeys(reversed(self.providers)))[::-1],
            models=tuple(dict.fromkeys(self.models)),
            listed=() if reason else tuple(dict.fromkeys(self.listed)),
            reason=reason,
            is_fine_tuned=any(_FINE_TUNED.search(name) for name in self.models),
        )

    def refuse(self, reason: str) -> None:
        self.reason = self.reason or reason

    def shorten(self, name: str) -> None:
        """Go on with a shorter name of the same model; the longer one stays."""
        self.name = name
        self.models.append(name)
        self.listed.append(name)

    def sold_by(self, seller: str, name: str) -> None:
        """Go on with the name that a seller knows; the longer one isn't a name of the seller's."""
        self.providers.append(seller)
        self.name = name
        self.models.append(name)
        self.listed = [name]

    def drop_routes(self) -> None:
        """Drop the first parts of the name while they say who serves the model."""
        for _ in range(_MAX_PARTS):
            head, _, tail = self.name.partition("/")
            is_gateway = self.seller == _GATEWAY
            if not tail or head.startswith("arn:") or not (is_gateway or head in _ROUTES):
                return
            usual = "google" if head == "gemini" else provider_alias(head)
            stated = self.id_of(usual) or usual
            if stated in (self.seller, _GATEWAY):
                self.shorten(tail)
            elif is_gateway and self.id_of(stated) is None:
                self.refuse(f"the public price book doesn't know the provider {head}")
                return
            elif is_gateway or self.seller in _PROTOCOLS:
                self.sold_by(stated, tail)
            elif self.id_of(self.seller) is None:
                return
            else:
                self.refuse(f"the model's name says that {stated} serves it, the event says {self.seller}")
                return

    def drop_own_name(self) -> None:
        """Drop a first part that repeats the provider: ``openai/gpt-4o``, ``bedrock/amazon.nova-pro-v1:0``."""
        head, _, tail = self.name.partition("/")
        if tail and (head in self.providers or provider_alias(head) == self.seller):
            self.shorten(tail)

    def read_arn(self, arn: re.Match[str]) -> None:
        """Go on with what an ARN names; AWS bills it, unless the event says that another provider does."""
        if self.seller not in ("aws", _GATEWAY, *_PROTOCOLS):
            return
        self.sold_by("aws", arn[0])
        self.sold_by("aws", arn["resource"])
        kind = arn["resource"].partition("/")[0]
        if arn["service"] != "bedrock":
            self.refuse(f"the ARN of {arn['service']} doesn't name a model: give it an alias")
        elif kind not in _NAMED_BY:
            self.refuse(_NAMELESS.get(kind, f"a resource of kind {kind} doesn't name a model: give it an alias"))

    def read_bedrock(self) -> None:
        """Read LiteLLM's paths and Bedrock's resources: a foundation model or a geography's profile names a model."""
        while route := _BEDROCK_ROUTE.match(self.name):
            self.sold_by("aws", self.name[route.end() :])
        if _BEDROCK_COMMITMENT.match(self.name):
            self.refuse("committed throughput is billed by the hour, not by the token: give it a rate card")
        if kind := _BEDROCK_KIND.match(self.name):
            if kind[1] in _NAMED_BY:
                self.sold_by("aws", kind[2])
            elif kind[1] in _NAMELESS:
                self.refuse(_NAMELESS[kind[1]])
