"""Why a reconciliation can't be made.

SpendstreamError
└── NotRepairable    rollups can't be mended safely at present; the message says what to do
"""

from spendstream.errors import SpendstreamError


class NotRepairable(SpendstreamError):
    """Nothing was written."""
