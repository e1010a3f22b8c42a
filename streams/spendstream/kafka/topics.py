"""The topics that spendstream needs, with the reason for each setting, and the groups that read them.

A topic that is missing is created; one that exists is compared with its spec, never altered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidConfigurationError, InvalidRequestError, TopicAlreadyExistsError, for_code

from spendstream.errors import SpendstreamError
from spendstream.schemas import topics

if TYPE_CHECKING:
    from spendstream.settings import Settings

SINK_GROUPS: Final = {
    topics.PRICED: "sink-calls",
    topics.ROLLUP: "sink-rollups",
    topics.DEAD_LETTER: "sink-dead-letters",
    topics.RATE_CARD: "sink-rate-cards",
    topics.ALERT: "sink-alerts",
}
"""The consumer group of each sink, by the topic it empties."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_LARGE_RECORD: Final = str(8 * 1024 * 1024)
# one order for all: one detector is active at a time, and one rate book is the newest; and the few rate cards
_SINGLE: Final = {topics.DETECT_STATE: 1, topics.SILENCE: 1, topics.RATE_CARD: 1, topics.RATE_BOOK: 1}

_VISIBLE_TIMEOUT_S = 10.0
_VISIBLE_INTERVAL_S = 0.05
_CREATE_TIMEOUT_MS = 30_000
_CONFIGS_REFUSED = (InvalidConfigurationError.errno, InvalidRequestError.errno)


class TopicNotCreated(SpendstreamError):
    """The broker refused to create a topic; the message has its name and the broker's reason."""


@dataclass(frozen=True)
class TopicSpec:
    """A topic as specified. ``config``: Kafka topic settings by name, values as Kafka writes them (``"604800000"``)."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TopicReport:
    """What ``ensure_topics`` found or did for one topic.

    ``created``: it was missing and is there now. ``configs_refused``: the broker's words, when it made the topic only
    without its settings; empty otherwise. ``differences``: what an existing topic has otherwise than specified, one
    sentence each.
    """

    name: str
    created: bool
    differences: tuple[str, ...] = ()
    configs_refused: str = ""

    @property
    def as_specified(self) -> bool:
        """Whether the topic has the partitions and settings of its spec."""
        return not self.differences and not self.configs_refused


def topic_specs(settings: Settings) -> list[TopicSpec]:
    """Return every topic's spec. Rollup and progress partitions mirror the usage topic's, one to one.

    The detector's state, silences, rate cards and rate books have one partition each, whatever the settings say.
    """
    horizon_ms = settings.meter_dedupe_horizon_s * 1000
    configs = {
        # the backlog: as long as ClickHouse may be away, and a replay may reach back; the log's clock is the
        # broker's, because a producer's wrong one would move the dedupe horizon and expire records at once
        topics.USAGE: {"retention.ms": str(7 * _DAY_MS), "message.timestamp.type": "LogAppendTime"},
        topics.PRICED: {"retention.ms": str(7 * _DAY_MS), "max.message.bytes": _LARGE_RECORD},
        # upserts: the greatest total of a key is enough. It isn't always the last: a worker that lost its partition
        # without knowing may write an older one. Recovery needs the greatest of an open minute: compaction waits
        topics.ROLLUP: {
            "cleanup.policy": "compact,delete",
            "retention.ms": str(7 * _DAY_MS),
            "min.compaction.lag.ms": str(max(_DAY_MS, 2 * settings.meter_allowed_lateness_s * 1000)),
        },
        # a dead letter waits for someone to look at it; its original bytes are base64
        topics.DEAD_LETTER: {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": _LARGE_RECORD},
        # event ids are needed within the dedupe horizon; the last marker must outlive a long standstill
        topics.PROGRESS: {
            "retention.ms": str(max(7 * _DAY_MS, 2 * horizon_ms)),
            "max.message.bytes": _LARGE_RECORD,
            "segment.ms": str(_HOUR_MS),
        },
        # a card never changes, and is needed for as long as a row of the ledger names it: never deleted by age
        topics.RATE_CARD: {"cleanup.policy": "compact"},
        topics.ALERT: {"retention.ms": str(30 * _DAY_MS)},
        # snapshots replace each other, and the last must outlive any standstill: never deleted by age
        topics.DETECT_STATE: {
            "cleanup.policy": "compact",
            "max.message.bytes": _LARGE_RECORD,
            "segment.ms": str(_HOUR_MS),
        },
        # upserts that people write: few, small, and read from the start by every detector
        topics.SILENCE: {"cleanup.policy": "compact"},
        # a marker names the book that prices what comes after it, however old: never deleted by age
        topics.RATE_BOOK: {"cleanup.policy": "compact", "max.message.bytes": _LARGE_RECORD},
    }
    return [
        TopicSpec(settings.topic(name), _SINGLE.get(name, settings.kafka_partitions), config)
        for name, config in configs.items()
    ]


async def ensure_topics(kafka: Mapping[str, Any], specs: Sequence[TopicSpec], *, replication: int) -> list[TopicReport]:
    """Create the topics that are missing, compare the others, and report on each, in the order of ``specs``.

    An existing topic is never altered: more partitions would move keys, and shorter retention would delete.
    ``kafka``: the connection arguments of aiokafka's clients.

    Raises: TopicNotCreated; aiokafka's KafkaConnectionError, when no broker answers.
    """
    admin = AIOKafkaAdminClient(**kafka)
    try:
        await admin.start()
        # All names, not these: some brokers create a topic whose metadata is asked for by name.
        existing = set(await admin.list_topics())
        created = await _create(admin, [spec for spec in specs if spec.name not in existing], replication)
        differences = await _differences(admin, [spec for spec in specs if spec.name not in created])
    finally:
        await admin.close()
    return [created.get(spec.name) or TopicReport(spec.name, False, differences[spec.name]) for spec in specs]


async def _create(admin: Any, specs: Sequence[TopicSpec], replication: int) -> dict[str, TopicReport]:
    """Create topics; those that another client created meanwhile are left out of the answer."""
    reports: dict[str, TopicReport] = {}
    for spec in specs:
        code, reason = await _try_create(admin, spec, spec.config, replication)
        refused = ""
        if code in _CONFIGS_REFUSED and spec.config:
            refused = reason
            code, reason = await _try_create(admin, spec, {}, replication)
        if code == TopicAlreadyExistsError.errno:
            continue
        if code != 0:
            raise TopicNotCreated(f"{spec.name}: {reason}")
        reports[spec.name] = TopicReport(spec.name, created=True, configs_refused=refused)
    await _await_visible(admin, reports)
    return reports


async def _try_create(admin: Any, spec: TopicSpec, config: Mapping[str, str], replication: int) -> tuple[int, str]:
    topic = NewTopic(spec.name, spec.partitions, replication, topic_configs=dict(config))
    answer = await admin.create_topics([topic], timeout_ms=_CREATE_TIMEOUT_MS)
    _, code, *message = answer.topic_errors[0]
    return code, (message[0] if message and message[0] else for_code(code).__name__)


async def _await_visible(admin: Any, names: Iterable[str]) -> None:
    """Return when the topics are in the metadata: other brokers learn of a new topic a moment later."""
    expected = set(names)
    deadline = asyncio.get_running_loop().time() + _VISIBLE_TIMEOUT_S
    while missing := expected - set(await admin.list_topics()):
        if asyncio.get_running_loop().time() > deadline:
            raise TopicNotCreated(f"created, but not in the metadata after {_VISIBLE_TIMEOUT_S:g} s: {sorted(missing)}")
        await asyncio.sleep(_VISIBLE_INTERVAL_S)


async def _differences(admin: Any, specs: Sequence[TopicSpec]) -> dict[str, tuple[str, ...]]:
    if not specs:
        return {}
    names = [spec.name for spec in specs]
    partitions = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(names)}
    # Every setting of each topic: asked for chosen ones, Tansu closes the connection.
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {name: {} for name in names}
    for answer in await admin.describe_configs(resources):
        for code, message, _, name, entries in answer.resources:
            if code != 0:
                raise for_code(code)(f"settings of {name}: {message}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return {spec.name: tuple(_compare(spec, partitions[spec.name], configs[spec.name])) for spec in specs}


def _compare(spec: TopicSpec, partitions: int, config: Mapping[str, str]) -> Iterable[str]:
    if partitions != spec.partitions:
        yield f"partitions: {partitions}, specified {spec.partitions}"
    for name, specified in spec.config.items():
        actual = config.get(name)
        if actual is None:
            yield f"{name}: not set, specified {specified}"
        elif _normal(actual) != _normal(specified):
            yield f"{name}: {actual}, specified {specified}"


def _normal(value: str) -> frozenset[str]:
    """Settings that are lists, such as ``compact,delete``, are equal in any order."""
    return frozenset(part.strip() for part in value.split(","))
