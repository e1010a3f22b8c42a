"""The errors of spendstream.

SpendstreamError
├── spendstream.core.pricing: RateCardError     a rate card file can't be used; says file, line, column
├── spendstream.state.errors: InterruptedFlush  half a flush is left and the settings that could finish it changed
└── spendstream.sinks: rejected and unavailable writes

Bad input is not an error of ours: it becomes a dead letter with a reason.
"""


class SpendstreamError(Exception):
    """Something the operator can mend; the message says how."""
