"""Two hours of real production calls, imported by the command line, come to the dollar amounts known beforehand."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.crash.cli import json_lines, run_cli
from tests.crash.world import World

TRACES = Path(__file__).resolve().parents[3] / "shared" / "data" / "azure-llm-2023"

pytestmark = [
    pytest.mark.broker,
    pytest.mark.clickhouse,
    pytest.mark.crash,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not TRACES.is_dir(), reason="the Azure LLM traces are not beside the repository"),
]

CARD = """
cards:
  - provider: azure
    model: trace
    kind: custom
    rates: [{from: 2020-01-01, source: the trace's README, usd_per_mtok: {input: 3, output: 15}}]
"""
EXPECTED = {
    "code": {"calls": 8_819, "input": 18_059_974, "output": 245_896, "usd": Decimal("57.868362")},
    "conv": {"calls": 19_366, "input": 22_361_870, "output": 4_088_665, "usd": Decimal("128.415585")},
}
ROLLUPS = (
    "SELECT service, toInt64(sum(calls)) AS calls, toInt64(sum(input_tokens)) AS input,"
    " toInt64(sum(output_tokens)) AS output, sum(cost_usd) AS usd FROM spend_1m GROUP BY service ORDER BY service"
)
LEDGER = ROLLUPS.replace("sum(calls)", "count()").replace("spend_1m", "calls_v")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    cards = tmp_path / "azure.yaml"
    cards.write_text(CARD)
    with World(tmp_path / "world", RATE_CARDS=str(cards)) as running:
        running.keep_running(1)
        yield running


def publish(world: World, trace: str) -> None:
    mapping = {"occurred_at": "TIMESTAMP", "input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"}
    fixed = {"service": trace, "provider": "azure", "model_served": "trace"}
    options = [part for pair in mapping.items() for part in ("--map", "=".join(pair))]
    options += [part for pair in fixed.items() for part in ("--set", "=".join(pair))]
    done = run_cli("publish", str(TRACES / f"{trace}.csv"), *options, "--json", env=world.environment)
    (summary,) = json_lines(done)
    assert (summary["published"], summary["invalid"]) == (EXPECTED[trace]["calls"], 0)


def drain(world: World) -> None:
    (drained,) = json_lines(run_cli("drain", "--timeout", "90", "--json", env=world.environment))
    assert drained["ok"] is True


def spend(world: World, sql: str) -> dict[str, dict[str, object]]:
    rows = json_lines(run_cli("query", sql, "--json", env=world.environment))
    return {row.pop("service"): {**row, "usd": Decimal(row["usd"])} for row in rows}


def test_both_traces_come_to_the_known_amounts_from_ledger_and_rollups_and_again_when_republished(
    world: World,
) -> None:
    for trace in EXPECTED:
        publish(world, trace)
    drain(world)
    assert spend(world, ROLLUPS) == EXPECTED
    assert spend(world, LEDGER) == EXPECTED

    publish(world, "code")
    drain(world)
    assert spend(world, ROLLUPS) == EXPECTED
    assert spend(world, LEDGER) == EXPECTED
    (reconciled,) = json_lines(run_cli("reconcile", "--json", env=world.environment))[-1:]
    assert reconciled["ok"] is True
    assert world.query("SELECT count() FROM spendstream.dead_letters_v") == [(0,)]
