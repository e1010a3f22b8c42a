"""Why the spend changed: what is usual for each combination of dimensions, and a change split into its causes.

cube.py          sums of combinations of dimensions, over some minutes
profiles.py      what is usual, learned minute by minute
cells.py         both sides of a change, laid out as strata, models, service tiers
rates.py         a bucket group's USD per token, split into length, shift and price
decompose.py     the change, level by level, in factors that sum to the whole
words.py         each part in words, with numbers that are true
contributors.py  which customers, services, … drive the change; facts beside the money
attribute.py     all of it together
"""

from spendstream.core.detect.attribution.attribute import attribute
from spendstream.core.detect.attribution.cube import Cube
from spendstream.core.detect.attribution.profiles import Profiles

__all__ = ["Cube", "Profiles", "attribute"]
