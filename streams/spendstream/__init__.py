"""A real-time meter for AI token spend.

What a service uses to publish its usage is exported here, and stays as it is within a major version:

    from spendstream import USAGE_TOPIC, as_record, usage_event

    event = usage_event("openai", response.model_dump(), service="support-bot", team="support")
    key, value = as_record(event)
    await producer.send(USAGE_TOPIC, value, key=key)

Everything else in this package may change in any release: use it through the command line, the topics and the tables.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from spendstream.adapters import AdapterError, InconsistentUsage, MissingUsage, SeveralCalls, UnknownProvider
    from spendstream.adapters.event import as_record, mint_event_id, usage_event, usage_events
    from spendstream.adapters.stream import UsageStream
    from spendstream.schemas.topics import USAGE as USAGE_TOPIC
    from spendstream.schemas.usage import UsageEvent

__all__ = [
    "USAGE_TOPIC",
    "AdapterError",
    "InconsistentUsage",
    "MissingUsage",
    "SeveralCalls",
    "UnknownProvider",
    "UsageEvent",
    "UsageStream",
    "__version__",
    "as_record",
    "mint_event_id",
    "usage_event",
    "usage_events",
]

_EXPORTS: Final = {
    "USAGE_TOPIC": ("spendstream.schemas.topics", "USAGE"),
    "AdapterError": ("spendstream.adapters", "AdapterError"),
    "InconsistentUsage": ("spendstream.adapters", "InconsistentUsage"),
    "MissingUsage": ("spendstream.adapters", "MissingUsage"),
    "SeveralCalls": ("spendstream.adapters", "SeveralCalls"),
    "UnknownProvider": ("spendstream.adapters", "UnknownProvider"),
    "UsageEvent": ("spendstream.schemas.usage", "UsageEvent"),
    "UsageStream": ("spendstream.adapters.stream", "UsageStream"),
    "as_record": ("spendstream.adapters.event", "as_record"),
    "mint_event_id": ("spendstream.adapters.event", "mint_event_id"),
    "usage_event": ("spendstream.adapters.event", "usage_event"),
    "usage_events": ("spendstream.adapters.event", "usage_events"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `spendstream --help` needs no pydantic."""
    if name in _EXPORTS:
        module, attribute = _EXPORTS[name]
        found = getattr(import_module(module), attribute)
    elif name == "__version__":
        from importlib.metadata import version

        found = version("spendstream")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found
