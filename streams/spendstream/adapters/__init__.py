"""Providers' usage objects → the event's disjoint token buckets, and events that are ready to publish.

Pure: no Kafka, no network, and nothing but pydantic beside the standard library, so that a service can import it.
Providers disagree on what includes what; this package, and only this package, translates.
"""

from spendstream.adapters.event import PROVIDERS, as_record, mint_event_id, usage_event, usage_events, usage_fields
from spendstream.adapters.shape import AdapterError, InconsistentUsage, MissingUsage, SeveralCalls, UnknownProvider
from spendstream.adapters.stream import UsageStream

__all__ = [
    "PROVIDERS",
    "AdapterError",
    "InconsistentUsage",
    "MissingUsage",
    "SeveralCalls",
    "UnknownProvider",
    "UsageStream",
    "as_record",
    "mint_event_id",
    "usage_event",
    "usage_events",
    "usage_fields",
]
