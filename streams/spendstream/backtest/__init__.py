"""Alerts that watches would have sent: the live detector's code over a CSV or over history, minute by minute.

series.py    a series as steps of totals; the rows of a CSV as one
history.py   the rollups in ClickHouse as one
run.py       watches over a series, on a simulated clock
picture.py   series, band and alerts as a PNG
"""

from spendstream.backtest.run import Backtest, Summary
from spendstream.backtest.series import BacktestError, Increment, Series, Step

__all__ = ["Backtest", "BacktestError", "Increment", "Series", "Step", "Summary"]
