"""Settings come from the environment, once; an error names the variable's setting and what would do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from spendstream.app import meter_rules
from spendstream.core.meter import MeterRules
from spendstream.schemas import topics
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS
from spendstream.settings import Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_without_an_environment_the_defaults_hold_and_the_rules_are_the_meters() -> None:
    settings = Settings()
    assert settings.meter_dimensions == DEFAULT_DIMENSIONS
    assert meter_rules(settings) == MeterRules()


def test_variables_are_the_names_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:1,two:2")
    monkeypatch.setenv("METER_ALLOWED_LATENESS_S", "0")
    monkeypatch.setenv("METER_CARDINALITY_CAP", "7")
    settings = Settings()
    assert settings.kafka_client()["bootstrap_servers"] == ["one:1", "two:2"]
    rules = meter_rules(settings)
    assert (rules.allowed_lateness_s, rules.cardinality_cap) == (0, 7)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METER_FLUSH_INTERVAL_S", "")
    assert Settings().meter_flush_interval_s == Settings.model_fields["meter_flush_interval_s"].default


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("METER_DIMENSIONS", "team,colour", "unknown dimension colour; choose among service, team"),
        ("WORKER_ROLES", "meter,boss", "unknown role boss; choose among meter, sink, detect, notify"),
        ("WORKER_ROLES", ",", "unknown role"),
        ("METER_ALLOWED_LATENESS_S", "-1", "greater than or equal to 0"),
        ("METER_CARDINALITY_CAP", "0", "greater than or equal to 1"),
        ("METER_DEDUPE_HORIZON_S", "an hour", "valid integer"),
        ("METRICS_PORT", "65536", "less than or equal to 65535"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "'PLAINTEXT', 'SSL'"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
    ],
)
def test_an_error_names_the_setting_and_what_would_do(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])).upper() == name
    assert words in error["msg"]


def test_dimensions_are_kept_in_one_order_whatever_the_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METER_DIMENSIONS", " model, team ,,customer")
    assert Settings().meter_dimensions == ("team", "customer", "model")


def test_rate_cards_are_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_CARDS", os.pathsep.join(("a.yaml", "cards")))
    assert Settings().rate_card_paths == (Path("a.yaml"), Path("cards"))


def test_topics_and_groups_have_their_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", "staging.")
    monkeypatch.setenv("KAFKA_GROUP", "spend")
    assert Settings().topic(topics.USAGE) == "staging.llm.usage.v1"
    assert Settings().group("meter") == "spend-meter"


def test_passwords_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "hunter2")
    assert "hunter2" not in repr(Settings())


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().meter_cardinality_cap = 5  # type: ignore[misc]
