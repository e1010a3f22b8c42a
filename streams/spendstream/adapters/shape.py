"""What an adapter is: the shape of one API's usage, where a response holds it, and how it becomes buckets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from spendstream.adapters.counts import Counts

TIERS: Final[Mapping[str, str]] = {
    "standard": "standard",
    "default": "standard",
    "auto": "standard",
    "on_demand": "standard",
    "scale": "standard",  # prepaid capacity: no price by the token but the list's
    "reserved": "standard",
    "provisioned_throughput": "standard",
    "batch": "batch",
    "flex": "flex",
    "on_demand_flex": "flex",
    "priority": "priority",
    "on_demand_priority": "priority",
    "unspecified": "standard",
    "traffic_type_unspecified": "standard",
}
"""A provider's word for how it processed the call → ``service_tier``."""

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """One API's way of stating usage.

    ``marks``: a usage object has at least one of these fields. ``held_at``: paths to it inside a response.
    ``buckets``: (usage, the object that holds it) → token fields that sum to the provider's total.
    ``tier``: the provider's word for the service tier, None where it says nothing.
    ``model_at`` and ``id_at``: the names of the served model and of the response, in the object that holds the usage.
    """

    name: str
    marks: frozenset[str]
    held_at: tuple[tuple[str, ...], ...]
    buckets: Callable[[Counts, Body], dict[str, int]]
    tier: Callable[[Body, Body], object]
    model_at: tuple[str, ...] = ("model",)
    id_at: tuple[str, ...] = ("id",)

    def find(self, response: Body) -> tuple[Body, Body] | None:
        """Return (usage, the object that holds it) of a response or a bare usage object; None if not of this shape."""
        if self.marks & response.keys():
            return response, {}
        for path in self.held_at:
            holder: Any = response
            for step in path[:-1]:
                holder = holder.get(step) if isinstance(holder, Mapping) else None
            usage = holder.get(path[-1]) if isinstance(holder, Mapping) else None
            if isinstance(usage, Mapping) and self.marks & usage.keys():
                return usage, holder
        return None


def tier_fields(said: object) -> dict[str, str]:
    """Return ``service_tier`` for a provider's word.

    A word that is not known here must not pass for the standard price in silence: ``usage_quality`` becomes partial.
    """
    if said is None:
        return {}
    tier = TIERS.get(str(said).lower())
    return {"usage_quality": "partial"} if tier is None else {"service_tier": tier}
