"""`spendstream price`: exact amounts as text, for files as they come."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spendstream.cli.root import run

CARD = """
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2023-01-01
        source: an example
        usd_per_mtok: {input: 3, output: 15}
"""
CALL = {
    "event_id": "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77",
    "occurred_at": "2026-01-31T12:00:00Z",
    "service": "api",
    "provider": "acme",
    "model_served": "acme-1",
    "input_tokens": 2000,
    "output_tokens": 500,
    "reasoning_tokens": 1500,
}
TRACES = Path(os.environ.get("SPENDSTREAM_TRACES", Path(__file__).parents[4] / "shared/data/azure-llm-2023"))


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "rates.yaml"
    path.write_text(CARD)
    return path


def write(tmp_path: Path, *lines: object) -> str:
    path = tmp_path / "usage.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def priced(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    assert run(["price", "--json", *arguments]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_example_call_costs_three_cents_and_six_tenths(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2,000 input x $3 = $0.006; 500 visible x $15 = $0.0075; 1,500 reasoning x $15 = $0.0225; per million tokens."""
    (line,) = priced(capsys, write(tmp_path, CALL), "--rates", str(card))
    card_id = line.pop("rate_card_id")
    assert len(card_id) == 16
    assert line.pop("file").endswith("usage.jsonl")
    assert line == {
        "event_id": "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77",
        "provider": "acme",
        "model": "acme-1",
        "cost_usd": "0.036",
        "cost_usd_by_bucket": {"input": "0.006", "output": "0.0075", "reasoning": "0.0225"},
        "cost_without_cache_usd": "0.036",
        "cost_at_standard_tier_usd": "0.036",
        "cost_with_requested_model_usd": "0.036",
        "rate_source": "custom",
        "price_quality": "exact",
        "price_notes": [],
        "cost_usd_by_unit": {},
        "unpriced_reason": "",
        "missing_buckets": [],
        "line": 1,
        "place": None,
    }


def test_what_is_not_exact_is_said_call_by_call_and_counted_in_the_table(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """$0.036 for the tokens of each; a page costs $0.004, a widget has no price."""
    card.write_text(CARD + "        usd_per_unit: {pages: 0.004}\n")
    ids = [f"0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e7{n}" for n in range(4)]
    more: list[dict[str, Any]] = [
        {},
        {"units": {"pages_processed": 1}},
        {"units": {"pages": "0.5", "widgets": 2}},
        {"service_tier": "fast"},
    ]
    calls = [{**CALL, "event_id": event_id, **given} for event_id, given in zip(ids, more, strict=True)]
    exact, page, partial, fast = priced(capsys, write(tmp_path, *calls), "--rates", str(card))
    assert (exact["cost_usd"], exact["price_quality"], exact["price_notes"]) == ("0.036", "exact", [])
    assert (page["cost_usd"], page["cost_usd_by_unit"]) == ("0.04", {"pages": "0.004"})
    assert page["cost_usd_by_bucket"]["units"] == "0.004"
    assert (partial["cost_usd"], partial["cost_usd_by_unit"]) == ("0.038", {"pages": "0.002"})
    assert (partial["price_quality"], partial["price_notes"]) == ("partial", ["no rate for widgets"])
    assert (fast["price_quality"], fast["price_notes"]) == ("substituted", ["no fast rate for acme-1: standard"])
    assert run(["price", write(tmp_path, *calls), "--rates", str(card)]) == 0
    table = capsys.readouterr().out
    assert "Priced, but not exactly" in table
    for row in (("partial", "1", "no rate for widgets"), ("substituted", "1", "no fast rate for acme-1: standard")):
        assert any(all(cell in line for cell in row) for line in table.splitlines()), row
    assert any("pages" in line and "$0.006" in line for line in table.splitlines())


def test_a_model_without_a_price_costs_null_and_never_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = priced(capsys, write(tmp_path, {**CALL, "model_served": "no-such-model"}))
    assert line["cost_usd"] is None
    assert line["cost_without_cache_usd"] is None
    assert line["cost_usd_by_bucket"] == {}
    assert line["unpriced_reason"] == "unknown_model"


def test_invalid_rows_are_reported_by_line_and_the_others_priced(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, CALL, '{"event_id": 1}', {**CALL, "event_id": "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e78"})
    assert run(["price", "--json", file, "--rates", str(card)]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["cost_usd"] for line in captured.out.splitlines()] == ["0.036", "0.036"]
    assert captured.err.startswith(f"{file}:2: event_id:")


def test_wrong_usage_is_status_2(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("when\n2026-01-31\n")
    bad_card = tmp_path / "bad.yaml"
    bad_card.write_text("cards: [{provider: x}]")
    assert run(["price", str(tmp_path / "absent.jsonl")]) == 2
    assert run(["price", str(tmp_path / "table.csv"), "--map", "no_such_field=when"]) == 2
    assert run(["price", str(tmp_path / "table.csv"), "--map", "occurred_at=when"]) == 2
    assert run(["price", write(tmp_path, CALL), "--rates", str(bad_card)]) == 2
    assert "bad.yaml:1:9: cards.0.model: missing field" in capsys.readouterr().err


def test_the_table_has_a_total_and_every_bucket(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["price", write(tmp_path, CALL), "--rates", str(card)]) == 0
    shown = capsys.readouterr().out
    for text in ("acme-1", "$0.036", "reasoning", "$0.0225", "4,000"):
        assert text in shown


MAPPED = [
    *("--map", "occurred_at=at", "--map", "input_tokens=in", "--map", "model_served=model"),
    *("--set", "service=files", "--set", "provider=acme"),
]


def test_several_files_of_any_format_are_priced_together_and_joined_to_their_lines(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"at": "2026-01-31T12:00:00Z", "in": 1000, "model": "acme-1"}
    (tmp_path / "a.csv").write_text('at,in,model\n2026-01-31 12:00,"1,000",acme-1\n2026-01-31 12:00,null,acme-1\n')
    (tmp_path / "b.jsonl").write_text(f"{json.dumps(row)}\n\n{json.dumps(row)}\n")
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps([row], indent=2).encode()))
    files = [str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.json.gz")]
    assert run(["price", "--json", *files, *MAPPED, "--rates", str(card)]) == 1
    captured = capsys.readouterr()
    quotes = [json.loads(line) for line in captured.out.splitlines()]
    assert [(Path(q["file"]).name, q["line"], q["place"]) for q in quotes] == [
        ("a.csv", 2, None),
        ("b.jsonl", 1, None),
        ("b.jsonl", 3, None),
        ("c.json.gz", 2, ".[0]"),
    ]
    assert {q["cost_usd"] for q in quotes} == {"0.003"}
    assert len({q["event_id"] for q in quotes}) == 4
    assert captured.err.startswith(f"{files[0]}:3: input_tokens: Field required")


def test_files_of_one_name_in_two_folders_are_different_calls(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.csv").write_text("at,in,model\n2026-01-31 12:00,1,acme-1\n")
        files.append(str(tmp_path / folder / "t.csv"))
    quotes = priced(capsys, *files, *MAPPED, "--rates", str(card))
    assert len({quote["event_id"] for quote in quotes}) == 2
    assert quotes == priced(capsys, *files, *MAPPED, "--rates", str(card))


def test_every_file_is_checked_before_a_row_of_the_first_is_priced(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.csv").write_text("at,in,model\n2026-01-31 12:00,1,acme-1\n")
    (tmp_path / "bad.csv").write_text("at,tokens,model\n2026-01-31 12:00,1,acme-1\n")
    good, bad = str(tmp_path / "good.csv"), str(tmp_path / "bad.csv")
    for files, message in (
        ([good, bad], "No column 'in' to map to input_tokens"),
        ([good, good], "is given 2 times"),
        ([good, str(tmp_path)], "a folder; name the files in it"),
        ([good, good + "x"], "no such file"),
    ):
        assert run(["price", "--json", *files, *MAPPED, "--rates", str(card)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err


def test_a_path_to_rows_that_leads_nowhere_is_refused_with_what_is_there(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.json"
    path.write_text(json.dumps({"data": [], "has_more": False}))
    assert run(["price", str(path), *MAPPED, "--each", "rows"]) == 2
    assert "no object has 'rows'. The first has: data, has_more" in capsys.readouterr().err


def test_what_was_left_out_or_read_by_name_is_said(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("at,in,model,output_tokens\n2026-01-31 12:00,1,acme-1,2\n2026-01-31 12:00,1,test,2\n")
    assert len(priced(capsys, str(path), *MAPPED, "--skip", "model=test", "--rates", str(card))) == 1
    assert run(["price", str(path), *MAPPED, "--skip", "model=test", "--rates", str(card)]) == 0
    errors = capsys.readouterr().err
    assert "1 rows left out by --skip" in errors
    assert "output_tokens: read by name, beside the counts that are mapped" in errors


@pytest.mark.parametrize("command", ["price", "rates"])
def test_a_table_in_a_pipe_is_never_cut_to_the_width_of_a_screen(command: str, tmp_path: Path) -> None:
    name = "a-model-of-a-very-long-name-" * 8
    long_card = tmp_path / "rates.yaml"
    long_card.write_text(CARD.replace("acme-1", name))
    arguments = {
        "price": ["price", write(tmp_path, {**CALL, "model_served": name})],
        "rates": ["rates", "show", "acme", name],
    }[command]
    shown = subprocess.run(
        [sys.executable, "-m", "spendstream.cli", *arguments],
        env={**os.environ, "COLUMNS": "40", "RATE_CARDS": str(long_card)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert name in shown


@pytest.mark.skipif(not TRACES.is_dir(), reason="the traces are not on this machine")
@pytest.mark.parametrize(("trace", "usd"), [("code", "57.868362"), ("conv", "128.415585")])
def test_a_real_trace_is_priced_to_the_last_digit_by_mapping_its_columns(
    trace: str, usd: str, card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = ("occurred_at=TIMESTAMP", "input_tokens=ContextTokens", "output_tokens=GeneratedTokens")
    sets = ("service=trace", "provider=acme", "model_served=acme-1")
    options = [
        *(part for pair in maps for part in ("--map", pair)),
        *(part for pair in sets for part in ("--set", pair)),
    ]
    lines = priced(capsys, str(TRACES / f"{trace}.csv"), *options, "--rates", str(card))
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal(usd)
