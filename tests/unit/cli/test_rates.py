"""`spendstream rates`: which price applies when, where it comes from, and what is wrong with a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spendstream.cli.root import run

CARD = """
cards:
  - provider: acme
    model: acme-1
    kind: contract
    rates:
      - from: 2026-01-01
        source: order form 1
        usd_per_mtok: {input: 3, output: 15}
      - from: 2026-07-01
        source: order form 2
        usd_per_mtok: {input: 2.5, output: 12}
"""


@pytest.fixture
def card(tmp_path: Path) -> str:
    path = tmp_path / "rates.yaml"
    path.write_text(CARD)
    return str(path)


@pytest.mark.parametrize(
    ("day", "rate", "source"), [("2026-06-30", "3", "order form 1"), ("2026-07-01", "2.5", "order form 2")]
)
def test_the_rate_of_a_day_is_shown_with_its_source(
    day: str, rate: str, source: str, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["rates", "show", "acme", "acme-1", "--at", day, "--rates", card, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["usd_per_mtok"]["input"] == rate
    assert (shown["card"]["source"], shown["card"]["reference"]) == ("contract", source)
    assert shown["priced_as"]["reasoning"] == "output"


def test_a_day_before_the_first_rate_has_no_price(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rates", "show", "acme", "acme-1", "--at", "2025-12-31", "--rates", card]) == 1
    assert "no card prices it" in capsys.readouterr().out


def test_own_cards_are_listed_first(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rates", "list", "acme", "--rates", card, "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["valid_from"][:10] for each in listed if each["provider"] == "acme"] == ["2026-01-01", "2026-07-01"]


def test_a_valid_card_passes_the_check(card: str) -> None:
    assert run(["rates", "check", card]) == 0


def test_the_cards_of_the_settings_are_checked_by_default(
    card: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RATE_CARDS", raising=False)
    assert run(["rates", "check"]) == 2
    assert "RATE_CARDS" in capsys.readouterr().err
    monkeypatch.setenv("RATE_CARDS", card)
    assert run(["rates", "check"]) == 0
    assert "2 rates" in capsys.readouterr().out


def test_an_invalid_card_is_reported_by_file_line_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(CARD.replace("input: 2.5", "inptu: 2.5"))
    assert run(["rates", "check", str(path)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"{path}:12:")
    assert "did you mean input" in errors
