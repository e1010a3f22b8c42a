"""Detection, pure: totals per minute in, findings and alert transitions out. No Kafka, no clock of its own.

rollups.py    absolute totals to what changed, exactly, whatever is replayed
measures.py   what a rule looks at, from a minute's sums
finding.py    groups, findings and what every rule can do
anomaly/      a robust seasonal baseline for each group
budget/       spend against an amount per period; burn rates; forecast
threshold.py  a measure over a window against a fixed bound
attribution/  why the spend changed, in parts that sum to the whole
seeding.py    what a budget that began within its period lacks, from history
lifecycle.py  findings to pending, firing, updated, resolved; silences
watch_runner.py  one watch at work
detector.py   all watches together
"""
