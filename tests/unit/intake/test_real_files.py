"""Real traces and exports come to the totals that their READMEs state, by a mapping alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spendstream.cli.root import run

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
CARD = """
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2020-01-01
        source: an example
        usd_per_mtok: {input: 3, output: 15, cache_read: 0.3}
"""
ACME = ("service=trace", "provider=acme", "model_served=acme-1")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data is not beside the repository")


def options(**given: Any) -> Iterator[str]:
    for name, values in given.items():
        for value in [values] if isinstance(values, str) else values:
            yield from (f"--{name.replace('_', '-')}", value)


@pytest.fixture
def price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    card = tmp_path / "rates.yaml"
    card.write_text(CARD)

    def priced(files: str, status: int = 0, **given: Any) -> list[dict[str, Any]]:
        paths = sorted(str(path) for path in DATA.glob(files))
        if not paths:
            pytest.skip(f"no {files}")
        assert run(["price", "--json", *paths, *options(**given), "--rates", str(card)]) == status
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return priced


def total(quotes: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(quote["cost_usd"]) for quote in quotes), Decimal(0))


def test_an_hour_of_relative_times(price: Any) -> None:
    quotes = price(
        "mooncake-conversation/*.jsonl",
        time_format="ms",
        time_base="2026-01-15",
        map=["occurred_at=timestamp", "input_tokens=input_length", "output_tokens=output_length"],
        set=ACME,
    )
    assert len(quotes) == len({quote["event_id"] for quote in quotes}) == 12_031
    assert total(quotes) == Decimal("496.212189")


def test_agents_sessions_with_subagents_whose_times_count_from_theirs(price: Any) -> None:
    """The calls of the sessions and those of their subagents: list prices, 50 calls beyond 200,000 tokens of input."""
    shared = {
        "time_format": "s",
        "time_base": "2026-01-15",
        "set": ("service=trace", "provider=anthropic"),
    }
    counts = ["input_tokens=in", "output_tokens=out", "model_served=model"]
    own = price(
        "claude-code-traces/*.json",
        each="requests",
        skip="type=subagent",
        map=[*counts, "occurred_at=t", "conversation_id=^id"],
        **shared,
    )
    inner = price(
        "claude-code-traces/*.json",
        each="requests.requests",
        map=[*counts, "occurred_at=t+^t", "conversation_id=^^id"],
        **shared,
    )
    assert (len(own), len(inner)) == (1_289 - 104, 104)
    assert total(own) + total(inner) == Decimal("673.601528")
    assert len({quote["event_id"] for quote in (*own, *inner)}) == 1_289
    call = inner[0]
    session = json.loads(Path(call["file"]).read_text())
    at, nested = (int(part.split("]")[0]) for part in call["place"].split("[")[1:])
    assert session["requests"][at]["requests"][nested]["model"] == call["model"]


def test_a_month_of_an_organisations_usage(price: Any) -> None:
    quotes = price(
        "openai-usage-api/usage-completions.json",
        each="results",
        time_format="epoch-s",
        map=[
            "occurred_at=^start_time",
            "input_tokens=input_tokens-input_cached_tokens-input_audio_tokens",
            "cache_read_tokens=input_cached_tokens",
            "output_tokens=output_tokens",
        ],
        set=(*ACME, "output_audio_tokens=0"),
    )
    assert len(quotes) == 26
    usd = {bucket: Decimal(0) for bucket in ("input", "cache_read", "input_audio", "output")}
    for quote in quotes:
        for bucket, cost in quote["cost_usd_by_bucket"].items():
            usd[bucket] += Decimal(cost)
    per_token = Decimal("1e-6")
    assert usd == {
        "input": (16_951_009 - 168_128 - 49_963) * 3 * per_token,
        "cache_read": 168_128 * Decimal("0.3") * per_token,
        "input_audio": 49_963 * 3 * per_token,
        "output": 729_421 * 15 * per_token,
    }


def test_a_difference_that_would_be_negative_is_one_error_and_the_other_rows_are_read(
    price: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of start 1737676800: 822 output tokens, 3,103 of them audio."""
    quotes = price(
        "openai-usage-api/usage-completions.json",
        status=1,
        each="results",
        time_format="epoch-s",
        map=["occurred_at=^start_time", "output_tokens=output_tokens-output_audio_tokens"],
        set=(*ACME, "input_tokens=0", "input_audio_tokens=0"),
    )
    assert len(quotes) == 25


def test_tasks_by_their_names_with_costs_in_floats(price: Any, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(map(str, DATA.glob("openhands-index/*/instance_results/*.json")))
    if not files:
        pytest.skip("no openhands-index")
    given = options(
        each="*",
        map=["task_id=@key", "provider_cost=cost", "model_requested=@file"],
        value=[f"model_requested:*/{name}/*={name}" for name in ("claude-sonnet-4-5", "GPT-5.2")],
        set=["service=bench", "provider=openhands", "input_tokens=0", "occurred_at=2026-02-01T00:00Z"],
    )
    assert run(["publish", "--dry-run", "--json", *files, *given]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["valid"], summary["invalid"]) == (9_691, 0)


def test_the_leaderboards_totals_of_whole_runs(price: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Five runs at the prices of their day, through names that no provider uses. Rows without tokens are refused."""
    named = {
        "o3-pro (high)": ("openai", "o3-pro"),
        "claude-opus-4-20250514 (no think)": ("anthropic", "claude-opus-4-20250514"),
        "claude-opus-4-20250514 (32k thinking)": ("anthropic", "claude-opus-4-20250514"),
        "grok-4 (high)": ("x-ai", "grok-4"),
        "gemini-2.5-flash-preview-05-20 (no think)": ("google", "gemini-2.5-flash-preview-05-20"),
    }
    quotes = price(
        "aider-polyglot/*.csv",
        status=1,
        time_format="%Y-%m-%d",
        map=[
            "occurred_at=date",
            "input_tokens=prompt_tokens",
            "output_tokens=completion_tokens",
            "provider_cost=total_cost",
            "model_served=model",
            "provider=model",
            "span_id=@line",
        ],
        value=[
            *(f"model_served:{title}={model}" for title, (_, model) in named.items()),
            *(f"provider:{title}={provider}" for title, (provider, _) in named.items()),
        ],
        set="service=bench",
    )
    assert len(quotes) == 23
    rows = (DATA / "aider-polyglot/polyglot_leaderboard.csv").read_text().splitlines()
    priced = {quote["line"]: quote["cost_usd"] for quote in quotes}
    for title in named:
        (line,) = (number for number in priced if f",{title}," in rows[number - 1])
        assert f",{Decimal(priced[line]):.4f}," in rows[line - 1]
