"""The topics as they are made."""

from __future__ import annotations

import pytest

from spendstream.kafka.topics import topic_specs
from spendstream.schemas import topics
from spendstream.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(kafka_partitions=7, kafka_topic_prefix="t.")


def test_every_topic_has_a_layout(settings: Settings) -> None:
    assert sorted(spec.name for spec in topic_specs(settings)) == sorted(f"t.{name}" for name in topics.ALL)


def test_topics_that_are_read_in_order_or_hold_little_have_one_partition(settings: Settings) -> None:
    single = {topics.DETECT_STATE, topics.SILENCE, topics.RATE_CARD, topics.RATE_BOOK}
    counts = {spec.name.removeprefix("t."): spec.partitions for spec in topic_specs(settings)}
    assert counts == {name: 1 if name in single else 7 for name in topics.ALL}


@pytest.mark.parametrize("name", [topics.DETECT_STATE, topics.SILENCE, topics.RATE_CARD, topics.RATE_BOOK])
def test_snapshots_silences_rate_cards_and_books_never_expire(settings: Settings, name: str) -> None:
    config = next(spec.config for spec in topic_specs(settings) if spec.name == f"t.{name}")
    assert config["cleanup.policy"] == "compact"
    assert "retention.ms" not in config


@pytest.mark.parametrize(("lateness_s", "lag_h"), [(600, 24), (12 * 3600, 24), (24 * 3600, 48)])
def test_no_total_of_an_open_minute_is_compacted_away(lateness_s: int, lag_h: int) -> None:
    """The last total of a key may be an expelled worker's, and smaller than one before it. See tests/simulation."""
    settings = Settings(meter_allowed_lateness_s=lateness_s)
    config = next(spec.config for spec in topic_specs(settings) if spec.name.endswith(topics.ROLLUP))
    assert config["min.compaction.lag.ms"] == str(lag_h * 3_600_000)
