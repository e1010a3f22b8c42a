"""The operator's watches: read from a file, checked, watched for edits; the built-in ones where there is no file."""

from spendstream.watches.defaults import DEFAULT_WATCHES, default_watches
from spendstream.watches.errors import EnvironmentMissing, WatchesError, WatchesInvalid, WatchesUnreadable
from spendstream.watches.faults import Fault, check_dimensions, check_environment
from spendstream.watches.file import WatchFile
from spendstream.watches.read import load_watches, read_watches, require_environment
from spendstream.watches.words import rule_in_words

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
    "default_watches",
    "load_watches",
    "read_watches",
    "require_environment",
    "rule_in_words",
]
