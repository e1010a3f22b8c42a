"""Gemini's usage metadata: cached content is inside the prompt count; thoughts are sometimes inside the
candidates' count and sometimes beside it: ``totalTokenCount`` decides. Tool-use prompts likewise.
"""

import re
from collections.abc import Mapping
from typing import Final

from spendstream.adapters.shape import Body, Counts, InconsistentUsage, Part, Shape, split_input

# Documents are read and billed as images. Video has no bucket: it is billed at the text rate.
IMAGE_KINDS: Final = frozenset({"IMAGE", "DOCUMENT"})
AUDIO_KINDS: Final = frozenset({"AUDIO"})


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a response's usage metadata.

    Of 100 prompt, 50 candidate and 30 thought tokens, a total of 180 means beside: 50 output and 30 reasoning;
    a total of 150 means inside: 20 output and 30 reasoning. Without a total they are beside, as documented.

    Raises: InconsistentUsage, when a part exceeds its whole, or the total fits no reading.
    """
    usage = Counts(usage.provider, {_camel(field): value for field, value in usage.raw.items()})
    tools_beside, thoughts_beside = _placement(usage)
    made = _input(usage, tools_beside)
    candidates, thoughts = _candidates(usage), usage.part("thoughtsTokenCount")
    details = candidates.field.replace("TokenCount", "TokensDetails")
    audio = Part(f"{details}.AUDIO", _of_kind(usage, details, AUDIO_KINDS))
    image = Part(f"{details}.IMAGE", _of_kind(usage, details, IMAGE_KINDS))
    inside = () if thoughts_beside else (thoughts,)
    return {
        **made,
        "output_tokens": usage.rest(candidates, *inside, audio, image),
        "reasoning_tokens": thoughts.tokens,
        "output_audio_tokens": audio.tokens,
        "output_image_tokens": image.tokens,
        "web_searches": web_searches(body),
    }


def _camel(field: str) -> str:
    """Return a field's name on the wire (``promptTokenCount``); the Python SDK spells it ``prompt_token_count``."""
    head, *words = field.split("_")
    return head + "".join(map(str.capitalize, words))


def _candidates(usage: Counts) -> Part:
    """Return the visible output's count; the Live API calls it the response's."""
    return usage.part("responseTokenCount" if usage.states("responseTokenCount") else "candidatesTokenCount")


def _placement(usage: Counts) -> tuple[bool, bool]:
    """Return whether (tool-use prompts, thoughts) are beside the prompt's and the candidates' counts."""
    total = usage.count("totalTokenCount")
    tools, thoughts = usage.count("toolUsePromptTokenCount"), usage.count("thoughtsTokenCount")
    stated = usage.count("promptTokenCount") + _candidates(usage).tokens
    if not usage.states("totalTokenCount"):
        return True, True
    for tools_beside, thoughts_beside in ((True, True), (True, False), (False, True), (False, False)):
        if total == stated + tools * tools_beside + thoughts * thoughts_beside:
            return tools_beside, thoughts_beside
    raise InconsistentUsage(
        usage.provider,
        "totalTokenCount",
        f"{total} is not prompt + candidates ({stated}), with or without thoughts ({thoughts}) and tool use ({tools})",
    )


def _input(usage: Counts, tools_beside: bool) -> dict[str, int]:
    details = ["promptTokensDetails"] + ["toolUsePromptTokensDetails"] * tools_beside
    whole = usage.count("promptTokenCount") + usage.count("toolUsePromptTokenCount") * tools_beside
    return split_input(
        usage,
        Part("promptTokenCount", whole),
        cached=usage.part("cachedContentTokenCount"),
        written=Part("promptTokenCount", 0),
        audio=Part("promptTokensDetails.AUDIO", sum(_of_kind(usage, d, AUDIO_KINDS) for d in details)),
        image=Part("promptTokensDetails.IMAGE", sum(_of_kind(usage, d, IMAGE_KINDS) for d in details)),
        cached_audio=_of_kind(usage, "cacheTokensDetails", AUDIO_KINDS) if usage.states("cacheTokensDetails") else None,
        cached_image=_of_kind(usage, "cacheTokensDetails", IMAGE_KINDS),
    )


def _of_kind(usage: Counts, details: str, kinds: frozenset[str]) -> int:
    entries = (Counts(usage.provider, {_camel(f): v for f, v in d.raw.items()}) for d in usage.each(details))
    # the wire says AUDIO; the SDK has an enum whose text is MediaModality.AUDIO
    return sum(e.count("tokenCount") for e in entries if str(e.raw.get("modality")).rpartition(".")[2] in kinds)


def web_searches(body: Body) -> int:
    """Count the billed web searches: each query from Gemini 3 on; before that, one for a grounded answer."""
    queries = 0
    for candidate in body.get("candidates") or ():
        if isinstance(candidate, Mapping):
            grounding = candidate.get("groundingMetadata") or candidate.get("grounding_metadata") or {}
            queries += len(grounding.get("webSearchQueries") or grounding.get("web_search_queries") or [])
    model = str(body.get("modelVersion") or body.get("model_version") or "")
    return min(queries, 1) if re.match(r"(models/)?gemini-[12]\b", model) else queries


def _tier(usage: Body, body: Body) -> object:
    for field in ("serviceTier", "service_tier", "trafficType", "traffic_type"):
        if usage.get(field) is not None:
            return str(usage[field]).rpartition(".")[2]
    return None


GEMINI: Final = Shape(
    name="gemini",
    marks=frozenset({"promptTokenCount", "totalTokenCount", "prompt_token_count", "total_token_count"}),
    held_at=(("usageMetadata",), ("usage_metadata",)),
    buckets=buckets,
    tier=_tier,
    model_at=("modelVersion", "model_version"),
    id_at=("responseId", "response_id"),
)
