"""`spendstream watches` and what `silence` accepts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spendstream.cli.root import run
from spendstream.cli.silence import about, ended, parse_group, state
from spendstream.schemas.alert import Silence
from spendstream.watches import DEFAULT_WATCHES, read_watches

GOOD = """\
watches:
  - name: team-budget
    group_by: [team]
    rule: {kind: budget, amount_usd: 5000, time_zone: Europe/Berlin, burn_rates: []}
    notify: [chat]
  - name: cost
    scope: {environment: production}
    rule: {kind: anomaly}
notifiers:
  - {name: chat, kind: slack, url_env: CHAT_URL_OF_THIS_TEST}
  - {name: pager, kind: webhook, url: 'https://pager'}
"""
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WATCHES", "METER_DIMENSIONS", "CHAT_URL_OF_THIS_TEST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "watches.yaml"
    path.write_text(GOOD)
    return path


def test_a_valid_file_passes_the_check_with_its_warnings(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watches", "check", str(file)]) == 0
    printed = capsys.readouterr()
    assert "OK: " in printed.out
    assert printed.err == (
        f"{file}:10:40: warning: notifiers.chat.url_env: the environment variable CHAT_URL_OF_THIS_TEST is not set\n"
    )


def test_a_set_variable_is_no_warning(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_URL_OF_THIS_TEST", "https://chat")
    assert run(["watches", "check", str(file)]) == 0
    assert capsys.readouterr().err == ""


def test_every_mistake_is_printed_with_file_line_and_column(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("amount_usd", "amuont_usd").replace("[chat]", "[chta]"))
    assert run(["watches", "check", str(file)]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in printed] == [f"{file}:4:11", f"{file}:4:38", f"{file}:5:14"]
    assert "did you mean amount_usd?" in printed[1]


def test_mistakes_are_json_for_scripts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watches", "check", str(file), "--json"]) == 0
    *warnings, verdict = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(each["level"], each["line"]) for each in warnings] == [("warning", 10)]
    assert verdict == {"ok": True, "issues": 0, "warnings": 1, "watches": 2, "notifiers": 2}
    file.write_text("watches: [1]")
    assert run(["watches", "check", str(file), "--json"]) == 1
    *issues, verdict = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(each["level"], each["line"], each["column"]) for each in issues] == [("error", 1, 11)]
    assert verdict == {"ok": False, "issues": 1}


def test_the_default_file_is_the_one_in_the_settings(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHES", str(file))
    assert run(["watches", "list", "--json"]) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["team-budget", "cost"]
    monkeypatch.delenv("WATCHES")
    assert run(["watches", "list", "--json"]) == 0
    listed = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert listed == [watch.name for watch in DEFAULT_WATCHES.watches]


def test_the_dimensions_are_those_of_the_deployment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METER_DIMENSIONS", "service,environment")
    assert run(["watches", "check", str(file)]) == 1


def test_watches_are_listed_with_their_rules_explained(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watches", "list", str(file)]) == 0
    budget, cost = capsys.readouterr().out.splitlines()[1:]
    assert "$5,000 a month, Europe/Berlin: 50%, 80%, 100%, forecast" in budget
    assert budget.split()[-3:] == ["team", "warning", "chat"]
    assert "environment production" in cost
    assert cost.split()[-3:] == ["warning", "chat,", "pager"]


def test_listing_an_invalid_file_prints_its_mistakes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("watches: [1]")
    assert run(["watches", "list", str(file)]) == 1
    assert f"{file}:1:11: " in capsys.readouterr().err


def test_the_built_in_watches_are_a_file_to_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watches", "show-defaults"]) == 0
    file = tmp_path / "own.yaml"
    file.write_text(capsys.readouterr().out)
    assert read_watches(file) == DEFAULT_WATCHES
    assert run(["watches", "check", str(file)]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--for", "2x"], "write a number and s, m, h, d or w"),
        (["--for", "0m"], "a silence needs a duration"),
        (["--for", "2h", "--group", "team"], "write DIMENSION=VALUE"),
        (["--for", "2h", "--group", "tema=x"], "did you mean team?"),
        (["--for", "2h", "--group", "team=a", "--group", "team=b"], "add another silence"),
        (["--for", "2h", "--from", "tomorrow"], "is not a valid time"),
    ],
)
def test_an_invalid_silence_is_refused_before_any_broker_is_asked(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["silence", "add", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_group_may_hold_equals_signs_and_nothing() -> None:
    assert parse_group(["team=a=b", "customer="]) == {"team": "a=b", "customer": ""}


def test_a_silence_is_planned_then_active_then_ended() -> None:
    silence = Silence(
        silence_id="x", starts_at=NOW, ends_at=NOW + timedelta(hours=1), watch="cost", group={"team": "a"}
    )
    assert about(silence) == "cost, team=a"
    assert [state(silence, NOW + timedelta(minutes=m)) for m in (-1, 0, 60)] == ["planned", "active", "ended"]


@pytest.mark.parametrize("minutes", [-30, 30])
def test_a_silence_ended_early_is_no_longer_active(minutes: int) -> None:
    silence = Silence(silence_id="x", starts_at=NOW, ends_at=NOW + timedelta(hours=1))
    now = NOW + timedelta(minutes=minutes)
    assert state(ended(silence, now), now) == "ended"
    assert ended(silence, now).starts_at <= now
