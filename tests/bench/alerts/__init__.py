"""Quality and cost of anomaly detection on labelled synthetic series: ``python -m tests.bench.alerts``.

traffic.py    what calm traffic looks like
incidents.py  what goes wrong, with labels
drive.py      a series through the evaluator; alerts out
rival.py      a plain moving-window z-score on the same series
score.py      alerts against labels
page.py       all runs
tables.py     the page they make
cost.py       memory and CPU at 100,000 groups
"""
