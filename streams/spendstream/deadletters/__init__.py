"""Dead letters: listed from ClickHouse, and published again once what was wrong is mended."""

from spendstream.deadletters.replay import replay
from spendstream.deadletters.store import Filter, Letter, find, mark_replayed

__all__ = ["Filter", "Letter", "find", "mark_replayed", "replay"]
