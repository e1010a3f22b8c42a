"""Gemini's usage metadata: cached content is inside the prompt count; thoughts are sometimes inside the
candidates' count and sometimes beside it: ``totalTokenCount`` decides. Tool-use prompts likewise.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from spendstream.adapters.shape import Body, Counts, Part, Shape, nested, objects, split_input, states_any

_BUCKET_OF_KIND: Final = {"TEXT": "text", "AUDIO": "audio", "IMAGE": "image", "VIDEO": "video", "DOCUMENT": "image"}
"""Documents are read and billed as images."""


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a response's usage metadata.

    Of 100 prompt, 50 candidate and 30 thought tokens, a total of 180 means beside: 50 output and 30 reasoning;
    a total of 150 means inside: 20 output and 30 reasoning. Without a total they are beside, as documented.
    Tokens that are in the total alone are thoughts where those are not stated, else a tool's prompt: a guess, noted.
    """
    if "cachedContents/" in str(body.get("name")):
        return _stored(usage, body)
    field = "responseTokenCount" if usage.states("responseTokenCount") else "candidatesTokenCount"
    prompt = _else_details(usage, usage.whole("promptTokenCount"))
    candidates = _else_details(usage, usage.part(field))
    thoughts, tools = usage.part("thoughtsTokenCount"), usage.part("toolUsePromptTokenCount")
    tools_beside, thoughts_beside, gap = _placement(usage, prompt.tokens + candidates.tokens, tools, thoughts)
    if not tools_beside and tools.tokens > prompt.tokens:
        usage.reading.note(f"{tools.field} {tools.tokens} exceeds {prompt.field} {prompt.tokens}, which includes it")
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
    visible = usage.rest(
        candidates,
        *([] if thoughts_beside else [thoughts]),
        *(Part(kind, in_answer[kind]) for kind in ("audio", "image", "video")),
    )
    searches, maps = groundings(body)
    usage.unit("map_searches", maps)
    if tools.tokens and (searches or maps):
        usage.reading.note(f"{tools.field} {tools.tokens} counted as input, which a search's results may not be")
    return {
        **split_input(
            usage,
            Part(prompt.field, prompt.tokens + more_input),
            cached=usage.part("cachedContentTokenCount"),
            written={},
            audio=Part("promptTokensDetails.AUDIO", sum(kinds["audio"] for kinds in in_prompt)),
            image=Part("promptTokensDetails.IMAGE", sum(kinds["image"] for kinds in in_prompt)),
            video=Part("promptTokensDetails.VIDEO", sum(kinds["video"] for kinds in in_prompt)),
            cached_audio=in_cache["audio"] if usage.raw.get("cacheTokensDetails") else None,
            cached_image=in_cache["image"],
            cached_video=in_cache["video"],
        ),
        "output_tokens": visible,
        "reasoning_tokens": hidden,
        "output_audio_tokens": in_answer["audio"],
        "output_image_tokens": in_answer["image"],
        "output_video_tokens": in_answer["video"],
        "web_searches": searches,
    }


def _stored(usage: Counts, body: Body) -> dict[str, int]:
    """Return what it takes to make an explicit cache: its tokens once as input, and their storage until it expires.

    32,000 tokens kept for 90 minutes are 48,000 ``storage_token_hours``.
    """
    total = usage.whole("totalTokenCount").tokens
    usage.ignore("audioDurationSeconds", "imageCount", "textCount", "videoDurationSeconds")  # what the tokens are of
    made, expires = (body.get(name) or body.get(other) for name, other in _CACHE_TIMES)
    try:
        kept = datetime.fromisoformat(str(expires)) - datetime.fromisoformat(str(made))
        usage.unit("storage_token_hours", round(Decimal(total) * (kept // _MICROSECOND) / _MICROSECONDS_PER_HOUR, 6))
        usage.reading.note("storage until the cache expires; deleting or keeping it longer changes what is billed")
    except (ValueError, TypeError):
        usage.reading.note(f"storage of {total} tokens: no createTime and expireTime")
    return {"input_tokens": total, "output_tokens": 0}


_CACHE_TIMES: Final = (("createTime", "create_time"), ("expireTime", "expire_time"))
_MICROSECOND: Final = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR: Final = 3_600_000_000


def _else_details(usage: Counts, whole: Part) -> Part:
    """Return a count, or the sum of its details where they alone are stated, noted."""
    details = whole.field.replace("TokenCount", "TokensDetails")
    summed = 0 if usage.states(whole.field) else sum(entry.count("tokenCount") for entry in usage.each(details))
    if summed:
        usage.reading.note(f"{whole.field} not stated: {details} sum to {summed}")
    return Part(whole.field, whole.tokens or summed)


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
    """Return a detail list's tokens by bucket. An unknown kind stays unread."""
    found = dict.fromkeys(_BUCKET_OF_KIND.values(), 0)
    for entry in usage.each(details):
        # the wire says AUDIO; the SDK has an enum whose text is MediaModality.AUDIO
        kind = str(entry.raw.get("modality")).rpartition(".")[2].upper()
        if kind in _BUCKET_OF_KIND:
            found[_BUCKET_OF_KIND[kind]] += entry.count("tokenCount")
    return found


def groundings(body: Body) -> tuple[int, int]:
    """Return how many (searches of the web, searches of maps) are billed.

    From Gemini 3 each different query is one; before that, a grounded answer is one, however many it took.
    """
    queries: dict[str, set[str]] = {"web": set(), "maps": set()}
    has_maps = False
    for candidate in objects(body.get("candidates")):
        grounding = nested(spell(candidate), "groundingMetadata")
        chunks = objects(grounding.get("groundingChunks"))
        is_maps = bool(grounding.get("googleMapsWidgetContextToken")) or any(chunk.get("maps") for chunk in chunks)
        asked = queries["maps" if is_maps and not any(chunk.get("web") for chunk in chunks) else "web"]
        for name in ("webSearchQueries", "imageSearchQueries"):
            stated = grounding.get(name)
            asked.update(str(query).strip() for query in (stated if isinstance(stated, list) else ()))
        asked.discard("")
        has_maps |= is_maps
    web, maps = len(queries["web"]), max(len(queries["maps"]), has_maps)
    model = str(body.get("modelVersion") or body.get("model_version") or "")
    return (min(web, 1), min(maps, 1)) if re.match(r"(models/)?gemini-[12]\b", model) else (web, maps)


def _tier(usage: Counts, body: Body) -> object:
    for field in ("serviceTier", "trafficType"):
        if usage.states(field):
            return str(usage.raw[field]).rpartition(".")[2]
    return None


_COUNTS: Final = ("prompt", "candidates", "response", "thoughts", "toolUsePrompt", "total", "cachedContent")
_DETAILED: Final = ("prompt", "candidates", "response", "toolUsePrompt", "cache")


def _is_of(usage: Body, provider: str) -> bool:
    spelled = spell(usage)
    return states_any(spelled, *(f"{count}TokenCount" for count in _COUNTS)) or any(
        isinstance(details := spelled.get(f"{count}TokensDetails"), list) and details for count in _DETAILED
    )


GEMINI: Final = Shape(
    name="gemini",
    is_of=_is_of,
    buckets=buckets,
    tier=_tier,
    spell=spell,
    model_at=("modelVersion", "model_version", "model"),
    id_at=("responseId", "response_id"),
)
