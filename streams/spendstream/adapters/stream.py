"""A streamed call: takes its chunks as they come, and returns its usage events at the end, or where it broke off."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

from spendstream.adapters.event import (
    UNSTATED_MODEL,
    as_mapping,
    check_fields,
    make_events,
    mint_event_id,
    read,
)
from spendstream.adapters.shape import Body, MissingUsage, nested, objects

BROKE_OFF: Final = "stream broke off"
NO_USAGE: Final = 'stream stated no usage; OpenAI needs stream_options={"include_usage": true}'

_LAST_OF_RESPONSE: Final = frozenset(
    f"response.{end}" for end in ("completed", "incomplete", "failed", "cancelled", "done")
)


_OF_TRANSCRIPTION: Final = "_of_transcription"
"""Marks a finished response of the model that a realtime session transcribes with."""

_METRICS: Final = "amazon-bedrock-invocationMetrics"
_NATIVE: Final = ("prompt_token_count", "generation_token_count", "prompt_eval_count", "eval_count")
"""Counts that stand in a chunk itself: those of Llama on Bedrock, and of Ollama."""


class UsageStream:
    """The usage of a streamed call, whatever the protocol: OpenAI's chat, responses, images, speech and realtime;
    Anthropic's, Gemini's, Bedrock's, Cohere's, and Groq's with its usage in ``x_groq``.

        stream = UsageStream("anthropic", service="support-bot", team="support")
        for chunk in response:
            stream.add(chunk)
        for event in stream.events():
            key, value = as_record(event)

    Counts are cumulative: the last, greatest ones count, and are never summed. Text is not kept. A stream that broke
    off, or stated no usage, still gives an event: ``usage_quality`` is partial, and ``usage_notes`` say why. Its
    tokens may be 0. A connection that carries several responses (OpenAI's realtime API) gives an event for each, and
    one for each transcription of what it heard.
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
        self._transcription_model: str | None = None
        self._session_model: str | None = None
        self._session: dict[str, Any] = {}

    def add(self, chunk: object) -> None:
        """Take a chunk: the SDK's object, or a mapping. Chunks without usage are welcome."""
        self._add(as_mapping(self._provider, chunk))

    def _add(self, chunk: Body) -> None:
        kind = str(chunk.get("type") or "")
        if kind.startswith("message_"):
            self._add_anthropic(kind, chunk)
        elif kind == "response.event":  # OpenAI's live API: an event of a response that the session delegated
            self._add(nested(chunk, "event"))
        elif kind.startswith("response."):
            self._add_response(kind, chunk)
        elif kind.startswith("session."):
            self._add_session(kind, chunk)
        elif kind == "conversation.item.input_audio_transcription.completed":
            if chunk.get("usage"):
                of_model = {"model": self._transcription_model, _OF_TRANSCRIPTION: True}
                self._finished.append({"usage": chunk["usage"], **of_model})
        elif kind == "AIMessageChunk":  # LangChain's, whose counts are summed
            self._open["usage_metadata"] = _summed(self._open.get("usage_metadata"), chunk.get("usage_metadata"))
            self._merge(chunk, "id", "response_metadata")
            about = nested(chunk, "response_metadata")
            is_last = chunk.get("chunk_position") == "last" or about.get("finish_reason") or about.get("stop_reason")
            self._has_ended = self._has_ended or bool(is_last)
        elif kind == "finish-step":  # of the AI SDK
            self._open = dict(chunk)
            self._finish()
        elif kind == "message-end":  # Cohere
            self._merge(nested(chunk, "delta"), "usage")
            self._has_ended = True
        elif {"messageStart", "messageStop", "metadata"} & chunk.keys() and "choices" not in chunk:
            if "messageStart" in chunk and self._has_ended:
                self._finish()
            self._merge(nested(chunk, "metadata"), "usage", "metrics", "serviceTier", "trace", "performanceConfig")
            self._has_ended = self._has_ended or "usage" in nested(chunk, "metadata")
        elif {"usageMetadata", "usage_metadata", "candidates"} & chunk.keys():
            self._add_gemini(chunk)
        elif isinstance(part := nested(chunk, "chunk").get("bytes"), str | bytes):  # Bedrock's InvokeModel
            self._add(as_mapping(self._provider, {"body": part})["body"])
        else:
            self._add_chat(kind, chunk)

    def events(self) -> list[dict[str, Any]]:
        """Return the events of what was taken so far. Repeated calls return the same ids, so that a retry is free.

        Raises: UnknownProvider; InconsistentUsage; pydantic.ValidationError, as ``usage_events``.
        """
        made = []
        responses = [(self._fields_of(n, f"response {n}"), each, True) for n, each in enumerate(self._finished)]
        if self._open or not (self._finished or self._session):
            n = len(self._finished)
            responses.append((self._fields_of(n, f"response {n}"), self._open, self._has_ended))
        if self._session:
            has_ended = self._session.get("type") == "session.closed"
            responses.append((self._fields_of(1, "session"), self._session, has_ended))
        for fields, response, has_ended in responses:
            notes = [] if has_ended else [BROKE_OFF]
            try:
                found = read(self._provider, response, notes)
            except MissingUsage:
                nothing = {**response, "usage": {"input_tokens": 0, "output_tokens": 0}}
                nothing.setdefault("model", response.get("modelVersion"))
                found = read(self._provider, nothing, [*notes, NO_USAGE])
            model = self._model
            if _OF_TRANSCRIPTION in response:
                model = None if response.get("model") else UNSTATED_MODEL
            common = self._service, model, self._occurred_at, self._keep_usage
            made += make_events(self._provider, found, *common, fields)
        return made

    def _fields_of(self, position: int, name: str) -> dict[str, Any]:
        """Return the caller's fields with the id of a response's event: the stream's own, or one made of it."""
        return {**self._fields, "event_id": uuid5(self._event_id, name) if position else self._event_id}

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
            self._merge(nested(chunk, "message"), "id", "model", "type", "usage")
        self._merge(chunk, "usage")
        self._has_ended = self._has_ended or kind == "message_stop" or bool(nested(chunk, "delta").get("stop_reason"))

    def _add_response(self, kind: str, chunk: Body) -> None:
        response = nested(chunk, "response")
        if kind in _LAST_OF_RESPONSE and response:
            listed = self._open.get("output")
            self._open = {**self._open, **response}
            self._open.setdefault("model", self._session_model)
            if listed and not response.get("output"):  # a live session's responses leave it out
                self._open["output"] = listed
            self._finish()
        elif kind == "response.output_item.done" and isinstance(chunk.get("item"), Mapping):
            self._open.setdefault("output", []).append(chunk["item"])
        else:
            self._merge(response, "id", "model", "service_tier", "usage", "tools")

    def _add_session(self, kind: str, chunk: Body) -> None:
        """Take an event of a realtime or live session: its models, and, of a live one, the seconds it lasted."""
        session = nested(chunk, "session")
        heard = nested(session, "audio", "input", "transcription")
        heard = heard or nested(session, "input_audio_transcription")
        self._transcription_model = str(heard.get("model") or "") or self._transcription_model
        self._session_model = str(session.get("model") or "") or self._session_model
        if chunk.get("usage"):
            self._session = {"type": kind, "usage": chunk["usage"], "model": self._session_model}

    def _add_gemini(self, chunk: Body) -> None:
        self._merge(chunk, "modelVersion", "model_version", "responseId", "response_id")
        self._merge(chunk, "usageMetadata", "usage_metadata")
        for candidate in objects(chunk.get("candidates")):
            if candidate.get("finishReason") or candidate.get("finish_reason"):
                self._has_ended = True
            grounding = {n: candidate[n] for n in ("groundingMetadata", "grounding_metadata") if candidate.get(n)}
            if grounding:
                self._open.setdefault("candidates", []).append(grounding)

    def _add_chat(self, kind: str, chunk: Body) -> None:
        self._merge(chunk, "id", "model", "service_tier", "usage", "usage_breakdown", *_NATIVE, _METRICS)
        self._merge(nested(chunk, "x_groq"), "usage", "usage_breakdown")
        self._merge(nested(chunk, "response"), "meta")  # Cohere's first version
        if _METRICS in self._open:  # they state what the chunks' own counts do
            for name in _NATIVE:
                self._open.pop(name, None)
            self._has_ended = True
        if chunk.get("event_type") == "stream-end":
            self._has_ended = True
        for choice in objects(chunk.get("choices")):
            for tool in objects(nested(choice, "delta").get("executed_tools")):  # Groq's, by index
                answer = self._open.setdefault("choices", [{"message": {"executed_tools": []}}])[0]["message"]
                if tool not in answer["executed_tools"]:
                    answer["executed_tools"].append(tool)
        if kind.endswith((".completed", ".done")):  # of an image, of speech, of a transcript
            self._open["type"] = kind
            self._has_ended = True
        if any(choice.get("finish_reason") for choice in objects(chunk.get("choices"))) or chunk.get("done") is True:
            self._has_ended = True


def _cumulated(before: Any, now: Any) -> Any:
    """Return a cumulative value after another: of counts the greater, of objects field by field, else the later."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return {name: _cumulated(before.get(name), now.get(name)) for name in {**before, **now}}
    is_count = all(isinstance(value, int) and not isinstance(value, bool) for value in (before, now))
    if is_count:
        return max(before, now)
    return before if now is None else now


def _summed(before: Any, more: Any) -> Any:
    """Return the sum of two objects of counts, field by field."""
    if isinstance(before, Mapping) and isinstance(more, Mapping):
        return {name: _summed(before.get(name), more.get(name)) for name in {**before, **more}}
    if before is None or more is None:
        return more if before is None else before
    is_count = all(isinstance(value, int) and not isinstance(value, bool) for value in (before, more))
    return before + more if is_count else more
