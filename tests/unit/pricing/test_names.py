"""Names as services, gateways and clouds write them: the model they stand for is priced, and never another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from genai_prices.data import providers
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core.pricing import PriceBook, RateCardInvalid
from spendstream.core.pricing.names import read_names
from tests.unit.pricing.conftest import MID_NOVEMBER, call, frame, price_one

SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:eu-west-1:111122223333:"
PROFILE = ARN + "application-inference-profile/abc123"
NOVA = "amazon.nova-pro-v1:0"

CARD = "  - {provider: %s, model: %s, rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: %s}}]}\n"


def listing(book: PriceBook, provider: str, model: str) -> tuple[str, str] | None:
    """Return the provider and id of the card that prices a model; None if none does."""
    found = book.explain(provider, model, at=MID_NOVEMBER).card
    return None if found is None else (found.provider, found.model)


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        # Bedrock: ARNs and profiles. In one region or geography a model costs 10% more than globally.
        ("bedrock", f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}", ("aws", f"regional.{SONNET}")),
        ("aws", f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{NOVA}", ("aws", NOVA)),
        ("aws", f"foundation-model/{NOVA}", ("aws", NOVA)),
        ("aws", f"{ARN}inference-profile/eu.{SONNET}", ("aws", f"regional.{SONNET}")),
        ("aws", f"{ARN}inference-profile/global.{SONNET}", ("aws", f"global.{SONNET}")),
        ("aws", f"inference-profile/apac.{NOVA}", ("aws", NOVA)),
        ("anthropic", f"{ARN}inference-profile/us.{SONNET}", ("aws", f"regional.{SONNET}")),
        ("openai", f"arn:aws:bedrock:us-east-1::foundation-model/{NOVA}", ("aws", NOVA)),
        ("litellm", f"arn:aws:bedrock:us-east-1::foundation-model/{NOVA}", ("aws", NOVA)),
        ("litellm", f"bedrock/converse/arn:aws:bedrock:us-east-1::foundation-model/{NOVA}", ("aws", NOVA)),
        ("litellm", f"bedrock/converse/arn%3aaws%3abedrock%3aus-east-1%3a%3afoundation-model%2F{NOVA}", ("aws", NOVA)),
        # geographies, also of models that list only the bare name
        *[("aws", f"{geo}.{NOVA}", ("aws", NOVA)) for geo in ("us", "eu", "apac", "jp", "au", "ca", "us-gov")],
        ("aws", f"us.{SONNET}", ("aws", f"regional.{SONNET}")),
        ("aws", f"global.{SONNET}", ("aws", f"global.{SONNET}")),
        # gateways
        ("openrouter", "openrouter/x-ai/grok-4", ("x-ai", "grok-4-0709")),
        ("openrouter", "x-ai/grok-4", ("x-ai", "grok-4-0709")),
        ("openai", "openrouter/x-ai/grok-4", ("x-ai", "grok-4-0709")),
        ("litellm", "openrouter/anthropic/claude-sonnet-4.5", ("openrouter", "anthropic/claude-sonnet-4.5")),
        ("openrouter", "openrouter/anthropic/claude-sonnet-4.5", ("openrouter", "anthropic/claude-sonnet-4.5")),
        ("openai", "azure/gpt-4o", ("openai", "gpt-4o")),
        ("azure", "azure/gpt-4o", ("openai", "gpt-4o")),
        ("litellm", "azure_ai/phi-4", ("azure", "phi-4")),
        ("litellm_proxy", "azure/gpt-4o", ("openai", "gpt-4o")),
        ("openai", "litellm_proxy/gpt-4o", ("openai", "gpt-4o")),
        ("litellm", "litellm_proxy/azure/gpt-4o", ("openai", "gpt-4o")),
        ("openai", "litellm_proxy/bedrock/" + NOVA, ("aws", NOVA)),
        ("aws", f"bedrock/{SONNET}", ("aws", f"regional.{SONNET}")),
        ("anthropic", f"bedrock/{SONNET}", ("aws", f"regional.{SONNET}")),
        ("litellm", f"bedrock/us-west-2/{NOVA}", ("aws", NOVA)),
        ("litellm", f"bedrock/invoke/us.{NOVA}", ("aws", NOVA)),
        ("litellm", "vertex_ai/gemini-2.5-pro", ("google", "gemini-2.5-pro")),
        ("google", "vertex_ai/gemini-2.5-pro", ("google", "gemini-2.5-pro")),
        ("anthropic", "vertex_ai/claude-sonnet-4-5@20250929", ("google", "claude-sonnet-4-5")),
        ("litellm", "gemini/gemini-2.5-pro", ("google", "gemini-2.5-pro")),
        ("litellm", "xai/grok-4", ("x-ai", "grok-4-0709")),
        ("groq", "openai/gpt-oss-120b", ("groq", "openai/gpt-oss-120b")),
        # fine-tuned, with a price of their own
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", ("openai", "ft:gpt-4o-mini")),
        ("openai", "ft:gpt-4o-2024-08-06:acme:bot:abc:ckpt-step-88", ("openai", "ft:gpt-4o")),
        ("litellm", "openai/ft:gpt-3.5-turbo-0125:acme::abc", ("openai", "ft:gpt-3.5-turbo-")),
        # Azure: a model, or a model and its date
        ("azure", "o4-mini", ("azure", "o4-mini")),
        ("azure", "o4-mini-2025-04-16", ("azure", "o4-mini")),
        ("azure", "o4-mini-deep-research", ("openai", "o4-mini-deep-research")),
        ("azure", "claude-sonnet-4-5-20250929", ("anthropic", "claude-sonnet-4-5")),
    ],
)
def test_a_name_is_priced_as_the_model_that_it_says(
    public_book: PriceBook, provider: str, model: str, expected: tuple[str, str]
) -> None:
    assert listing(public_book, provider, model) == expected
    assert listing(public_book, provider.upper(), f" {model.upper()} ") == expected


@pytest.mark.parametrize(
    ("provider", "model", "says"),
    [
        ("aws", PROFILE, "give it an alias"),
        ("bedrock", "application-inference-profile/abc123", "give it an alias"),
        ("litellm", f"bedrock/converse/{PROFILE}", "give it an alias"),
        ("litellm", PROFILE, "give it an alias"),
        ("aws", f"{ARN}custom-model/{NOVA}:300k/abc123", "not billed as its base"),
        ("aws", f"custom-model/{SONNET}/abc123", "not billed as its base"),
        ("aws", f"{ARN}custom-model-deployment/abc123", "not billed as its base"),
        ("aws", f"{ARN}provisioned-model/abc123", "by the hour"),
        ("aws", f"{ARN}imported-model/abc123", "by the minute"),
        ("litellm", f"bedrock/llama/{ARN}imported-model/abc123", "by the minute"),
        ("aws", f"{ARN}default-prompt-router/anthropic.claude:1", "prompt router"),
        ("aws", f"arn:aws:sagemaker:eu-west-1:111122223333:endpoint/{NOVA}", "the ARN of sagemaker"),
        ("aws", f"{ARN}agent/{NOVA}", "kind agent doesn't name a model"),
        ("litellm", "github_copilot/gpt-4o", "without a usable price"),
        ("litellm", f"bedrock/us-east-1/1-month-commitment/{SONNET}", "by the hour"),
        ("google", "projects/acme/locations/us-central1/endpoints/123456", "an endpoint doesn't name its model"),
        ("azure", "prod-chat", "doesn't list this model of azure"),
        ("azure", "gpt-4o-of-acme", "doesn't list this model of azure"),
        ("azure", "acme-o4-mini", "doesn't list this model of azure"),
        ("azure", "claude-sonnet-4-5-of-acme", "doesn't list this model of azure"),
        ("litellm", "azure/eu/gpt-4o", "doesn't list this model of azure"),
        ("openai", "ft:gpt-4-0613:acme::abc", "fine-tuned"),
        ("openai", "ft:gpt-4.1-2025-04-14:acme::abc", "fine-tuned"),
        ("openai", "curie:ft-acme-2022-03-01", "fine-tuned"),
        ("azure", "o4-mini-2025-04-16.ft-0123456789abcdef", "fine-tuned"),
        ("azure", "gpt-4o-mini-2024-07-18.ft-0123456789abcdef", "fine-tuned"),  # the listed price is OpenAI's
        ("mistral", "ft:mistral-large-latest:acme:20260101:abc", "fine-tuned"),
        ("google", "tunedModels/gemini-2.5-pro-abc", "fine-tuned"),
        ("openrouter", "openai/gpt-4o:online", "doesn't list this model of openrouter"),  # searches cost more
        ("openrouter", "x-ai/grok-4:nitro", "doesn't list this model of openrouter"),
        ("openrouter", "google/gemini-2.5-pro-of-acme", "doesn't list this model of openrouter"),
        ("openrouter", "deepseek/no-such-model", "doesn't list this model of openrouter"),
        ("openrouter", "openrouter/auto", "doesn't list this model of openrouter"),
        ("litellm", "gpt-4o", "a gateway sells nothing itself"),
        ("litellm", "ollama/llama3", "doesn't know the provider ollama"),
        ("acme-gateway", "azure/gpt-4o", "doesn't know the provider acme-gateway"),
        ("aws", "azure/gpt-4o", "says that azure serves it, the event says aws"),
        ("groq", "openrouter/x-ai/grok-4", "says that openrouter serves it, the event says groq"),
        ("openai", "anthropic/claude-sonnet-4-5", "doesn't list this model of openai"),
        ("", "", "doesn't know the provider"),
    ],
)
def test_a_name_that_does_not_say_which_model_it_is_has_no_price_but_a_reason(
    public_book: PriceBook, provider: str, model: str, says: str
) -> None:
    assert listing(public_book, provider, model) is None
    assert says in public_book.why_unpriced(provider, model)
    priced = public_book.price(frame(call(model, provider=provider, input=1)))
    assert (priced.priced[0], priced.card[0]) == (False, -1)


def test_another_seller_s_price_is_said_to_be_one(public_book: PriceBook) -> None:
    def notes(provider: str, model: str) -> str:
        return " ".join(public_book.explain(provider, model, at=MID_NOVEMBER).notes)

    assert "openrouter charges the price of x-ai" in notes("openrouter", "x-ai/grok-4")
    assert "no price of azure's own is known: the price of deepseek applies" in notes("azure", "DeepSeek-Reasoner")
    assert "azure charges the price of openai" in notes("azure", "gpt-4o")
    assert "own is known" not in notes("azure", "o4-mini") + notes("openrouter", "x-ai/grok-4-fast")


ALIASES = f"""
aliases:
  - provider: azure
    model: Prod-Chat
    means: {{model: gpt-4o-2024-08-06}}
  - provider: aws
    model: {PROFILE}
    means: {{model: eu.{SONNET}}}
  - provider: acme-gateway
    model: chat/large
    means: {{provider: litellm, model: azure/gpt-4o}}
  - provider: acme-gateway
    model: small
    means: {{model: acme-small-v2}}
  - provider: litellm
    model: gpt-4o
    means: {{provider: azure, model: gpt-4o}}
"""


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("azure", "prod-chat", ("openai", "gpt-4o")),
        ("azure.ai.openai", "PROD-CHAT", ("openai", "gpt-4o")),
        ("litellm", "azure/prod-chat", ("openai", "gpt-4o")),
        ("openai", "azure/prod-chat", ("openai", "gpt-4o")),
        ("aws.bedrock", PROFILE, ("aws", f"regional.{SONNET}")),
        ("litellm", f"bedrock/converse/{PROFILE}", ("aws", f"regional.{SONNET}")),
        ("acme-gateway", "chat/large", ("openai", "gpt-4o")),
        ("acme-gateway", "small", ("acme-gateway", "acme-small-v2")),
        ("litellm", "gpt-4o", ("openai", "gpt-4o")),
        ("openai", "prod-chat", None),
        ("azure", "prod-chat-2", None),
        ("aws", PROFILE + "4", None),
        ("aws", PROFILE.replace("eu-west-1", "us-east-1"), None),
    ],
)
def test_an_alias_is_priced_as_the_model_that_it_stands_for(
    book_of: Callable[[str], PriceBook], provider: str, model: str, expected: tuple[str, str] | None
) -> None:
    book = book_of("cards:\n" + CARD % ("acme-gateway", "acme-small-v2", 7) + ALIASES)
    assert listing(book, provider, model) == expected


def test_an_alias_takes_the_price_of_your_own_card_for_its_model(book_of: Callable[[str], PriceBook]) -> None:
    book = book_of("cards:\n" + CARD % ("azure", "gpt-4o-2024-08-06", 2) + ALIASES)
    for provider, model in (("azure", "prod-chat"), ("litellm", "azure/prod-chat"), ("openai", "azure/prod-chat")):
        assert price_one(book, call(model, provider=provider, input=10**6))[0] == 2 * 10**12


def test_a_card_of_the_seller_prices_what_a_gateway_routes_to_it(book_of: Callable[[str], PriceBook]) -> None:
    """Azure's contract applies to Azure's model however it is reached; a card of the gateway's own overrides it."""
    azure = CARD % ("azure", "gpt-4o", 2)
    row = call("azure/gpt-4o", provider="litellm", input=10**6)
    assert price_one(book_of("cards:\n" + azure), row)[0] == 2 * 10**12
    both = "cards:\n" + azure + CARD % ("litellm", "azure/gpt-4o", 1)
    assert price_one(book_of(both), row)[0] == 10**12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "aliases: [{provider: azure, model: prod-*, means: {model: gpt-4o}}]",
            ":1:36: aliases.0.model: an alias is one name, not a glob",
        ),
        (
            "aliases: [{provider: azure, model: prod, means: {model: gpt-*}}]",
            ":1:57: aliases.0.means.model: an alias is one name, not a glob",
        ),
        ("aliases: [{provider: azure, model: prod, means: gpt-4o}]", "expected a mapping"),
        ("aliases: [{provider: azure, model: prod}]", "means: missing field"),
        (
            "aliases:\n  - {provider: azure, model: prod, means: {model: gpt-4o}}\n"
            "  - {provider: az.ai.openai, model: PROD, means: {model: gpt-4.1}}\n",
            ":3:5: PROD already has an alias in",
        ),
        (
            "aliases:\n  - {provider: azure, model: prod, means: {model: next}}\n"
            "  - {provider: azure, model: next, means: {model: gpt-4o}}\n",
            ":2:5: next is an alias itself",
        ),
        (
            "aliases: [{provider: azure, model: prod, means: {model: gpt-4o}}]\ncards:\n" + CARD % ("azure", "prod", 1),
            ":3:5: prod is an alias in",
        ),
    ],
)
def test_an_alias_that_is_no_use_is_refused_where_it_stands(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "cards.yaml"
    file.write_text(text)
    with pytest.raises(RateCardInvalid) as refused:
        PriceBook.load([file])
    assert says in str(refused.value)


def test_the_nearest_names_are_those_of_the_seller_then_of_others(public_book: PriceBook) -> None:
    assert public_book.nearest("openai", "gpt-4o-minni")[0] == "openai gpt-4o-mini"
    assert "openai gpt-4o" in public_book.nearest("acme", "gpt-4o")
    assert public_book.nearest("openai", "nothing like it") == ()


NAMES = [model.id for provider in providers for model in provider.models]
PARTS = [
    "azure",
    "bedrock",
    "vertex_ai",
    "openrouter",
    "litellm_proxy",
    "converse",
    "us-east-1",
    "foundation-model",
    ARN,
]


@settings(max_examples=300)
@given(
    provider=st.sampled_from([provider.id for provider in providers] + ["litellm", "acme", ""]),
    parts=st.lists(st.sampled_from(PARTS), max_size=4),
    model=st.sampled_from(NAMES) | st.text(max_size=20),
    separator=st.sampled_from(["/", ":", "."]),
)
def test_only_parts_before_the_model_s_own_name_are_dropped(
    provider: str, parts: list[str], model: str, separator: str
) -> None:
    """Whatever is asked of the price book is an end of the name in the event."""
    ids = {provider.id for provider in providers}
    whole = separator.join([*parts, model])
    names = read_names(provider, whole, lambda name: name if name in ids else None)
    assert all(whole.strip().lower().endswith(name) for name in names.listed if "%" not in whole)
    assert bool(names.listed) != bool(names.reason)
