"""What an event says about its own reading."""

from collections.abc import Mapping
from typing import Any

from spendstream.adapters import usage_event
from spendstream.adapters.event import NOTES


def notes(provider: str, response: Mapping[str, Any]) -> str:
    """Return why an event is partial; nothing if it is not."""
    event = usage_event(provider, response, service="s", model="m")
    said = str((event.get("tags") or {}).get(NOTES, ""))
    assert bool(said) == (event.get("usage_quality") == "partial")
    return said
