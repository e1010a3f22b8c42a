"""Files of usage: JSON as it is or mapped, CSV mapped. Each row is an event, or an error by its line.

``cells``         the text of a cell and the value it stands for
``sources``       columns, dotted paths, arithmetic
``json_records``  the objects in a document that are rows
``mapping``       which source is which field
``files``         format, compression, lines
``rows``          lines and documents to rows
"""

from spendstream.intake.cells import time_reader
from spendstream.intake.files import MAX_LINE_BYTES, format_of
from spendstream.intake.json_records import Left
from spendstream.intake.mapping import MappingError, TableMapping
from spendstream.intake.rows import (
    Line,
    Row,
    RowError,
    UsageRow,
    check,
    read_lines,
    read_usage,
    rejected,
)

__all__ = [
    "MAX_LINE_BYTES",
    "Left",
    "Line",
    "MappingError",
    "Row",
    "RowError",
    "TableMapping",
    "UsageRow",
    "check",
    "format_of",
    "read_lines",
    "read_usage",
    "rejected",
    "time_reader",
]
