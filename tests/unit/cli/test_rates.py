"""`spendstream rates`: which price applies when, where it comes from, and what is wrong with a card."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from spendstream.cli.root import run

EXAMPLE = Path(__file__).parents[3] / "infra" / "rates" / "example.yaml"
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


def test_shares_of_the_public_price_are_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rates", "list", "openai/gpt-*", "--rates", str(EXAMPLE), "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [(card["source"], card["valid_from"][:10], card["reference"]) for card in listed]
    assert found[0] == ("contract", "2026-01-01", "Enterprise agreement 88, exhibit B")
    assert len(found) == 2


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
    assert capsys.readouterr().out == "OK: 2 rates in 1 file\n"


def test_the_check_counts_what_a_file_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rates", "check", str(EXAMPLE)]) == 0
    found = "OK: 11 rates, 3 shares of the public price, 2 adjustments, 3 aliases in 1 file\n"
    assert capsys.readouterr().out == found
    assert run(["rates", "check", str(EXAMPLE), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shares of the public price"] == 3


def test_a_rate_shows_what_it_consists_of(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rates", str(EXAMPLE), "--at", "2026-11-13T10:00:00Z"]
    assert (
        run(["rates", "show", "acme-cloud", "acme-large", "--region", "eu-1", "--inference-geo", "us", *options]) == 0
    )
    shown = capsys.readouterr().out
    assert "including x 1.1 on all tokens: region eu-*, https://intranet.example/acme/prices#regions" in shown
    assert "including x 1.05 on input, output, web_search: inference_geo us" in shown
    assert "the price depends on the day and the time (UTC)" in shown
    assert run(["rates", "show", "acme-cloud", "acme-scribe", *options]) == 0
    assert "$0.004 per pages" in capsys.readouterr().out
    assert run(["rates", "show", "openai", "whisper-1", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["usd_per_unit"]["audio_seconds"] == {"usd": "0.36", "per": 3600}
    assert run(["rates", "show", "openai", "gpt-4.1", *options, "--json"]) == 0
    shown_json = json.loads(capsys.readouterr().out)
    assert shown_json["multipliers"][0]["factor"] == "0.88"
    assert shown_json["usd_per_mtok"]["input"] == "1.76"
    assert run(["rates", "show", "nobody", "none", "--capacity", "provisioned", *options]) == 0
    assert "prepaid capacity" in capsys.readouterr().out
    assert run(["rates", "show", "nobody", "none", "--capacity", "reserved", *options]) == 2


def test_an_invalid_card_is_reported_by_file_line_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(CARD.replace("input: 2.5", "inptu: 2.5"))
    assert run(["rates", "check", str(path)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"{path}:12:")
    assert "did you mean input" in errors


def coverage(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    assert run(["rates", "coverage", "--json", *arguments]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def write_calls(tmp_path: Path, *calls: dict[str, Any]) -> str:
    base = {"occurred_at": "2026-11-15T12:00:00Z", "service": "api", "input_tokens": 100, "output_tokens": 10}
    path = tmp_path / "calls.jsonl"
    lines = (json.dumps({"event_id": str(uuid.UUID(int=n)), **base, **c}) for n, c in enumerate(calls, start=1))
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def test_coverage_lists_models_without_a_price_first_with_calls_tokens_and_reason(
    card: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_calls(
        tmp_path,
        {"provider": "openai", "model_served": "gpt-4o"},
        {"provider": "openai", "model_served": "gpt-4o", "input_tokens": 200},
        {"provider": "openai", "model_served": "gpt-4o-minni"},
        {"provider": "azure", "model_requested": "prod-chat", "input_tokens": 5000},
        {"provider": "openai", "model_served": "ft:gpt-4-0613:acme::abc"},
        {"provider": "openrouter", "model_served": "x-ai/grok-4"},
        {"provider": "acme", "model_served": "acme-1"},
    )
    rows = coverage(capsys, file, "--rates", card, status=1)
    assert [(r["model"], r["priced"], r["calls"], r["tokens"], r["priced_as"]) for r in rows] == [
        ("prod-chat", False, 1, 5010, ""),
        ("gpt-4o-minni", False, 1, 110, ""),
        ("ft:gpt-4-0613:acme::abc", False, 1, 110, ""),
        ("gpt-4o", True, 2, 320, "genai-prices openai gpt-4o"),
        ("x-ai/grok-4", True, 1, 110, "genai-prices x-ai grok-4-0709"),
        ("acme-1", True, 1, 110, "contract acme acme-1"),
    ]
    deployment, misspelt, tuned = rows[:3]
    assert deployment["unpriced_reason"] == "unknown_model"
    assert "doesn't list this model of azure" in deployment["why"]
    assert misspelt["nearest"][0] == "openai gpt-4o-mini"
    assert "fine-tuned" in tuned["why"]


def test_coverage_says_which_rate_a_card_lacks(card: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_calls(
        tmp_path,
        {"provider": "acme", "model_served": "acme-1"},
        {"provider": "acme", "model_served": "acme-1", "tool_calls": 0, "web_searches": 2},
        {"provider": "acme", "model_served": "acme-1", "tool_calls": 0, "service_tier": "batch"},
    )
    Path(card).write_text(CARD + "        service_tiers: {batch: {usd_per_mtok: {input: 1}}}\n")
    without, *with_price = coverage(capsys, file, "--rates", card, status=1)
    assert without["missing_buckets"] == ["output"]
    assert without["why"] == "its card has no rate for output"
    found = [(row["priced"], row["calls"], row["price_quality"], row["why"]) for row in with_price]
    assert sorted(found) == [(True, 1, "exact", ""), (True, 1, "partial", "no rate for web_searches")]


def test_coverage_takes_a_table_and_reports_its_invalid_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("when,tokens,name\n2026-11-15 12:00:00,100,gpt-4o\n2026-11-15 12:00:01,many,gpt-4o\n")
    options = ["--map", "occurred_at=when", "--map", "input_tokens=tokens", "--map", "model_served=name"]
    options += ["--set", "service=api", "--set", "provider=openai", "--set", "output_tokens=0"]
    (row,) = coverage(capsys, str(path), *options, status=1)
    assert (row["model"], row["calls"], row["tokens"]) == ("gpt-4o", 1, 100)
    assert run(["rates", "coverage", "no-such-file.jsonl"]) == 2


def test_coverage_for_people_names_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_calls(
        tmp_path,
        {"provider": "openai", "model_served": "gpt-4o"},
        {"provider": "litellm", "model_served": "fast"},
    )
    assert run(["rates", "coverage", file]) == 1
    shown = capsys.readouterr().out
    assert "1 of 2 calls have no price. Add an alias or a card to a file in RATE_CARDS." in shown
    assert "a gateway sells nothing itself" in shown


def test_a_call_without_a_price_is_a_finding_of_coverage_but_not_of_price(tmp_path: Path) -> None:
    priced = write_calls(tmp_path, {"provider": "openai", "model_served": "gpt-4o"})
    assert run(["rates", "coverage", priced]) == 0
    unpriced = write_calls(tmp_path, {"provider": "openai", "model_served": "gpt-4o-minni"})
    assert run(["rates", "coverage", unpriced]) == 1
    assert run(["price", unpriced]) == 0


def test_show_says_why_a_model_has_no_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rates", "show", "azure", "prod-chat"]) == 1
    assert "doesn't list this model of azure" in capsys.readouterr().out
