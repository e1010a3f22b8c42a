"""Detection, pure: totals per minute in, findings and alert transitions out. No Kafka, no clock of its own.

rollups.py    absolute rollups to what changed, exactly, whatever is replayed
groups.py     which groups of a watch a set of dimensions belongs to
measures.py   what a rule looks at, from a minute's sums
anomaly/      a robust seasonal baseline for each group
budget/       spend against an amount per period; burn rates; forecast
threshold.py  a measure over a window against a fixed bound
attribution/  why the spend changed, in parts that sum to the whole
seeding.py    what a budget lacks that began within its period, out of history; cut.py: what is known without it
lifecycle.py  findings to pending, firing, updated, resolved
watched.py    one watch at work
detector.py   all watches together
"""
