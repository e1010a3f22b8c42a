"""Reconciling: Kafka's offsets, the meter's counters, the ledger, the rollups and the dead letters, each with the next.

The ledger is the reference: a call is in it once, by its ``event_id``. ``measures`` says what a rollup must hold given
the ledger, ``compare`` finds where it doesn't, ``plan`` says which rows repair it, and ``run`` does all of it in an
order that is safe beside a running meter.
"""

from spendstream.reconcile.run import Report, reconcile

__all__ = ["Report", "reconcile"]
