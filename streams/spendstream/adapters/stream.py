"""A streamed call: takes its chunks as they come, and returns its usage events at the end, or where it broke off."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

from spendstream.adapters.event import check_fields, make_events, mint_event_id, read
from spendstream.adapters.shape import Body, MissingUsage

BROKE_OFF: Final = "stream broke off"
NO_USAGE: Final = 'stream stated no usage; OpenAI needs stream_options={"include_usage": true}'

_LAST_OF_RESPONSE: Final = frozenset(
    f"response.{end}" for end in ("completed", "incomplete", "failed", "cancelled", "done")
)


class UsageStream:
    """The usage of a streamed call, whatever the protocol: OpenAI's chat and responses, Anthropic's, Gemini's,
    Bedrock's, Cohere's, and Groq's with its usage in ``x_groq``.

        stream = UsageStream("anthropic", service="support-bot", team="support")
        for chunk in response:
            stream.add(chunk.model_dump())
        for event in stream.events():
            key, value = as_record(event)

    Counts are cumulative: the last, greatest ones count, and are never summed. Text is not kept. A stream that broke
    off, or stated no usage, still gives an event: ``usage_quality`` is partial, and ``usage.notes`` says why. Its
    tokens may be 0. A connection that carries several responses (OpenAI's realtime API) gives an event for each.
    """

    def __init__(
        self,
        provider: str,
        *,
        service: str,
        model: str | None = None,
        occurred_at: datetime | None = None,
        keep_usage: bool = False,
        **fields: Any,
    ) -> None:
        """Arguments are those of ``usage_event``. Raises: TypeError, for a field that events don't have."""
        check_fields(fields)
        self._provider, self._service, self._model = provider, service, model
        self._occurred_at, self._keep_usage, self._fields = occurred_at, keep_usage, fields
        self._event_id = UUID(str(fields.get("event_id") or mint_event_id(occurred_at or datetime.now(UTC))))
        self._finished: list[dict[str, Any]] = []
        self._open: dict[str, Any] = {}
        self._has_ended = False

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take a chunk, as a mapping (``chunk.model_dump()`` for an SDK's object). Chunks without usage are welcome."""
        if not isinstance(chunk, Mapping):
            what = f"expected a mapping, got {type(chunk).__name__}. Pass chunk.model_dump()."
            raise MissingUsage(f"{self._provider}: {what}")
        kind = str(chunk.get("type") or "")
        if kind.startswith("message_"):
            self._add_anthropic(kind, chunk)
        elif kind.startswith("response."):
            self._add_response(kind, chunk)
        elif kind == "message-end":  # Cohere
            self._merge(_mapping(chunk, "delta"), "usage")
            self._has_ended = True
        elif {"messageStart", "messageStop", "metadata"} & chunk.keys() and "choices" not in chunk:
            if "messageStart" in chunk and self._has_ended:
                self._finish()
            self._merge(_mapping(chunk, "metadata"), "usage", "metrics", "serviceTier")
            self._has_ended = self._has_ended or "usage" in _mapping(chunk, "metadata")
        elif {"usageMetadata", "usage_metadata", "candidates"} & chunk.keys():
            self._add_gemini(chunk)
        else:
            self._add_chat(chunk)

    def events(self) -> list[dict[str, Any]]:
        """Return the events of what was taken so far. Repeated calls return the same ids, so that a retry is free.

        Raises: UnknownProvider; InconsistentUsage; pydantic.ValidationError, as ``usage_events``.
        """
        made = []
        unfinished = [] if self._finished and not self._open else [self._open]
        for position, response in enumerate([*self._finished, *unfinished]):
            has_ended = response is not self._open or self._has_ended
            notes = [] if has_ended else [BROKE_OFF]
            try:
                found = read(self._provider, response, notes)
            except MissingUsage:
                nothing = {**response, "usage": {"input_tokens": 0, "output_tokens": 0}}
                nothing.setdefault("model", response.get("modelVersion"))
                found = read(self._provider, nothing, [*notes, NO_USAGE])
            event_id = self._event_id if position == 0 else uuid5(self._event_id, f"response {position}")
            fields = {**self._fields, "event_id": event_id}
            common = self._service, self._model, self._occurred_at, self._keep_usage
            made += make_events(self._provider, found, *common, fields)
        return made

    def _merge(self, source: Body, *names: str) -> None:
        for name in names:
            if source.get(name) is not None:
                self._open[name] = _cumulated(self._open.get(name), source[name])

    def _finish(self) -> None:
        self._finished.append(self._open)
        self._open, self._has_ended = {}, False

    def _add_anthropic(self, kind: str, chunk: Body) -> None:
        if kind == "message_start":
            if self._has_ended:
                self._finish()
            self._merge(_mapping(chunk, "message"), "id", "model", "type", "usage")
        self._merge(chunk, "usage")
        self._has_ended = self._has_ended or kind == "message_stop" or bool(_mapping(chunk, "delta").get("stop_reason"))

    def _add_response(self, kind: str, chunk: Body) -> None:
        response = _mapping(chunk, "response")
        if kind in _LAST_OF_RESPONSE and response:
            self._open = dict(response)
            self._finish()
        elif kind == "response.output_item.done" and isinstance(chunk.get("item"), Mapping):
            self._open.setdefault("output", []).append(chunk["item"])
        else:
            self._merge(response, "id", "model", "service_tier", "usage", "tools")

    def _add_gemini(self, chunk: Body) -> None:
        self._merge(chunk, "modelVersion", "model_version", "responseId", "response_id")
        self._merge(chunk, "usageMetadata", "usage_metadata")
        for candidate in _items(chunk, "candidates"):
            if candidate.get("finishReason") or candidate.get("finish_reason"):
                self._has_ended = True
            grounding = {n: candidate[n] for n in ("groundingMetadata", "grounding_metadata") if candidate.get(n)}
            if grounding:
                self._open.setdefault("candidates", []).append(grounding)

    def _add_chat(self, chunk: Body) -> None:
        self._merge(chunk, "id", "model", "service_tier", "usage")
        self._merge(_mapping(chunk, "x_groq"), "usage")
        if any(choice.get("finish_reason") for choice in _items(chunk, "choices")):
            self._has_ended = True


def _mapping(chunk: Body, field: str) -> Body:
    value = chunk.get(field)
    return value if isinstance(value, Mapping) else {}


def _items(chunk: Body, field: str) -> Iterator[Body]:
    items = chunk.get(field)
    return (item for item in (items if isinstance(items, list | tuple) else ()) if isinstance(item, Mapping))


def _cumulated(before: Any, now: Any) -> Any:
    """Return a cumulative value after another: of counts the greater, of objects field by field, else the later."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return {name: _cumulated(before.get(name), now.get(name)) for name in {**before, **now}}
    is_count = all(isinstance(value, int) and not isinstance(value, bool) for value in (before, now))
    if is_count:
        return max(before, now)
    return before if now is None else now
