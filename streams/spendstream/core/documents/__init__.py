"""YAML files that people write, read with the line and column of whatever is wrong.

Scalars are taken as the text that stands in the file: 0.1 is never a float on its way to an exact amount.

issue.py      one thing to mend, and the error that holds all of them
compose.py    text to nodes that know where they stand; keys written twice
place.py      from a location in a model to line, column and name
validate.py   nodes against a model, with every finding in words
"""

from spendstream.core.documents.compose import Unreadable, compose, repeated_keys
from spendstream.core.documents.issue import DocumentError, Issue
from spendstream.core.documents.place import Loc, issue_at, position
from spendstream.core.documents.validate import did_you_mean, plain, validate

__all__ = [
    "DocumentError",
    "Issue",
    "Loc",
    "Unreadable",
    "compose",
    "did_you_mean",
    "issue_at",
    "plain",
    "position",
    "repeated_keys",
    "validate",
]
