"""Silences through a real broker: written, listed, ended."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest

from spendstream.cli.root import run
from spendstream.embedded.broker import EmbeddedBroker
from spendstream.kafka.topics import ensure_topics, topic_specs
from spendstream.settings import Settings
from tests.kafka.server import LocalKafka

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

Broker = LocalKafka | EmbeddedBroker


@pytest.fixture(autouse=True)
def settings(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", f"t{uuid.uuid4().hex[:12]}.")
    monkeypatch.delenv("WATCHES", raising=False)
    return Settings()


def create_topics(settings: Settings) -> None:
    asyncio.run(ensure_topics(settings.kafka_client(), topic_specs(settings), replication=1))


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> list[tuple[str, str]]:
    """Id and state of the silences."""
    capsys.readouterr()
    assert run(["silence", "list", "--json", *options]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(each["silence_id"], each["state"]) for each in found]


def added(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert run(["silence", "add", "--json", *options]) == 0
    return str(json.loads(capsys.readouterr().out)["silence_id"])


def test_silences_are_written_listed_and_ended(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    create_topics(settings)
    assert listed(capsys) == []
    late = added(capsys, "--for", "1h", "--from", "2999-01-01")
    now = added(capsys, "--for", "2h", "--watch", "cost", "--group", "team=search", "--comment", "a planned backfill")
    assert listed(capsys) == [(now, "active"), (late, "planned")]
    assert run(["silence", "end", now]) == 0
    assert run(["silence", "end", late]) == 0
    assert listed(capsys) == []
    assert sorted(listed(capsys, "--all")) == sorted([(now, "ended"), (late, "ended")])


def test_an_unknown_id_is_an_error(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    create_topics(settings)
    assert run(["silence", "end", "nope"]) == 1
    assert "no silence nope" in capsys.readouterr().err


def test_a_watch_that_is_unknown_here_is_a_warning_and_is_silenced(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    create_topics(settings)
    assert run(["silence", "add", "--for", "2h", "--watch", "csot"]) == 0
    assert "no watch csot in the built-in watches: did you mean cost?" in capsys.readouterr().err


def test_without_its_topic_the_error_names_the_fix_and_creates_no_topic(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], ["add", "--for", "2h"], ["list"]):
        assert run(["silence", *arguments]) == 1
        assert "run `spendstream topics`" in capsys.readouterr().err
