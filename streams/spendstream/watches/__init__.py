"""The operator's watches: read from a file, checked, reloaded; the built-in watches where there is no file.

file.py      the file, its errors, and the built-in watches
checks.py    mistakes that one part of the file alone does not show
explain.py   rules, scopes and durations as text
silences.py  the topic of silences
"""

from spendstream.watches.checks import Fault, check_dimensions, check_environment, check_prudence
from spendstream.watches.explain import explain_duration, explain_rule, explain_scope
from spendstream.watches.file import (
    DEFAULT_WATCHES,
    EnvironmentMissing,
    WatchesError,
    WatchesInvalid,
    WatchesUnreadable,
    WatchFile,
    configured_watches,
    default_watches,
    load_watches,
    read_document,
    read_watches,
    require_environment,
)

__all__ = [
    "DEFAULT_WATCHES",
    "EnvironmentMissing",
    "Fault",
    "WatchFile",
    "WatchesError",
    "WatchesInvalid",
    "WatchesUnreadable",
    "check_dimensions",
    "check_environment",
    "check_prudence",
    "configured_watches",
    "default_watches",
    "explain_duration",
    "explain_rule",
    "explain_scope",
    "load_watches",
    "read_document",
    "read_watches",
    "require_environment",
]
