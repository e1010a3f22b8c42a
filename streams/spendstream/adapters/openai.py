"""OpenAI's usage (chat completions, responses, realtime, images, embeddings), and that of the many compatible APIs.

Cached tokens are inside the prompt count, reasoning inside the completion count. Some compatible APIs (xAI; Gemini's
compatible endpoint) keep reasoning beside the completion count: the total shows which. LiteLLM, Databricks and others
answer for Claude in this shape, with Anthropic's names for the cache, inside the prompt count.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from spendstream.adapters.shape import (
    FAST_MODE,
    BesideCall,
    Body,
    Counts,
    Part,
    Path,
    Reading,
    Shape,
    leaves,
    nested,
    objects,
    split_cache_writes,
    split_input,
    states_any,
)

GOOGLE: Final = frozenset({"google", "gemini", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "vertex_ai"})
"""Gemini's compatible endpoint counts thoughts and tool use in the total alone, under no name."""

IMAGE_TOOL_MODEL: Final = "gpt-image-2"
"""What the image tool of the responses API calls where the request names no model."""

# Parts of counts that are read, times and speeds: nothing that is billed for itself.
_INPUT_IGNORED: Final = ("text_tokens", "cache_miss_tokens")
_OUTPUT_IGNORED: Final = ("text_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")
_IGNORED: Final = (
    *("time_info", "request_usage_entries"),
    *("cost", "cost_details", "estimated_cost", "cost_in_usd_ticks", "is_byok"),
    *("num_server_side_tools_used", "num_completion_tokens_by_model"),
)
_AUDIO_TOKENS_PER_SECOND: Final = 100
"""More than Mistral counts for a second of audio: 12.5."""

_CONNECTOR_UNITS: Final = {
    "web_search": "web_searches",
    "image_generation": "images",
    "document_library": "file_searches",
    "code_interpreter": "code_executions",
}
"""Mistral's name of a connector → the unit that one call of it is."""


def buckets(usage: Counts, body: Body) -> dict[str, int]:
    """Return disjoint buckets of a chat completion's or a response's usage.

    1,000 prompt tokens with 400 cached are 600 input and 400 cache read; 300 completion tokens with
    120 of reasoning are 180 output and 120 reasoning. A count that contradicts its whole is read as the total says,
    else as beside it, and noted.
    """
    usage.ignore(*_IGNORED)
    prompt_side, completion_side = _sides(usage)
    made = _tokens(usage, prompt_side, completion_side, body)
    _note_other_names(usage, prompt_side, made)
    if asked := sum(sum(call.buckets.values()) for call in _compound(usage, body)):
        # each model is billed for its own part
        usage.check_total(Part("the sum of usage_breakdown", asked), sum(made.values()))
        made = dict.fromkeys(made, 0)
    if usage.quantity("prompt_audio_seconds") and "text" in body:
        made = dict.fromkeys(made, 0)  # Mistral's transcriptions are billed by the second alone
    made["web_searches"] = web_searches(body) + _tool_counts(usage, body)
    _count_units(usage, body)
    if (requests := usage.count("requests")) > 1:  # OpenAI's agents
        usage.reading.note(f"the sum of {requests} requests: rates that depend on a call's length can't be applied")
    if body.get("object") == "batch":
        usage.reading.note("the sum of a batch: rates that depend on a call's length can't be applied")
    return made


def _sides(usage: Counts) -> tuple[str, str]:
    """Return the words for both sides: the object's own, where it repeats its counts under both."""
    chat = any(usage.raw.get(field) for field in ("prompt_tokens", "completion_tokens"))
    responses = any(usage.raw.get(field) for field in ("input_tokens", "output_tokens"))
    if chat or (not responses and usage.states("prompt_tokens")):
        return "prompt", "completion"
    return "input", "output"


def _tokens(usage: Counts, prompt_side: str, completion_side: str, body: Body) -> dict[str, int]:
    prompt, completion = usage.whole(f"{prompt_side}_tokens"), usage.whole(f"{completion_side}_tokens")
    total = usage.part("total_tokens")
    if not usage.states(f"{prompt_side}_tokens"):
        prompt = _unstated_prompt(usage, prompt, completion, total, body)
    if usage.count("image_pixels") + usage.count("video_pixels"):
        prompt = total = usage.part("text_tokens")  # Voyage bills the pixels, whose tokens the total counts too
    if usage.states("connector_tokens"):  # Mistral's, beside the prompt
        prompt = Part(prompt.field, prompt.tokens + usage.count("connector_tokens"))
    details, details_out = _details(usage, prompt_side), _details(usage, completion_side)
    chat_in, chat_out = "prompt_tokens_details", "completion_tokens_details"  # gateways repeat them beside the other
    responses_in, responses_out = "input_tokens_details", "output_tokens_details"
    cached = usage.agreed(
        *((field, "cached_tokens") for field in dict.fromkeys((details, chat_in, responses_in))),
        *((details, name) for name in ("cache_read_tokens", "cache_read_input_tokens")),
        *((name,) for name in ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")),
    )
    written = _written(usage, details)
    outs = dict.fromkeys((details_out, chat_out, responses_out))
    reasoning = usage.agreed(*((field, "reasoning_tokens") for field in outs), ("reasoning_tokens",))
    states_reasoning = usage.inner(details_out).states("reasoning_tokens") or usage.states("reasoning_tokens")
    cache = cached.tokens + sum(written.values())
    billed_apart = usage.part(details, "tool_use_tokens").tokens  # LiteLLM: in the total alone where they are free
    heard = usage.quantity("prompt_audio_seconds")  # Mistral: audio is billed by the second, its tokens are not
    beside = total.tokens - prompt.tokens - completion.tokens
    if 0 < beside <= heard * _AUDIO_TOKENS_PER_SECOND or beside == billed_apart > 0:
        total = Part(total.field, prompt.tokens + completion.tokens)
    cache_beside, reasoning_beside, gap = _placement(usage, prompt, completion, cache, reasoning.tokens, total)
    hidden, more_input, more_output = reasoning.tokens, 0, 0
    if gap and not usage.states(f"{completion_side}_tokens"):
        more_output = gap
    elif gap and usage.provider in GOOGLE and not states_reasoning:
        hidden += gap
    elif gap and usage.provider in GOOGLE:
        more_input = gap
    usage.inner(details).ignore(*_INPUT_IGNORED)
    usage.inner(details_out).ignore(*_OUTPUT_IGNORED)
    if usage.states("prompt_cache_miss_tokens"):
        usage.check_total(usage.part("prompt_cache_miss_tokens"), max(prompt.tokens - cached.tokens, 0))
    audio, image, video = (usage.part(details_out, f"{kind}_tokens") for kind in ("audio", "image", "video"))
    inside = () if reasoning_beside else (reasoning,)
    visible = usage.rest(Part(completion.field, completion.tokens + more_output), *inside, audio, image, video)
    output = {
        "output_tokens": visible,
        "reasoning_tokens": hidden,
        "output_audio_tokens": audio.tokens,
        "output_image_tokens": image.tokens,
        "output_video_tokens": video.tokens,
    }
    if not usage.states(details_out) and (made := _only_output(body)):
        output[made] = output.pop("output_tokens")
    kinds = usage.inner(details).inner("cached_tokens_details")
    kinds.ignore("text_tokens")
    of_tool = usage.inner("cached_tokens_details")
    of_tool.ignore("cached_text_tokens")
    states_kinds = bool(kinds.raw or of_tool.raw)
    return output | split_input(
        usage,
        Part(prompt.field, prompt.tokens + more_input),
        cached=cached,
        written=written,
        audio=usage.part(details, "audio_tokens"),
        image=usage.part(details, "image_tokens"),
        video=usage.part(details, "video_tokens"),
        cached_audio=kinds.count("audio_tokens") if states_kinds else None,
        cached_image=kinds.count("image_tokens") + of_tool.count("cached_image_tokens"),
        is_cache_beside=cache_beside,
    )


def _details(usage: Counts, side: str) -> str:
    """Return the field with a side's details: the realtime and transcription APIs call it ``input_token_details``."""
    singular = f"{side}_token_details"
    return singular if usage.states(singular) else f"{side}_tokens_details"


def _written(usage: Counts, details: str) -> dict[str, int]:
    """Return the tokens written to cache, by lifetime where it is stated: LiteLLM keeps Anthropic's lifetimes."""
    lifetimes = (("cache_creation",), (details, "cache_creation_token_details"), (details, "cache_creation"))
    five, hour = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
    written_5m = usage.agreed(*((*path, five) for path in lifetimes), ("claude_cache_creation_5_m_tokens",))
    written_1h = usage.agreed(*((*path, hour) for path in lifetimes), ("claude_cache_creation_1_h_tokens",))
    names = ("cache_write_tokens", "cache_creation_tokens", "cached_creation_tokens", "cache_creation_input_tokens")
    inner: list[Path] = [(details, name) for name in names]
    written = usage.agreed(*inner, ("cache_creation_input_tokens",), ("cache_write_tokens",))
    of_openai, of_litellm = (details, "cache_write_tokens_details"), (details, "cache_creation_token_details")
    written_30m = usage.agreed((*of_openai, "ttl_30m_tokens"), (*of_litellm, "ephemeral_30m_input_tokens"))
    written_12h = usage.agreed((*of_openai, "ttl_12h_tokens"), (*of_litellm, "ephemeral_12h_input_tokens"))
    if written_12h.tokens:
        usage.reading.note(f"{written_12h.field} {written_12h.tokens}: no rate of their own, priced as other writes")
    by_lifetime = sum(part.tokens for part in (written_5m, written_1h, written_30m, written_12h))
    if by_lifetime and not written.tokens:
        stated = [name for name in names if usage.inner(details).states(name)]
        stated += [name for name in ("cache_creation_input_tokens", "cache_write_tokens") if usage.states(name)]
        if stated:
            usage.reading.note(f"{stated[0]} 0 is not the sum of its lifetimes, {by_lifetime}")
        written = Part(written.field, by_lifetime)
    elif written_30m.tokens or written_12h.tokens:
        usage.check_total(Part(f"{written_30m.field} + {written_12h.field}", by_lifetime), written.tokens)
    return split_cache_writes(usage, written, written_5m, written_1h)


def _unstated_prompt(usage: Counts, prompt: Part, completion: Part, total: Part, body: Body) -> Part:
    """Return the prompt as the total gives it: all of an embedding's or a reranking's; else a guess, noted."""
    is_list = body.get("object") == "list" or isinstance(body.get("results", body.get("data")), list)
    if completion.tokens or not (is_list or usage.provider in ("voyageai", "voyage")):
        usage.reading.note(f"{prompt.field} not stated")
    return Part(total.field, max(total.tokens - completion.tokens, 0))


def _placement(
    usage: Counts, prompt: Part, completion: Part, cache: int, reasoning: int, total: Part
) -> tuple[bool, bool, int]:
    """Return whether (cache, reasoning) are beside the prompt and the completion, and the tokens in the total alone."""
    gap = total.tokens - prompt.tokens - completion.tokens
    if usage.provider == "perplexity" and reasoning > completion.tokens:
        return False, True, 0  # deep research bills its reasoning beside the completion, and leaves it out of the total
    if not total.tokens or gap == 0:
        return False, False, 0
    if gap == reasoning:
        if reasoning == cache:
            usage.reading.note(f"total_tokens {total.tokens} counts the cache or the reasoning, {gap} both")
        return False, True, 0
    if gap == cache:
        return True, False, 0
    if gap == cache + reasoning:
        return True, True, 0
    if reasoning > completion.tokens and total.tokens == prompt.tokens + reasoning:
        return False, False, 0  # all of the output was reasoning: the total agrees with its count
    usage.check_total(total, prompt.tokens + completion.tokens)
    return False, False, max(gap, 0)


def _note_other_names(usage: Counts, prompt_side: str, made: Mapping[str, int]) -> None:
    """Read the counts that gateways repeat under the other API's names, and note where they differ."""
    other_in, other_out = ("input", "output") if prompt_side == "prompt" else ("prompt", "completion")
    whole_in = sum(n for field, n in made.items() if field.startswith(("input", "cache")))
    whole_out = sum(n for field, n in made.items() if field.startswith(("output", "reasoning")))
    for field, readings in (
        (f"{other_in}_tokens", (whole_in, made["input_tokens"], usage.count(f"{prompt_side}_tokens"))),
        (f"{other_out}_tokens", (whole_out, made.get("output_tokens", 0))),
    ):
        usage.check_total(usage.part(field), *readings)
    usage.inner(f"{other_in}_tokens_details").ignore(*_INPUT_IGNORED)
    usage.inner(f"{other_out}_tokens_details").ignore(*_OUTPUT_IGNORED)


def _only_output(body: Body) -> str:
    """Return the bucket of all output where the API makes one kind and states no details: images, speech."""
    if str(body.get("type")).startswith("speech.audio"):
        return "output_audio_tokens"
    is_image = "b64_json" in body or str(body.get("type")).startswith(("image_generation.", "image_edit."))
    is_image |= any("b64_json" in item or "url" in item for item in objects(body.get("data")))
    return "output_image_tokens" if is_image else ""


def _items(body: Body, kind: str) -> list[Body]:
    return [item for item in objects(body.get("output")) if item.get("type") == kind]


def web_searches(body: Body) -> int:
    """Count the web searches among a response's output items; opening a page that was found is not a search."""
    return sum(nested(item, "action").get("type") in (None, "search") for item in _items(body, "web_search_call"))


def _tool_counts(usage: Counts, body: Body) -> int:
    """Return the searches that the usage states: LiteLLM's for Claude, xAI's (web and X alike), Perplexity's."""
    server = usage.inner("server_tool_use")
    prompt_details = usage.inner("prompt_tokens_details")
    prompt_details.ignore("tool_use_tokens")
    searches = usage.agreed(
        ("server_tool_use", "web_search_requests"), ("prompt_tokens_details", "web_search_requests")
    ).tokens
    server.ignore("tool_search_requests", "web_fetch_requests")
    tools = usage.inner("server_side_tool_usage_details")
    searches += tools.count("web_search_calls") + tools.count("x_search_calls")
    tools.ignore("mcp_calls")
    if usage.provider == "perplexity":
        if "deep-research" in str(body.get("model")):
            searches += usage.count("num_search_queries")
            usage.unit("citation_tokens", usage.count("citation_tokens"))
        usage.ignore("num_search_queries", "citation_tokens")  # billed by deep research alone
    if re.search(r"-search-(preview|api)\b", str(body.get("model"))):
        searches += 1  # these models search the web before each answer
    billed = Counts(usage.reading, body, ("response",)).inner("tool_usage").inner("web_search")
    if billed.states("num_requests"):  # leaves out what is not billed
        made = web_searches(body)
        if made and not billed.count("num_requests"):
            usage.reading.note(f"web searches {made} made, 0 billed")
        searches += billed.count("num_requests") - made
    return searches


_TOOLS_OF_GROQ: Final = {
    **dict.fromkeys(("browser.search", "browser_search", "search", "web_search"), "web_searches"),
    **dict.fromkeys(("browser.open", "visit", "visit_website"), "browser_opens"),
    **dict.fromkeys(("python", "code_interpreter"), "code_executions"),
}


def _executed_tools(body: Body) -> Iterator[str]:
    """Yield the unit of each tool that Groq executed for an answer."""
    for choice in objects(body.get("choices")):
        for tool in objects(nested(choice, "message").get("executed_tools")):
            if name := str(tool.get("name") or tool.get("type") or ""):
                yield _TOOLS_OF_GROQ.get(name, name)


def _count_units(usage: Counts, body: Body) -> None:
    """Count the billable units beside the tokens: tools' calls, audio, and what multimodal embeddings are billed by."""
    for unit in _executed_tools(body) if not usage.inner("server_tool_use").raw else ():
        usage.unit(unit, 1)
    usage.unit("file_searches", len(_items(body, "file_search_call")))
    containers = {str(item.get("container_id") or "") for item in _items(body, "code_interpreter_call")}
    usage.unit("code_execution_sessions", len(containers))
    if not _image_usage(body) and (images := len(_items(body, "image_generation_call"))):
        usage.reading.note(f"image_generation_call {images}: tool_usage does not state its tokens")
    tools = usage.inner("server_side_tool_usage_details")
    usage.unit("code_executions", tools.count("code_interpreter_calls"))
    usage.unit("file_searches", tools.count("file_search_calls") + tools.count("document_search_calls"))
    usage.unit("live_search_sources", usage.count("num_sources_used"))
    usage.unit("browser_opens", usage.inner("server_tool_use").count("browser_open_requests"))
    connectors = usage.inner("connectors")
    for name in connectors.raw:
        usage.unit(_CONNECTOR_UNITS.get(name, name), connectors.count(name))
    usage.unit("audio_seconds", usage.quantity("prompt_audio_seconds"))
    details = usage.inner("prompt_tokens_details")
    usage.unit("map_searches", details.count("google_maps_grounding_requests"))
    usage.unit("characters", details.count("character_count"))
    usage.unit("input_images", details.count("image_count"))
    usage.unit("input_video_seconds", details.quantity("video_length_seconds"))
    usage.unit("input_audio_seconds", details.quantity("audio_length_seconds"))
    usage.unit("requests", details.count("query_count"))
    usage.unit("input_pixels", usage.count("image_pixels") + usage.count("video_pixels"))


def _image_usage(body: Body) -> Body:
    made = nested(body, "tool_usage", "image_gen")
    return made if any(number for _, number in leaves(made, ())) else {}


def beside(usage: Counts, body: Body) -> list[BesideCall]:
    """Return the calls of other models that a response holds."""
    return [*_image_tool(usage, body), *_svg_author(usage, body), *_compound(usage, body)]


def _image_tool(usage: Counts, body: Body) -> list[BesideCall]:
    """Return the call of the image model that a response's tool made: it is billed beside the response."""
    tools = Counts(usage.reading, body, ("response",)).inner("tool_usage")
    made = tools.inner("image_gen")
    usage.reading.seen.add(made.path)
    tools.note_unread()
    usage.reading.seen.discard(made.path)
    if not _image_usage(body):
        return []
    apart = made.apart(input_tokens=0)
    tokens = _tokens(apart, "input", "output", {"b64_json": ""})
    apart.note_unread()
    models = [
        str(tool["model"])
        for tool in objects(body.get("tools"))
        if tool.get("type") == "image_generation" and tool.get("model")
    ]
    if not models:
        apart.reading.note(f"image tool's model not stated, {IMAGE_TOOL_MODEL} assumed")
    return [BesideCall(models[0] if models else IMAGE_TOOL_MODEL, tokens, apart.reading)]


def _svg_author(usage: Counts, body: Body) -> list[BesideCall]:
    """Return the call of the model that wrote an SVG for the images API."""
    stated = body.get("svg_usage")
    if not isinstance(stated, Mapping) or stated is usage.raw:
        return []
    apart = Counts(Reading(usage.provider), stated, ("svg_usage",))
    tokens = _tokens(apart, "input", "output", {})
    apart.note_unread()
    return [BesideCall(str(stated.get("model") or "") or None, tokens, apart.reading)]


def _compound(usage: Counts, body: Body) -> list[BesideCall]:
    """Return the calls of the models that one of Groq's compound systems asked."""
    breakdown = nested(body, "usage_breakdown") or nested(body, "x_groq", "usage_breakdown")
    calls = []
    for each in Counts(Reading(usage.provider), breakdown, ("usage_breakdown",)).each("models"):
        apart = each.inner("usage").apart()
        apart.ignore(*_IGNORED)
        tokens = _tokens(apart, "prompt", "completion", {})
        apart.note_unread()
        calls.append(BesideCall(str(each.raw.get("model") or "") or None, tokens, apart.reading))
    return calls


def _tier(usage: Counts, body: Body) -> object:
    if body.get("object") == "batch":
        return "batch"
    if usage.raw.get("speed") == "fast":
        return FAST_MODE  # Claude's, behind a gateway
    of_google = usage.inner("extra_properties").inner("google").raw.get("traffic_type")  # Vertex AI's other models
    return of_google or body.get("service_tier") or usage.raw.get("service_tier")


OPENAI: Final = Shape(
    name="openai",
    is_of=lambda usage, provider: states_any(
        usage, "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"
    ),
    buckets=buckets,
    tier=_tier,
    beside=beside,
)
