"""Aider's polyglot leaderboard: runs of 225 exercises, priced from their tokens, come to the total reported then.

The rows are those of which the data's README says that tokens and prices give the total. The other rows saw caches, two
models, or thinking that cost more; their tokens don't tell.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from spendstream.core.pricing import PriceBook
from spendstream.schemas.measures import ESTIMATED
from tests.doc_blocks import ROOT
from tests.unit.pricing.conftest import call, frame

FILE = Path(ROOT / "../shared/data/aider-polyglot/polyglot_leaderboard.csv").resolve()

EXERCISES = 225


@dataclass(frozen=True)
class Run:
    """A row of the leaderboard, under our names."""

    dirname: str
    provider: str
    model: str
    off_by: str = "0.00005"
    """The total is rounded to four decimals; of two rows the README says "within $0.0001"."""


RUNS = (
    Run("2025-05-25-19-57-20--opus4-diff-exuser", "anthropic", "claude-opus-4-20250514"),
    Run("2025-05-25-20-40-51--opus4-diff-exuser", "anthropic", "claude-opus-4-20250514"),
    Run("2025-05-26-15-56-31--flash25-05-20-24k-think", "gemini", "gemini-2.5-flash-preview-05-20"),
    Run("2025-06-06-16-36-21--gemini0605-32k-think-diff-fenced", "gemini", "gemini-2.5-pro-preview-06-05"),
    Run("2025-06-28-00-38-18--o3-pro-high", "openai", "o3-pro"),
    Run("2025-07-11-19-37-40--xai-or-grok4-high", "openrouter", "x-ai/grok-4"),
    Run("2025-07-17-17-41-54--kimi-k2-diff-or-pricing", "openrouter", "moonshotai/kimi-k2"),
    Run("2025-08-06-04-54-48--gpt-oss-120b-high-polyglot", "openrouter", "openai/gpt-oss-120b"),
    Run("2025-10-03-09-45-34--deepseek-v3.2-reasoner", "deepseek", "deepseek-reasoner", "0.0001"),
    Run("2025-10-03-09-21-36--deepseek-v3.2-chat", "deepseek", "deepseek-chat"),
)


def rows() -> dict[str, dict[str, str]]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return {row["dirname"]: row for row in csv.DictReader(file)}


@pytest.mark.skipif(not FILE.exists(), reason="the leaderboard is kept beside the project")
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.dirname)
def test_a_run_costs_what_was_reported_on_its_day(run: Run, public_book: PriceBook) -> None:
    """Call by call, one for each exercise: summed, a run of Gemini 2.5 Pro would cross its 200,000-token step."""
    row = rows()[run.dirname]
    at = datetime.fromisoformat(row["date"]).replace(hour=12, tzinfo=UTC)
    calls = [
        call(run.model, provider=run.provider, at=at, input=share, output=written)
        for share, written in zip(shares(row["prompt_tokens"]), shares(row["completion_tokens"]), strict=True)
    ]
    priced = public_book.price(frame(*calls))
    assert priced.priced.all()
    total = Decimal(sum(priced.total_pusd.tolist())) / 10**12
    assert abs(total - Decimal(row["total_cost"])) <= Decimal(run.off_by), (total, row["total_cost"])
    assert not (priced.quality == ESTIMATED).any(), priced.note_texts


def shares(tokens: str) -> list[int]:
    """Return how many tokens each exercise took, if all took the same."""
    each, rest = divmod(int(tokens), EXERCISES)
    return [each + (index < rest) for index in range(EXERCISES)]
