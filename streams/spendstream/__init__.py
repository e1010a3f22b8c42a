"""A real-time meter for AI token spend.

What a service uses to publish its usage is exported here, and stays as it is within a major version:

    from spendstream import USAGE_TOPIC, as_record, usage_event

    event = usage_event("openai", response.model_dump(), service="support-bot", team="support")
    key, value = as_record(event)
    await producer.send(USAGE_TOPIC, value, key=key)

Everything else in this package may change in any release: use it through the command line, the topics and the tables.
"""

from typing import Any

from spendstream.adapters import AdapterError, InconsistentUsage, MissingUsage, UnknownProvider
from spendstream.adapters.event import as_record, mint_event_id, usage_event
from spendstream.schemas.topics import USAGE as USAGE_TOPIC
from spendstream.schemas.usage import UsageEvent

__all__ = [
    "USAGE_TOPIC",
    "AdapterError",
    "InconsistentUsage",
    "MissingUsage",
    "UnknownProvider",
    "UsageEvent",
    "__version__",
    "as_record",
    "mint_event_id",
    "usage_event",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # only where it is asked for: importlib.metadata would double the time of this import
        from importlib.metadata import version

        return version("spendstream")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
