"""Topic names, versioned. A change that an old reader would misread makes a new version."""

from typing import Final

USAGE: Final = "llm.usage.v1"
"""Usage events, JSON, one record per model call. Key: ``UsageEvent.partition_key``."""

PRICED: Final = "llm.priced.v1"
"""Priced calls, columnar: each record is one Arrow IPC stream of many calls. See ``spendstream.schemas.priced``."""

ROLLUP: Final = "llm.rollup.1m.v1"
"""Per-minute aggregates, JSON upserts: absolute totals, the greatest ``through_offset`` wins. Compacted."""

DEAD_LETTER: Final = "llm.usage.dlq.v1"
"""Records that could not be metered, with reason and original bytes, JSON."""

PROGRESS: Final = "llm.meter.progress.v1"
"""Internal to the meter: for each source partition, up to where it is durable, and the event ids it has counted."""

RATE_CARD: Final = "llm.rate-card.v1"
"""Every rate card that priced a call, JSON, by its id. Compacted, one partition."""

ALERT: Final = "llm.alert.v1"
"""Alert transitions, JSON."""

DETECT_STATE: Final = "llm.detect.state.v1"
"""Internal to the detector: snapshots of what it has learned, and their offsets. One partition."""

SILENCE: Final = "llm.silence.v1"
"""Silences, JSON upserts by id. One partition."""

RATE_BOOK: Final = "llm.rate-book.v1"
"""Internal to the meter: every rate book that has priced calls, by its id. See ``spendstream.core.pricing.rate_book``.
Compacted, one partition: the last one published is in force."""

ALL: Final = (USAGE, PRICED, ROLLUP, DEAD_LETTER, PROGRESS, RATE_CARD, ALERT, DETECT_STATE, SILENCE, RATE_BOOK)
