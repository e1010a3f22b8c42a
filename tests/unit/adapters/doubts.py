"""What is read of a response, and what an event says about that reading."""

from typing import Any

from spendstream.adapters import usage_event, usage_fields


def notes(provider: str, response: Any) -> str:
    """Return why an event is partial; nothing if it is not."""
    event = usage_event(provider, response, service="s", model="m")
    said = "; ".join(event.get("usage_notes", ()))
    assert bool(said) == (event.get("usage_quality") == "partial")
    return said


def fields_of(provider: str, response: Any) -> dict[str, Any]:
    """Return an event's fields without the notes."""
    return {name: value for name, value in usage_fields(provider, response).items() if name != "usage_notes"}


def units(provider: str, response: Any) -> dict[str, Any]:
    """Return the billable units of a response, which are all that is read of it, beside tokens, in no doubt."""
    assert notes(provider, response) == ""
    return dict(usage_event(provider, response, service="s", model="m").get("units", {}))
