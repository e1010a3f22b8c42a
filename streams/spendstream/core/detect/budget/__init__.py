"""Budgets: spend against an amount per day, week or month, exact to the pico-dollar.

calendar.py   periods that begin at midnight of a time zone
spend.py      spend by group and period, and in sliding windows
limits.py     amounts, thresholds, forecast and burn rates: what spend is compared with
evaluator.py  the rule, and its findings
"""

from spendstream.core.detect.budget.calendar import period_of
from spendstream.core.detect.budget.evaluator import BudgetEvaluator

__all__ = ["BudgetEvaluator", "period_of"]
