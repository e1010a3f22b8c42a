"""A robust seasonal baseline for each group of a watch, and what departs from it.

limits.py     every constant of the method, with its reason
columns.py    named arrays that grow with the groups
minutes.py    exact sums of the minutes that are still open
scale.py      the domain in which a measure's noise is even
baseline.py   level, trend and spread of each group
season.py     what is usual at each hour of the week
slopes.py     how steep each half-hour of the day has been
judge.py      one minute against its band
standing.py   what follows from minute after minute: suspect, firing, normal again
silence.py    busy groups that fell silent
evaluator.py  all of it together, as an Evaluator
"""

from spendstream.core.detect.anomaly.evaluator import AnomalyEvaluator

__all__ = ["AnomalyEvaluator"]
