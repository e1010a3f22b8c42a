"""The topics that spendstream needs, with their settings and the reason for each."""

from typing import Final

from spendstream.kafka.topics import TopicSpec
from spendstream.schemas import topics
from spendstream.settings import Settings

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_LARGE_RECORD: Final = str(8 * 1024 * 1024)
_SINGLE: Final = {topics.DETECT_STATE: 1, topics.SILENCE: 1}  # one order for all: one detector is active at a time


def topic_specs(settings: Settings) -> list[TopicSpec]:
    """Return every topic's spec. Rollup and progress partitions mirror the usage topic's, one to one.

    The detector's state and the silences have one partition each, whatever the settings say.
    """
    horizon_ms = settings.meter_dedupe_horizon_s * 1000
    configs = {
        # the backlog: as long as ClickHouse may be away, and a replay may reach back; the log's clock is the
        # broker's, because a producer's wrong one would move the dedupe horizon and expire records at once
        topics.USAGE: {"retention.ms": str(7 * _DAY_MS), "message.timestamp.type": "LogAppendTime"},
        topics.PRICED: {"retention.ms": str(7 * _DAY_MS), "max.message.bytes": _LARGE_RECORD},
        # upserts: the last record of a key is enough; a minute is final long before a week
        topics.ROLLUP: {"cleanup.policy": "compact,delete", "retention.ms": str(7 * _DAY_MS)},
        # a dead letter waits for a person; its original bytes are base64
        topics.DEAD_LETTER: {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": _LARGE_RECORD},
        # event ids are asked for within the dedupe horizon; the last marker must outlive a long standstill
        topics.PROGRESS: {
            "retention.ms": str(max(7 * _DAY_MS, 2 * horizon_ms)),
            "max.message.bytes": _LARGE_RECORD,
            "segment.ms": str(_HOUR_MS),
        },
        topics.ALERT: {"retention.ms": str(30 * _DAY_MS)},
        # snapshots replace each other, and the last must outlive any standstill: never deleted by age
        topics.DETECT_STATE: {
            "cleanup.policy": "compact",
            "max.message.bytes": _LARGE_RECORD,
            "segment.ms": str(_HOUR_MS),
        },
        # upserts of what people wrote: few, small, and read from the start by every detector
        topics.SILENCE: {"cleanup.policy": "compact"},
    }
    return [
        TopicSpec(settings.topic(name), _SINGLE.get(name, settings.kafka_partitions), config)
        for name, config in configs.items()
    ]
