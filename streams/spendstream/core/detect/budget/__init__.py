"""Budgets: spend against an amount per day, week or month, exact to the pico-dollar.

calendar.py   periods that turn at midnight of a time zone
ledger.py     spend per group and period
limits.py     amounts, thresholds and burn rates by group and by name
windows.py    spend in sliding windows
breaches.py   which pairs of windows burn, and since when
forecast.py   the spend at the period's end
late.py       thresholds that became known after the period's end
report.py     what was judged, as findings
evaluator.py  the rule
"""

from spendstream.core.detect.budget.calendar import period_of
from spendstream.core.detect.budget.evaluator import BudgetEvaluator

__all__ = ["BudgetEvaluator", "period_of"]
