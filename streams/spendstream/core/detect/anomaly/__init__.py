"""A robust seasonal baseline for each group of a watch, and what departs from it.

limits.py     every constant of the method, with its reason
minutes.py    exact sums of open minutes, and the domain in which they are compared
baseline.py   level, trend and spread of each group; hours of the week; slopes of the day
firing.py     a minute against its band: suspect, firing, silent, normal again
evaluator.py  all of it together, as an ``Evaluator``
"""

from spendstream.core.detect.anomaly.evaluator import AnomalyEvaluator

__all__ = ["AnomalyEvaluator"]
