"""The root of spendstream's errors. Each domain has its own tree at the top of the file that raises it.

Bad input is not an error: it becomes a dead letter with a reason.
"""


class SpendstreamError(Exception):
    """Something that the operator can fix; the message says how."""
