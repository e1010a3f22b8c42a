"""Errors of the meter's state."""

from streams.errors import SpendstreamError


class InterruptedFlush(SpendstreamError):
    """A crash left half a flush behind, and the settings that could finish it were changed."""
