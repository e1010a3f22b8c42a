"""Errors of the meter's state."""

from spendstream.errors import SpendstreamError


class InterruptedFlush(SpendstreamError):
    """A crash left half a flush behind, and the settings that could finish it were changed."""
