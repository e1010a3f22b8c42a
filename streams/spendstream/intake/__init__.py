"""Files of usage: JSONL as it is, CSV through a mapping. Each row is an event, or an error by its line."""

from spendstream.intake.mapping import MappingError, TableMapping, time_reader
from spendstream.intake.rows import (
    MAX_LINE_BYTES,
    Line,
    Row,
    RowError,
    UsageRow,
    check,
    format_of,
    read_lines,
    read_usage,
)

__all__ = [
    "MAX_LINE_BYTES",
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
    "time_reader",
]
