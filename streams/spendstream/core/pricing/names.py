"""One name for each provider, and the names under which a model may be listed.

Services name providers as their SDK or OpenTelemetry does (``gen_ai.provider.name``); price books as they please.
"""

import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

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
        "novita-ai": "novita",
        "together.ai": "together",
        "togetherai": "together",
        "z-ai": "zai",
        "z_ai": "zai",
        "zhipu": "zhipuai",
    }
)
"""Names that the price book doesn't know, or would take for another."""

_HOSTS: Final = (("azure", "azure"), ("bedrock", "aws"), ("vertex", "google"))
"""Whoever hosts a model bills it: ``azure.ai.openai`` is not OpenAI, ``anthropic-bedrock`` is not Anthropic."""

_PUBLISHER_PATH: Final = re.compile(r"^(?:projects/.+/)?(?:publishers/[^/]+/)?models/")
_BEDROCK_GEOGRAPHY: Final = re.compile(r"^(?:us-gov|us|eu|apac|au|ca|jp|sa)\.(?=[a-z0-9]+\.)")
"""A cross-region profile of one geography. ``global.`` stays: it has prices of its own."""


def provider_alias(name: str) -> str:
    """Return a provider's usual name: ``provider_alias("aws.bedrock") == "aws"``; itself where there is no other."""
    name = name.strip().lower()
    hosted = next((provider for word, provider in _HOSTS if word in name), name)
    return PROVIDER_ALIASES.get(name, hosted)


def model_names(provider: str, own_names: frozenset[str], model: str) -> Iterator[str]:
    """Yield the names under which a model may be listed, the exact one first, each once, in lower case.

    ``own_names`` are the provider's: a prefix that repeats one of them, as in ``openai/gpt-4o``, says nothing more.
    """
    name = model.strip().lower()
    yield name
    bare = _PUBLISHER_PATH.sub("", name)
    head, slash, tail = bare.partition("/")
    if slash and head in own_names:
        bare = tail
    if bare != name:
        yield bare
    if provider == "aws" and (anywhere := _BEDROCK_GEOGRAPHY.sub("", bare)) != bare:
        yield anywhere
