"""Gemini's usage metadata: cached content is inside the prompt count; thoughts are sometimes inside the
candidates' count and sometimes beside it: ``totalTokenCount`` decides. Tool-use prompts likewise.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from spendstream.adapters.shape import Body, Counts, Part, Shape, split_input, states_any

# Documents are read and billed as images. Video has no bucket: it is billed at the text rate, except by the Live API.
_BUCKET_OF_KIND: Final = {"TEXT": "text", "VIDEO": "text", "AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image"}


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a response's usage metadata.

    Of 100 prompt, 50 candidate and 30 thought tokens, a total of 180 means beside: 50 output and 30 reasoning;
    a total of 150 means inside: 20 output and 30 reasoning. Without a total they are beside, as documented.
    Tokens that are in the total alone are thoughts where those are not stated, else a tool's prompt: a guess, noted.
    """
    prompt = usage.whole("promptTokenCount")
    field = "responseTokenCount" if usage.states("responseTokenCount") else "candidatesTokenCount"
    candidates = usage.part(field)
    thoughts, tools = usage.part("thoughtsTokenCount"), usage.part("toolUsePromptTokenCount")
    tools_beside, thoughts_beside, gap = _placement(usage, prompt.tokens + candidates.tokens, tools, thoughts)
    hidden, more_input = thoughts.tokens, tools.tokens * tools_beside
    if gap and not usage.states("thoughtsTokenCount"):
        hidden += gap
    else:
        more_input += gap

    sent = ["promptTokensDetails"] + ["toolUsePromptTokensDetails"] * tools_beside
    usage.ignore("toolUsePromptTokensDetails")
    in_prompt = [_kinds(usage, details) for details in sent]
    in_cache = _kinds(usage, "cacheTokensDetails")
    in_answer = _kinds(usage, field.replace("TokenCount", "TokensDetails"))
    if usage.states("responseTokenCount") or re.search(r"\blive\b", str(body.get("modelVersion"))):
        usage.unit("live video tokens", sum(int(kinds["VIDEO"]) for kinds in in_prompt))
    visible = usage.rest(
        candidates,
        *([] if thoughts_beside else [thoughts]),
        Part("audio", in_answer["audio"]),
        Part("image", in_answer["image"]),
    )
    return {
        **split_input(
            usage,
            Part(prompt.field, prompt.tokens + more_input),
            cached=usage.part("cachedContentTokenCount"),
            written={},
            audio=Part("promptTokensDetails.AUDIO", sum(kinds["audio"] for kinds in in_prompt)),
            image=Part("promptTokensDetails.IMAGE", sum(kinds["image"] for kinds in in_prompt)),
            cached_audio=in_cache["audio"] if usage.states("cacheTokensDetails") else None,
            cached_image=in_cache["image"],
        ),
        "output_tokens": visible,
        "reasoning_tokens": hidden,
        "output_audio_tokens": in_answer["audio"],
        "output_image_tokens": in_answer["image"],
        "web_searches": web_searches(body),
    }


def spell(usage: Body) -> Body:
    """Return the usage as on the wire (``promptTokenCount``); the Python SDK spells it ``prompt_token_count``."""
    return {_camel(str(field)): _spelled(value) for field, value in usage.items() if value is not None}


def _spelled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return spell(value)
    return list(map(_spelled, value)) if isinstance(value, list | tuple) else value


def _camel(field: str) -> str:
    head, *words = field.split("_")
    return head + "".join(map(str.capitalize, words))


def _placement(usage: Counts, stated: int, tools: Part, thoughts: Part) -> tuple[bool, bool, int]:
    """Return whether (tool-use prompts, thoughts) are beside the stated counts, and the tokens in the total alone."""
    total = usage.part("totalTokenCount")
    if not total.tokens:
        return True, True, 0
    for tools_beside, thoughts_beside in ((True, True), (True, False), (False, True), (False, False)):
        if total.tokens == stated + tools.tokens * tools_beside + thoughts.tokens * thoughts_beside:
            return tools_beside, thoughts_beside, 0
    whole = stated + tools.tokens + thoughts.tokens
    usage.check_total(total, whole)
    return True, True, max(total.tokens - whole, 0)


def _kinds(usage: Counts, details: str) -> dict[str, int]:
    """Return a detail list's tokens by bucket, and those of video by their own name. An unknown kind stays unread."""
    found = {"text": 0, "audio": 0, "image": 0, "VIDEO": 0}
    for entry in usage.each(details):
        # the wire says AUDIO; the SDK has an enum whose text is MediaModality.AUDIO
        kind = str(entry.raw.get("modality")).rpartition(".")[2].upper()
        if kind in _BUCKET_OF_KIND:
            tokens = entry.count("tokenCount")
            found[_BUCKET_OF_KIND[kind]] += tokens
            found["VIDEO"] += tokens * (kind == "VIDEO")
    return found


def web_searches(body: Body) -> int:
    """Count the billed web searches: from Gemini 3 on each different query; before that, one for a grounded answer."""
    queries: set[str] = set()
    candidates = body.get("candidates")
    for candidate in candidates if isinstance(candidates, Sequence) else ():
        if isinstance(candidate, Mapping):
            grounding = candidate.get("groundingMetadata") or candidate.get("grounding_metadata")
            if isinstance(grounding, Mapping):
                stated = grounding.get("webSearchQueries") or grounding.get("web_search_queries") or ()
                queries.update(query for each in stated if (query := str(each).strip()))
    model = str(body.get("modelVersion") or body.get("model_version") or "")
    return min(len(queries), 1) if re.match(r"(models/)?gemini-[12]\b", model) else len(queries)


def _tier(usage: Counts, body: Body) -> object:
    for field in ("serviceTier", "trafficType"):
        if usage.states(field):
            return str(usage.raw[field]).rpartition(".")[2]
    return None


_FIELDS: Final = ("promptTokenCount", "totalTokenCount", "candidatesTokenCount", "responseTokenCount")

GEMINI: Final = Shape(
    name="gemini",
    is_of=lambda usage, provider: states_any(spell(usage), *_FIELDS),
    buckets=buckets,
    tier=_tier,
    spell=spell,
    model_at=("modelVersion", "model_version"),
    id_at=("responseId", "response_id"),
)
