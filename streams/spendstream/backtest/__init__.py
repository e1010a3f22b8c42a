"""What would have fired: the live detector's code over a CSV series or over history, minute by minute.

feed.py      a series as steps of totals, whatever it came from
rows.py      the rows of a CSV
series.py    rows to steps: how long a step is, and what a row stands for
history.py   the rollups of ClickHouse as steps
lanes.py     detectors on a simulated clock
run.py       a feed through its lanes
record.py    what a picture needs, of a few groups
picture.py   series, band and alerts as a PNG
"""

from spendstream.backtest.errors import BacktestError
from spendstream.backtest.feed import Feed, Part, Step
from spendstream.backtest.run import Backtest, Summary

__all__ = ["Backtest", "BacktestError", "Feed", "Part", "Step", "Summary"]
