"""What keeps a backtest from running."""

from spendstream.errors import SpendstreamError


class BacktestError(SpendstreamError):
    """The series can't be read, or the watches have nothing to judge in it."""
