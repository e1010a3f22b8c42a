"""Why the spend changed: what is usual for each combination of dimensions, and a change split into its causes.

profiles.py    what is usual, learned minute by minute
cells.py       sums of combinations of dimensions; both sides of a change, laid out as strata, models, service tiers
decompose.py   the change, level by level, in factors that sum to the whole
explain.py     each part in a sentence, with numbers that are true
attribute.py   all of it together; which customers, services, … drive the change; facts beside the money
"""

from spendstream.core.detect.attribution.attribute import attribute
from spendstream.core.detect.attribution.cells import Cube
from spendstream.core.detect.attribution.profiles import Profiles

__all__ = ["Cube", "Profiles", "attribute"]
